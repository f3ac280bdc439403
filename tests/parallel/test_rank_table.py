"""Rank tables: written in the model zoo's form, and refused with the reason when they are wrong."""

import functools
import json
from pathlib import Path

import pytest

from twinseg.common import cli
from twinseg.common.errors import UserError
from twinseg.common.parallel import rank_table

HOSTS = {'10.0.0.1': [(0, '192.168.100.101'), (1, '192.168.101.101')], '10.0.0.2': [(4, '192.168.100.102')]}


def table(tmp_path):
    return json.loads(rank_table.write(tmp_path, HOSTS).read_text())


def test_a_table_is_written_and_read(tmp_path):
    path = rank_table.write(tmp_path, HOSTS)
    assert path.name == 'hccl_3p_01_10.0.0.1.json'
    assert rank_table.read(path) == [[0, 1], [4]]
    first = json.loads(path.read_text())['server_list'][0]
    assert first == {
        'server_id': '10.0.0.1',
        'host_nic_ip': 'reserve',
        'device': [
            {'device_id': '0', 'device_ip': '192.168.100.101', 'rank_id': '0'},
            {'device_id': '1', 'device_ip': '192.168.101.101', 'rank_id': '1'},
        ],
    }


@pytest.mark.parametrize(
    'place, value, message',
    [
        (['status'], 'initializing', "status: found 'initializing', expected 'completed'"),
        (['server_count'], '1', "server_count: found '1', expected '2'"),
        (['server_list'], [], 'a server_list that is not empty'),
        (['server_list', 1, 'device'], [], r'server_list\[1\]: device'),
        (['server_list', 1, 'server_id'], '10.0.0.1', '10.0.0.1 is twice'),
        (['server_list', 0, 'server_id'], 'host', "server_id: found 'host', expected an IP address"),
        (['server_list', 0, 'device', 1, 'device_id'], 1, 'device_id: found 1, expected a number as text'),
        (['server_list', 0, 'device', 1, 'device_id'], '0', "device_id: found '0'"),
        (['server_list', 0, 'device', 1, 'device_id'], '9' * 5000, "device_id: found '9{40,50} [.]{3} 9{20,30}', expected"),
        (['server_list', 0, 'device', 1, 'device_id'], '٣', "device_id: found '٣', expected"),
        (['server_list', 0, 'device', 1, 'device_id'], [[[]]] * 999, r'device_id: found \[\[\[\]\].{,80}, expected'),
        (['server_list', 0, 'device', 1, 'rank_id'], 10**4000, "rank_id: found 'a number of 13288 bits', expected"),
        (['status'], {'x' * 5000: 1}, 'status: found .{,90}, expected'),
        (['status'], functools.reduce(lambda inner, _: [inner], range(500), 1), 'status: found .{,90}, expected'),
        (['server_list', 1, 'device', 0, 'device_ip'], '192.168.101.101', '192.168.101.101 is twice'),
        (['server_list', 1, 'device', 0, 'rank_id'], '0', "rank_id: found '0', expected '2'"),
    ],
)
def test_a_wrong_table_is_refused(tmp_path, place, value, message):
    found = table(tmp_path)
    inner = found
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    path = tmp_path / 'wrong.json'
    path.write_text(json.dumps(found))
    with pytest.raises(UserError, match=message):
        rank_table.read(path)


@pytest.mark.parametrize(
    'text',
    ['', '[]', '{', 'null', '{"server_list": 3}', '[' * 100000, '9' * 5000, '\xff', ' ' * (1 << 22) + '{}'],
    ids=range(9),
)
def test_what_is_no_table(tmp_path, text):
    (tmp_path / 'none.json').write_text(text, encoding='latin-1')
    with pytest.raises(UserError, match='none.json'):
        rank_table.read(tmp_path / 'none.json')


def test_the_command_writes_and_checks(tmp_path, capsys):
    assert cli.main(['ranks', '10.0.0.1:0=192.168.100.101,1=192.168.101.101', '--out', str(tmp_path)]) == 0
    path = capsys.readouterr().out.strip()
    assert cli.main(['ranks', path]) == 0
    assert capsys.readouterr().out == '0,1\n'
    assert cli.main(['ranks', '10.0.0.1:0', '--out', str(tmp_path)]) == 2
    assert cli.main(['ranks', str(tmp_path / 'absent.json')]) == 2


def test_a_byte_order_mark_is_passed_over(tmp_path):
    path = rank_table.write(tmp_path, {'10.0.0.1': [(0, '192.168.100.101')]})
    path.write_bytes(b'\xef\xbb\xbf' + path.read_bytes())
    assert rank_table.read(path) == [[0]]


def test_a_device_without_end_is_no_table():
    with pytest.raises(UserError, match='/dev/zero: not a rank table: more than 4194304 bytes'):
        rank_table.read(Path('/dev/zero'))
