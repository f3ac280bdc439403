"""Rank tables: the JSON file that tells Ascend devices of one or several hosts who they are (``hccl_8p_...json``).

{"version": "1.0", "server_count": "1", "server_list": [{"server_id": HOST IP, "device": [{"device_id": "0", "device_ip": IP,
"rank_id": "0"}, ...], "host_nic_ip": "reserve"}], "status": "completed"}: every scalar is a string.
"""

import ipaddress
import json
import re
from pathlib import Path
from typing import Any, Mapping, Sequence

from twinseg.common.errors import UserError, reason_of
from twinseg.common.files import read_bounded, write_text
from twinseg.common.settings.messages import shown

MAX_BYTES = 1 << 22  # bytes of a table: 20,000 devices have less
NUMBER = re.compile('[0-9]{1,4}')  # a device on its host


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
        table = json.loads(read_bounded(path, MAX_BYTES).decode())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f'{path}: not a rank table: {reason_of(error)}') from None
    validate(table, str(path))
    return [[int(device['device_id']) for device in server['device']] for server in table['server_list']]


def validate(table: Any, where: str) -> None:
    """UserError naming what is wrong with a table, and where."""
    if not isinstance(table, dict) or not isinstance(table.get('server_list'), list) or not table['server_list']:
        raise UserError(f'{where}: expected an object with a server_list that is not empty')
    servers = table['server_list']
    for key, expected in (('version', '1.0'), ('status', 'completed'), ('server_count', str(len(servers)))):
        if table.get(key) != expected:
            raise UserError(f'{where}: {key}: found {shown(table.get(key))}, expected {expected!r}')
    rank = 0
    hosts: set[str] = set()
    addresses: set[str] = set()
    for position, server in enumerate(servers):
        name = f'{where}: server_list[{position}]'
        devices = server.get('device') if isinstance(server, dict) else None
        if not isinstance(devices, list) or not devices:
            raise UserError(f'{name}: device: expected a list that is not empty')
        _unique(server.get('server_id'), hosts, f'{name}.server_id')
        numbers: set[str] = set()
        for index, device in enumerate(devices):
            spot = f'{name}.device[{index}]'
            if not isinstance(device, dict):
                raise UserError(f'{spot}: found {shown(device)}, expected an object')
            number = device.get('device_id')
            if not isinstance(number, str) or not NUMBER.fullmatch(number) or number in numbers:
                raise UserError(f'{spot}: device_id: found {shown(number)}, expected a number as text, each once on a host')
            numbers.add(number)
            _unique(device.get('device_ip'), addresses, f'{spot}.device_ip')
            if device.get('rank_id') != str(rank):
                raise UserError(
                    f'{spot}: rank_id: found {shown(device.get("rank_id"))}, expected {str(rank)!r}: ranks count '
                    'up from 0 in the order of the hosts and their devices'
                )
            rank += 1


def _unique(address: Any, seen: set[str], where: str) -> None:
    try:
        ipaddress.ip_address(address if isinstance(address, str) else '')
    except ValueError:
        raise UserError(f'{where}: found {shown(address)}, expected an IP address') from None
    if address in seen:
        raise UserError(f'{where}: {address} is twice in the table')
    seen.add(address)
