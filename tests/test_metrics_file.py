"""metrics.jsonl: what a run writes comes back, a line that was cut off is left out, anything else is named."""

import json

import pytest

from tests.report.test_report import fake_run
from twinseg.common import metrics_file
from twinseg.common.cli import main
from twinseg.common.errors import UserError
from twinseg.common.report.page import write_report
from twinseg.common.report.records import read_run
from twinseg.common.training.log import Log

STEP = {'kind': 'train', 'step': 1, 'epoch': 0.1, 'loss': 1.5, 'lr': 0.1, 'img_per_s': 9.0, 'overflows': 0, 'elapsed': 2.0}
SCORES = {'mIoU': 50.0, 'mAcc': None, 'aAcc': 70, 'classes': {'a': {'IoU': 50.0}, 'b': {'IoU': None}}}
EVALUATION = {'kind': 'eval', 'step': 1, **SCORES, 'confusion': [[1, 2], [3, 4]]}
FIGURES = ('mIoU', 'mAcc', 'aAcc')


def write(folder, *lines) -> metrics_file.Path:
    path = folder / metrics_file.NAME
    path.write_bytes(b''.join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b'\n' for line in lines))
    return path


def test_lines_of_a_run_come_back(tmp_path):
    lines = [STEP, {**STEP, 'step': 2, 'loss': None, 'loss_aux': 1}, EVALUATION]
    found = metrics_file.read(write(tmp_path, *lines, b''), FIGURES, 'IoU')
    assert found == (lines[:2], lines[2:], lines)


@pytest.mark.parametrize('end', [b'{"kind": "train", "st', b'{"kind": "train", "step": 2, "lr":\0\0\0', b'\xff\xfe'])
def test_a_line_cut_off_by_a_kill_is_left_out(tmp_path, end):
    path = write(tmp_path, STEP)
    path.write_bytes(path.read_bytes() + end)
    assert metrics_file.read(path).all == [STEP]


BAD = {  # line, what is said of it
    'a number': (b'5', 'line 2: expected a table of keys and values, found 5; not a line of a run'),
    'a list': (b'[]', 'line 2: expected a table of keys and values, found []'),
    'deep': (b'[' * 100_000, 'not readable as JSON: begins with'),
    'a long number': (b'{"kind": "train", "step": ' + b'9' * 5000 + b'}', 'not readable as JSON: begins with'),
    'no UTF-8': (b'\xff\xfe', 'not readable as JSON: begins with'),
    'no kind': ({'step': 1}, 'line 2: kind: is missing; expected one of train, eval'),
    'another kind': ({**STEP, 'kind': 'x'}, "kind: expected one of train, eval, found 'x'"),
    'no step': ({key: value for key, value in STEP.items() if key != 'step'}, 'step: is missing; expected a whole number'),
    'a step in words': ({**STEP, 'step': 'one'}, "step: expected a whole number of 0 or more, found 'one'"),
    'a huge step': ({**STEP, 'step': 1 << 60}, 'step: expected a whole number from 0 to 9007199254740991, found 115'),
    'a rate in words': ({**STEP, 'img_per_s': 'fast'}, "img_per_s: expected a number from -1e+40 to 1e+40, found 'fast'"),
    'NaN': ({**STEP, 'loss': float('nan')}, 'loss: expected a number from -1e+40 to 1e+40, found nan'),
    'infinite': ({**STEP, 'lr': float('inf')}, 'lr: expected a number from -1e+40 to 1e+40, found inf'),
    'beyond any float32': ({**STEP, 'loss': 1e300}, 'loss: expected a number from -1e+40 to 1e+40, found 1e+300'),
    'classes as a list': ({**EVALUATION, 'classes': ['a', 'b']}, 'classes: expected a table of scores by class, found ['),
    'a score in words': ({**EVALUATION, 'classes': {'a': {'IoU': 'x'}, 'b': {}}}, "scores by class, found 'x' for 'a'"),
    'a matrix that is not square': ({**EVALUATION, 'confusion': [[1, 2], [3]]}, 'confusion: not of 2 rows and columns'),
    'a small matrix': ({**EVALUATION, 'confusion': [[1]]}, 'confusion: not of 2 rows and columns'),
    'no mIoU': ({key: value for key, value in EVALUATION.items() if key != 'mIoU'}, 'without mIoU'),
    'a mIoU as text': ({**EVALUATION, 'mIoU': '71'}, "mIoU: expected a number or null, found '71'"),
    'a mIoU in words': ({**EVALUATION, 'mIoU': 'good'}, "mIoU: expected a number or null, found 'good'"),
    'no IoU of a class': ({**EVALUATION, 'classes': {'a': {'IoU': 1.0}, 'b': {}}}, 'without IoU of b'),
}  # fmt: skip


@pytest.mark.parametrize('case', BAD)
def test_what_no_run_writes_is_named(tmp_path, case):
    line, message = BAD[case]
    path = write(tmp_path, STEP, line, STEP)
    with pytest.raises(UserError, match='metrics.jsonl: line 2: ') as error:
        metrics_file.read(path, FIGURES, 'IoU')
    assert message in str(error.value) and len(str(error.value)) < 400 + len(str(path))


@pytest.mark.parametrize('case', ['a number', 'deep', 'a long number', 'no UTF-8', 'no mIoU'])
def test_report_results_and_resume_end_in_one_line(tmp_path, case, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(fake_run(tmp_path / 'run'), BAD[case][0], STEP)
    for words in (['report', 'run'], ['results', 'run']):
        assert main(words) == 2
        assert 'metrics.jsonl: line 1: ' in capsys.readouterr().err
    if case != 'no mIoU':  # what a resume writes again
        with pytest.raises(UserError, match='metrics.jsonl: line 1: '):
            Log(tmp_path / 'run', 1, resumed=True)


def test_a_missing_file_and_other_json_beside_the_run(tmp_path):
    with pytest.raises(UserError, match='metrics.jsonl: not read: '):
        metrics_file.read(tmp_path / metrics_file.NAME)
    run = fake_run(tmp_path / 'run')
    (run / 'parity.json').write_text('[' * 5000)
    (run / 'export.json').write_text('{"a": ' + '9' * 5000 + '}')
    assert 'not readable' in write_report([run], tmp_path / 'page.html', pictures=0).read_text()
    assert read_run(run).best['step'] == 40
    write(run, {'kind': 'train', 'step': 3})
    assert '3 steps · 0 steps skipped' in write_report([run], tmp_path / 'page.html', pictures=0).read_text()
