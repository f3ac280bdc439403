"""Sizes of the networks are those in print; figures of speed are there, whatever they are."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ranks
from tests.support.streets import settings
from twinseg.common import config, console
from twinseg.common.backend import get_backend
from twinseg.common.errors import UserError
from twinseg.common.measure import benchmark as measuring
from twinseg.common.measure.benchmark import benchmark

# Without auxiliary heads, 19 classes: parameters in millions; multiply-accumulates at 512 x 1024 in 10^9.
SIZES = {'fast_scnn': (1.3999, 1.812), 'stdc1_seg': (8.2751, 16.863), 'stdc2_seg': (12.3056, 23.457)}
INPUT, SMALL = (512, 1024), (64, 96)
TIMES = ('p10', 'median', 'p90', 'first')


def size(backend, arch: str, input_size: tuple[int, int]) -> tuple[int, int]:
    """Parameters and multiply-accumulates without auxiliary heads."""
    network = backend.build_model(arch, num_classes=19, auxiliary=False)
    return backend.parameters(network), backend.macs(network, input_size)


@pytest.mark.parametrize('arch', SIZES)
def test_parameters_and_macs_are_those_in_print(arch):
    pytest.importorskip('torch')
    backend = get_backend('pytorch')
    backend.setup('cpu', threads=1)
    parameters, macs = size(backend, arch, INPUT)
    assert (round(parameters / 1e6, 4), round(macs / 1e9, 3)) == SIZES[arch]


@pytest.mark.parametrize('arch', SIZES)
def test_the_twins_have_one_size(arch):
    pytest.importorskip('torch'), pytest.importorskip('mindspore')
    sizes = []
    for name in ('pytorch', 'mindspore'):
        backend = get_backend(name)
        backend.setup('cpu', threads=1)
        sizes.append(size(backend, arch, SMALL))
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize('train', [False, True], ids=['inference', 'training'])
def test_figures_are_there(train, backend_name, tmp_path, capsys):
    chosen = config.from_flat(settings(tmp_path, num_classes=19), 'test')
    found = benchmark(chosen, backend_name, 'cpu', size=SMALL, batch=2, runs=3, train=train).to_json()
    assert found['arch'] == 'fast_scnn' and found['input_size'] == list(SMALL) and found['device'] == 'cpu'
    assert found['parameters'] > found['parameters_inference'] == 1399939
    assert found['macs'] > 1e6 and found['machine']['cpu'] and found['machine']['cores'] > 0
    assert (found['amp_level'], found['dtype']) == ('O0', 'float32') and found['versions']
    assert ('training' in found) == train
    for name, batch in {'inference': 2, **({'training': chosen.data.batch_size} if train else {})}.items():
        figures = found[name]
        assert (figures['batch'], figures['runs']) == (batch, 3)
        assert 0 < figures['p10'] <= figures['median'] <= figures['p90'] and figures['first'] > 0
        assert figures['images_per_second'] == pytest.approx(batch / figures['median']) and figures['memory'] > 10
    console.show_benchmark(found)
    shown = ' '.join(capsys.readouterr().out.split())
    assert 'G MACs' in shown and ('training step' in shown) == train


class Queue:
    """A device that is given work of 50 ms a run and does it when it is waited for, and the clock of that world."""

    def __init__(self):
        self.now, self.given, self.runs = 0.0, 0.0, 0

    def run(self):
        self.now, self.given, self.runs = self.now + 0.001, self.given + 0.05, self.runs + 1

    def synchronise(self):
        self.now, self.given = self.now + self.given, 0.0

    def reset_device_memory(self):
        self.runs = 0

    def device_memory(self):
        return 7.0


def test_a_device_that_runs_ahead_is_waited_for(monkeypatch):
    queue = Queue()
    queue.run()  # what was given before counts in no run
    monkeypatch.setattr(measuring.time, 'perf_counter', lambda: queue.now)
    figures = measuring.timing(queue, queue.run, 1, 4)._asdict()
    assert queue.runs == measuring.WARM_UP + 4 and figures['device_memory'] == 7.0
    assert [figures[name] for name in TIMES] == pytest.approx([0.051] * 4)


@pytest.mark.parametrize('wrong', [{'runs': 0}, {'batch': 0}])
def test_nothing_cannot_be_measured(wrong, tmp_path):
    with pytest.raises(UserError, match='at least 1'):
        benchmark(config.from_flat(settings(tmp_path), 'test'), 'pytorch', 'cpu', **wrong)


def test_processes_on_a_device_that_is_absent(tmp_path):
    """The device reaches the processes, which need no core each then."""
    if 'ascend' in get_backend('pytorch').devices():
        pytest.skip('there is an Ascend here')
    script = Path(__file__).parents[2] / 'scripts' / 'benchmark_distributed.py'
    words = [sys.executable, str(script), 'fast_scnn_toy_street', '--device', 'ascend', '--processes', '1']
    done = subprocess.run(words, cwd=tmp_path, env=ranks.environment(), capture_output=True, text=True)
    assert done.returncode == 1 and 'device ascend: PyTorch' in done.stderr


@pytest.mark.slow
def test_figures_of_several_processes(backend_name, tmp_path):
    script = Path(__file__).parents[2] / 'scripts' / 'benchmark_distributed.py'
    done = subprocess.run(
        [
            sys.executable,
            str(script),
            'fast_scnn_toy_street',
            '--backend',
            backend_name,
            '--size',
            '32',
            '64',
            '--batch',
            '2',
            '--steps',
            '1',
            '--json',
            str(tmp_path / 'figures.json'),
        ],
        cwd=tmp_path,
        env=ranks.environment(),
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    assert '1 process: ' in done.stdout and '2 processes: ' in done.stdout
    one, two = json.loads((tmp_path / 'figures.json').read_text())
    assert (one['processes'], two['processes'], one['all_reduce_ms']) == (1, 2, 0.0)
    assert min(one['img_per_s'], two['img_per_s'], two['all_reduce_ms']) > 0 and one['parameters'] == two['parameters']
