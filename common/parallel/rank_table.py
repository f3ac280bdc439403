"""Rank tables: the JSON file that tells Ascend devices of one or several hosts who they are (``hccl_8p_...json``).

{"version": "1.0", "server_count": "1", "server_list": [{"server_id": HOST IP, "device": [{"device_id": "0", "device_ip": IP,
"rank_id": "0"}, ...], "host_nic_ip": "reserve"}], "status": "completed"}: every scalar is a string.
"""

import ipaddress
import json
from pathlib import Path
from typing import Annotated, Any, Literal, Mapping, Sequence

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from twinseg.common.errors import UserError, reason_of
from twinseg.common.files import read_bounded, write_text
from twinseg.common.settings.messages import shown

MAX_BYTES = 1 << 22  # bytes of a table: 20,000 devices have less
EXPECTED = {  # what each key holds, as it follows "expected"
    'version': "'1.0'",
    'status': "'completed'",
    'server_count': 'the number of servers as text',
    'server_list': 'a server_list that is not empty',
    'device': 'a list of objects that is not empty',
    'device_id': 'a number as text, each once on a host',
    'rank_id': 'ranks count up from 0 in the order of the hosts and their devices',
    **dict.fromkeys(('server_id', 'device_ip'), 'an IP address'),
}
Spot = tuple[int | str, ...]  # keys and positions that lead to a value


def _is_address(text: str) -> str:
    ipaddress.ip_address(text)
    return text


Address = Annotated[str, AfterValidator(_is_address)]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)


class Device(_Part):
    """A device: its number on its host, its address, and its rank among all."""

    device_id: Annotated[str, Field(pattern='^[0-9]{1,4}$')]
    device_ip: Address
    rank_id: str


class Server(_Part):
    """A host: its address, and its devices."""

    server_id: Address
    device: Annotated[list[Device], Field(min_length=1)]


class Table(_Part):
    """A rank table that is complete."""

    version: Literal['1.0']
    status: Literal['completed']
    server_count: str
    server_list: Annotated[list[Server], Field(min_length=1)]


def write(folder: Path, hosts: Mapping[str, Sequence[tuple[int, str]]]) -> Path:
    """Writes the table of ``hosts`` (address -> number and address of each device, ranks in that order) and returns its path,
    which the model zoo's tool would choose too. UserError for what ``validate`` refuses."""
    rank, servers = 0, []
    for host, devices in hosts.items():
        entries = []
        for number, address in devices:
            entries.append({'device_id': str(number), 'device_ip': address, 'rank_id': str(rank)})
            rank += 1
        servers.append({'server_id': host, 'device': entries, 'host_nic_ip': 'reserve'})
    table = {'version': '1.0', 'server_count': str(len(servers)), 'server_list': servers, 'status': 'completed'}
    ids = ''.join(str(number) for number, _ in next(iter(hosts.values()), ()))
    path = folder / f'hccl_{rank}p_{ids}_{next(iter(hosts), "")}.json'
    validate(table, str(path))
    write_text(path, json.dumps(table, indent=4) + '\n')
    return path


def parse_host(text: str) -> tuple[str, list[tuple[int, str]]]:
    """``HOST:NUMBER=ADDRESS,NUMBER=ADDRESS,...`` -> the host's address and its devices."""
    host, colon, rest = text.rpartition(':')
    try:
        devices = [(int(number), address) for number, address in (part.split('=') for part in rest.split(','))]
    except ValueError:
        devices = []
    if not colon or not devices:
        raise UserError(
            f'host {text!r}: expected ADDRESS:DEVICE=ADDRESS,..., such as 10.0.0.1:0=192.168.100.101,1=192.168.101.101'
        )
    return host, devices


def read(path: Path) -> list[list[int]]:
    """The numbers of the devices of every host; UserError when the table cannot be used."""
    try:
        content = json.loads(read_bounded(path, MAX_BYTES).decode('utf-8-sig'))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f'{path}: not a rank table: {reason_of(error)}') from None
    table = validate(content, str(path))
    return [[int(device.device_id) for device in server.device] for server in table.server_list]


def validate(content: Any, where: str) -> Table:
    """The table; UserError naming what is wrong with it, and where."""
    try:
        table = Table.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = next((part for part in reversed(first['loc']) if isinstance(part, str)), 'server_list')
        raise _wrong(where, first['loc'], None if first['type'] == 'missing' else first['input'], EXPECTED[key]) from None
    if table.server_count != str(len(table.server_list)):
        raise _wrong(where, ('server_count',), table.server_count, repr(str(len(table.server_list))))
    hosts: set[str] = set()
    addresses: set[str] = set()
    rank = 0
    for position, server in enumerate(table.server_list):
        _add(server.server_id, hosts, where, ('server_list', position, 'server_id'))
        numbers: set[str] = set()
        for index, device in enumerate(server.device):
            spot = ('server_list', position, 'device', index)
            if device.device_id in numbers:
                raise _wrong(where, (*spot, 'device_id'), device.device_id, EXPECTED['device_id'])
            numbers.add(device.device_id)
            _add(device.device_ip, addresses, where, (*spot, 'device_ip'))
            if device.rank_id != str(rank):
                raise _wrong(where, (*spot, 'rank_id'), device.rank_id, f'{str(rank)!r}: {EXPECTED["rank_id"]}')
            rank += 1
    return table


def _add(address: str, seen: set[str], where: str, spot: Spot) -> None:
    if address in seen:
        raise UserError(f'{where}: {_named(spot)}: {address} is twice in the table')
    seen.add(address)


def _wrong(where: str, spot: Spot, value: Any, expected: str) -> UserError:
    return UserError(f'{where}: {_named(spot)}: found {shown(value)}, expected {expected}')


def _named(spot: Spot) -> str:
    """``server_list[1].device[0]: device_id``."""
    *above, last = spot or ('an object with server_list',)
    path = ''.join(f'[{part}]' if isinstance(part, int) else f'.{part}' for part in above).lstrip('.')
    if isinstance(last, int):
        return f'{path}[{last}]'
    return f'{path}: {last}' if path else last
