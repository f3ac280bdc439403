"""The report: one HTML file that needs nothing else, whatever the runs hold."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from twinseg.common import config as configuration
from twinseg.common.checkpoint import RunMeta
from twinseg.common.data.open import open_dataset
from twinseg.common.errors import StateError, UserError
from twinseg.common.inference.runs import Run
from twinseg.common.metrics import Scores
from twinseg.common.report import page as report

CONFIG = configuration.from_flat({'set': 'toy_street', 'val_samples': 3, 'image_size': [64, 128]})
VOID = {'meta', 'br', 'img', 'link'}


class Page(HTMLParser):
    """Counts tags, and checks that each is closed where it was opened."""

    def __init__(self, text: str):
        super().__init__()
        self.count: dict[str, int] = {}
        self.text = ''
        self._open: list[str] = []
        self.feed(text)
        assert not self._open

    def handle_starttag(self, tag, attrs):
        self.count[tag] = self.count.get(tag, 0) + 1
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.count[tag] = self.count.get(tag, 0) + 1

    def handle_data(self, data):
        self.text += data


def fake_run(folder: Path, *, shift: float = 0.0, steps: int = 40, absent: int = 2, classes=None) -> Path:
    """A run folder as training leaves it, without a checkpoint; the class ``absent`` occurs nowhere."""
    folder.mkdir(parents=True)
    (folder / 'config.yaml').write_text(configuration.dump(CONFIG))
    names = classes or open_dataset(CONFIG.data, 'val').description.classes
    rng = np.random.default_rng(0)
    lines = [
        {
            'kind': 'train',
            'step': step,
            'epoch': step / 10,
            'loss': 3 * np.exp(-step / 20) + shift,
            'loss_logits': 1.0,
            'lr': 0.1 * (1 - step / steps) ** 0.9,
            'loss_scale': 1.0,
            'img_per_s': 11.5,
            'data_share': 0.01,
            'overflows': 0,
        }
        for step in range(1, steps + 1)
    ]
    for step in range(10, steps + 1, 10):
        matrix = rng.integers(0, 50, (len(names), len(names))) + np.diag([40 * step] * len(names))
        matrix[absent] = matrix[:, absent] = 0
        lines.append(
            {
                'kind': 'eval',
                'step': step,
                'epoch': step / 10,
                **Scores.from_matrix(matrix, names).to_json(),
                'confusion': matrix.tolist(),
            }
        )
    (folder / 'metrics.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
    return folder


class Guess:
    """A predictor that sees class 0 everywhere."""

    def class_ids(self, images, size=None):
        return np.zeros((len(images), *size), np.uint8)


@pytest.fixture
def networks(monkeypatch):
    palette = open_dataset(CONFIG.data, 'val').description.palette.tolist()
    meta = RunMeta(device='cpu', versions={'torch': '0.0'}, palette=palette)
    backend = SimpleNamespace(name='pytorch')

    def load(folder, device=None):
        return Run(folder, CONFIG, meta, backend, 'cpu', None, Guess())

    monkeypatch.setattr(report, 'load_run', load)
    monkeypatch.setattr(report.sections, 'sizes', lambda folder, config, meta: (1, 2_500_000_000 + len(str(folder))))


def write(tmp_path: Path, *runs: Path, **options) -> tuple[Page, str]:
    text = report.write_report(runs, tmp_path / 'out' / 'report.html', **options).read_text()
    return Page(text), text


def test_two_runs_side_by_side(tmp_path, networks):
    page, text = write(tmp_path, fake_run(tmp_path / 'pytorch'), fake_run(tmp_path / 'mindspore', shift=0.1), pictures=3)
    names = open_dataset(CONFIG.data, 'val').description.classes
    assert page.count['svg'] == 3 + 2 + 1  # the classes of each run; computation against accuracy
    assert (
        page.count['polyline'] == 4 + 2 + 2 + 2 * 8 + 2
    )  # loss with its pale curve, mIoU, learning rate, eight classes, a point each
    assert page.count['img'] == 3 * (2 + 2 * 2)  # image, truth; of both predictions over the image and errors
    assert page.count['article'] == 2
    assert text.count('class="confusion"') == 2
    assert all(name in page.text for name in [*names, 'pytorch', 'mindspore', 'difference', 'n/a', 'torch 0.0'])


SAID = (
    r'pytorch reaches \d+\.\d\d mIoU at step \d+, as mindspore does',
    r'the mean loss of a quarter went from \S+ to \S+\.',
    r'The score rose by \d+\.\d\d points over the last third',
    r'pytorch finds .+ hardest \(\d',
    r'pytorch takes \d+ % of .+ for .+, its most frequent mistake',
    r'Of 3 validation images, those of which the networks see least come first',
    r'networks differ in 0\.00 % of the pixels',
    r'twinseg train \S*config\.yaml',
    r'hours',
)


def test_each_section_has_a_sentence_of_verdict(tmp_path, networks):
    page, text = write(tmp_path, fake_run(tmp_path / 'pytorch'), fake_run(tmp_path / 'mindspore', shift=0.1))
    assert [pattern for pattern in SAID if not re.search(pattern, page.text)] == []
    assert all(f'>{name}</text>' in text for name in ('step', 'loss', 'mIoU, %', 'learning rate'))


def test_three_runs_are_compared_with_the_first(tmp_path, networks):
    runs = [fake_run(tmp_path / name) for name in ('a', 'b', 'c')]
    page, text = write(tmp_path, *runs, pictures=0)
    assert 'b - a' in page.text and 'c - a' in page.text and 'class="s2"' in text


def test_the_worst_images_come_first(tmp_path, networks):
    page, _ = write(tmp_path, fake_run(tmp_path / 'run'), pictures=3)
    scores = [float(score) for score in re.findall(r'run: IoU (\d+\.\d)', page.text)]
    assert len(scores) == 3 and scores == sorted(scores)


def test_speed_stands_against_accuracy_where_it_was_measured(tmp_path, networks):
    folder = fake_run(tmp_path / 'run')
    (folder / 'benchmark.json').write_text(json.dumps({'inference': {'median': 0.0125}}))
    (folder / 'benchmark_bad.json').write_text('[1]')
    page, _ = write(tmp_path, folder, pictures=0)
    assert re.search(r'run is the fastest: 12\.5 ms for \d+\.\d\d mIoU', page.text) and 'G MACs' not in page.text


def test_computation_is_compared_with_accuracy(tmp_path, networks):
    page, _ = write(tmp_path, fake_run(tmp_path / 'small'), fake_run(tmp_path / 'larger'), pictures=0)
    assert re.search(r'small computes least: 2\.50 G MACs an image for \d+\.\d\d mIoU', page.text)


def test_charts_are_written_for_a_paper(tmp_path, networks):
    pytest.importorskip('matplotlib')
    write(tmp_path, fake_run(tmp_path / 'run'), pictures=0, png=tmp_path / 'charts')
    sizes = {path.name: Image.open(path).size for path in (tmp_path / 'charts').iterdir()}
    assert sizes == dict.fromkeys(('loss.png', 'score.png', 'learning_rate.png'), (1500, 960))


def test_nothing_is_loaded_from_elsewhere(tmp_path, networks):
    _, text = write(tmp_path, fake_run(tmp_path / 'run'))
    text = re.sub(r'base64,[A-Za-z0-9+/=]+', '', text)
    assert not re.search(r'https?:|//[a-z]|<script|<link|@import|url\(', text)
    sources = re.findall(r'(?:src|href)="([^"]{0,20})', text)
    assert sources and all(source.startswith('data:image/') for source in sources)


def test_text_is_escaped(tmp_path, networks):
    names = ['<b>road</b>', 'a & "b"', 'nothing', 'x']
    folder = fake_run(tmp_path / '<script>alert(1)<', classes=names)
    (folder / 'export_onnx.json').write_text(json.dumps({'<i>path</i>': ['<u>']}))
    page, text = write(tmp_path, folder, pictures=0)
    assert '<script' not in text and '<b>road' not in text and '<i>path' not in text and '<u>' not in text
    assert '<script>alert(1)<' in page.text and '<b>road</b>' in page.text and 'a & "b"' in page.text


def test_parity_and_exports_are_shown(tmp_path, networks):
    folder = fake_run(tmp_path / 'run')
    (folder / 'export_onnx.json').write_text(json.dumps({'format': 'onnx', 'difference': 3.2e-7, 'passed': True}))
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'parity.json').write_text(
        json.dumps([{'what': 'logits', 'difference': 1.25e-6}, {'what': 'gradients', 'difference': None}])
    )
    (folder / 'export_bad.json').write_text('{')
    page, _ = write(tmp_path, folder)
    shown = ('run: export_onnx', '3.2e-07', 'yes', 'parity', 'logits', '1.25e-06', 'not readable')
    assert all(text in page.text for text in shown)


def test_without_networks_the_page_says_why(tmp_path, monkeypatch):
    def absent(folder, device=None):
        raise StateError('holds no readable checkpoint')

    monkeypatch.setattr(report, 'load_run', absent)
    page, _ = write(tmp_path, fake_run(tmp_path / 'run'))
    assert 'No pictures of run: holds no readable checkpoint' in page.text
    assert 'img' not in page.count


def test_a_run_that_has_only_begun(tmp_path, networks):
    folder = fake_run(tmp_path / 'run')
    (folder / 'metrics.jsonl').write_text('{"kind": "train", "st')  # cut off by a kill
    page, _ = write(tmp_path, folder, pictures=0)
    assert 'not evaluated' in page.text and 'no values' in page.text


def test_a_single_value_and_a_flat_curve_are_drawn(tmp_path, networks):
    page, text = write(tmp_path, fake_run(tmp_path / 'run', steps=10), pictures=0)
    assert page.count['svg'] == 3 and 'Classes over time' not in text and not re.search(r'\bnan\b', text)


def test_runs_of_one_name_are_told_apart(tmp_path, networks):
    page, _ = write(tmp_path, fake_run(tmp_path / 'a' / 'run'), fake_run(tmp_path / 'b' / 'run'), pictures=0)
    assert 'a/run' in page.text and 'b/run' in page.text


@pytest.mark.parametrize('case', ['none', 'no run', 'other classes', 'not writable'])
def test_bad_input_is_refused(tmp_path, networks, case):
    runs, out = [fake_run(tmp_path / 'run')], tmp_path / 'report.html'
    if case == 'none':
        runs = []
    if case == 'no run':
        runs.append(tmp_path)
    if case == 'other classes':
        runs.append(fake_run(tmp_path / 'other', classes=['a', 'b', 'c']))
    if case == 'not writable':
        out = runs[0] / 'config.yaml' / 'report.html'
    with pytest.raises(UserError):
        report.write_report(runs, out)
    assert not out.exists()
