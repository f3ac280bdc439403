"""``scripts/first_light.py``, rehearsed on the CPU: rows, verdicts, files and exit status."""

import json
import sys

import numpy as np
import pytest

pytest.importorskip('torch')
from scripts import first_light
from scripts.device_checks import report, speed

COLUMNS = ['check', 'what', 'value', 'expected', 'verdict']


@pytest.fixture
def rehearse(tmp_path, monkeypatch):
    """Runs the program; gives its exit status, its JSON file and its page."""

    def run(*words: str):
        monkeypatch.setattr(sys, 'argv', ['first_light.py', '--device', 'cpu', '--quick', '--out', str(tmp_path), *words])
        status = first_light.main()
        return status, json.loads((tmp_path / 'first_light.json').read_text()), (tmp_path / 'first_light.md').read_text()

    return run


def rows(written: dict) -> dict[str, dict]:
    return {row['what']: row for row in written['rows']}


def test_a_rehearsal_ends_in_a_table(rehearse, capsys):
    status, written, page = rehearse('--only', 'networks', 'exported', 'overflow', 'waits', 'group_of_one', 'norms', 'losses')
    assert status == 0 and written['machine']['backend'] == 'pytorch'
    assert {row['verdict'] for row in written['rows']} == {'works', 'noted'}
    assert rows(written)['logits, worst of 3']['expected'] == '1e-05'
    assert set(written['details']['networks']) == {'fast_scnn', 'enet', 'ddrnet23_slim'}
    table = [line for line in page.splitlines() if line.startswith('|')]
    assert table[0] == f'| {" | ".join(COLUMNS)} |' and len(table) == 2 + len(written['rows'])
    assert capsys.readouterr().out.splitlines()[-1].startswith('6 works, 0 wrong, 0 slow, 0 fails')


def test_a_device_that_computes_something_else_is_wrong(rehearse, monkeypatch):
    """Every second call of ``forward`` is the device's."""
    backend = report.get_backend('pytorch')
    exact, calls = backend.forward, iter(range(100))

    def off(*arguments, **keywords):
        factor = np.float32(1 + 1e-4 * (next(calls) % 2))
        return {key: value * factor for key, value in exact(*arguments, **keywords).items()}

    monkeypatch.setattr(backend, 'forward', off)
    status, written, _ = rehearse('--only', 'networks')
    assert status == 1
    assert rows(written)['logits, worst of 3']['verdict'] == 'wrong'
    assert rows(written)['gradients from float64, worst of 3']['verdict'] == 'works'


def test_a_check_that_raises_is_a_row_and_the_next_one_begins(rehearse, monkeypatch):

    def broken(bench):
        raise RuntimeError('no kernel image is available\nfor execution')

    broken.__name__ = 'losses'
    monkeypatch.setattr(first_light, 'TIMED', (broken, first_light.group_of_one))
    status, written, page = rehearse('--only', 'losses', 'group_of_one')
    assert status == 1 and rows(written)['the check itself']['value'] == 'RuntimeError: no kernel image is available'
    assert rows(written)['the check itself']['verdict'] == 'fails' and 'collectives' in page


def test_what_begins_too_late_is_not_run(rehearse):
    status, written, _ = rehearse('--minutes', '0', '--only', 'networks', 'steps')
    assert status == 0 and {row['value'] for row in written['rows']} == {'not run: the time was over (--minutes)'}


def test_a_level_that_is_not_quicker_is_slow(rehearse, monkeypatch):
    times = iter([1.0, 0.5, 2.0])
    monkeypatch.setattr(speed, '_timed', lambda *_: (next(times), 0.0))
    bench = report.Bench('pytorch', 'cpu', quick=True, minutes=1)
    bench.device = 'gpu'  # three levels more; the time that they take is made up
    speed.steps(bench)
    verdicts = [row.verdict for row in bench.report.rows]
    assert verdicts == ['noted', 'works', 'slow', 'fails']  # the last has no time


def test_a_device_that_is_absent_is_one_line(rehearse, capsys):
    with pytest.raises(SystemExit) as ended:
        rehearse('--device', 'ascend')
    assert ended.value.code == 2 and '--device ascend: not among cpu' in capsys.readouterr().err


@pytest.mark.slow
def test_a_whole_rehearsal(rehearse):
    status, written, _ = rehearse()
    assert status == 0, written['rows']
    assert {row['check'] for row in written['rows']} == set(first_light.CHECKS) - {'machine'}
    assert rows(written)['exported file against the network']['verdict'] == 'works'
