"""README.md: every command is run here on small data, or names the test that runs it; README_CN.md says the same."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.main import get_command

from tests.golden import golden
from twinseg.common import cli
from twinseg.common.backend import available
from twinseg.common.cli import main
from twinseg.common.data.open import open_dataset

ROOT = Path(__file__).parents[2]
README, CHINESE = ROOT / 'README.md', ROOT / 'README_CN.md'
MOST_WORDS = 1200
PICTURE = 300_000  # bytes at most
BLOCK = re.compile(r'^```(\w+)\n(.*?)^```$', re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r'(?:^|\s+)#.*$', re.MULTILINE)
SIZE = (64, 128)
SMALL = {  # further words that make a command small
    'train': [
        '--device',
        'cpu',
        '--set',
        'batch_size=2',
        'crop_size=[64,128]',
        'max_iters=2',
        'val_interval=2',
        'num_parallel_workers=0',
    ],
    'eval': ['--device', 'cpu'],
    'export': ['--size', '64x128'],
}
ELSEWHERE = {  # the beginning of a command -> the test that runs it, or one like it
    'python3 -m venv': 'cli/test_wheel.py::test_it_works_in_an_empty_folder',
    'pip install': 'cli/test_wheel.py::test_it_works_in_an_empty_folder',
    'bash scripts/run_standalone_train_gpu.sh': 'cli/test_scripts.py::test_training',
    'bash scripts/run_distribute_train_ascend.sh': 'cli/test_scripts.py::test_a_process_for_each_device_of_the_rank_table',
    'bash scripts/run_eval_gpu.sh': 'cli/test_scripts.py::test_evaluation',
    'bash scripts/quickstart.sh': 'docs/test_readme.py::test_the_quickstart',
    'bash scripts/run_infer_310.sh': 'deploy/test_deployment.py::test_the_whole_chain_on_the_host',
    'python export.py': 'cli/test_model_zoo.py::test_the_zoos_commands',
    'twinseg prepare custom': 'docs/test_own_images.py::test_the_five_steps',
    'twinseg browse photos': 'docs/test_own_images.py::test_the_five_steps',
    'twinseg train photos': 'docs/test_own_images.py::test_the_five_steps',
    'twinseg predict --checkpoint runs/photos': 'docs/test_own_images.py::test_the_five_steps',
    'twinseg export --checkpoint runs/photos': 'docs/test_own_images.py::test_the_five_steps',
}
STUB = """#!/usr/bin/env bash
printf '%s\\n' "$*" >> "$STUB_LOG"
"""


def blocks(page: Path, language: str) -> list[str]:
    return [text for kind, text in BLOCK.findall(page.read_text(encoding='utf-8')) if kind == language]


def commands(page: Path) -> list[str]:
    """The command lines of a page, without comments."""
    lines = COMMENT.sub('', '\n'.join(blocks(page, 'bash'))).splitlines()
    return [part.strip() for line in lines for part in line.split('&&') if part.strip()]


def elsewhere(command: str) -> str:
    """The test that runs a command, or an empty text."""
    return next((test for start, test in ELSEWHERE.items() if command.startswith(start)), '')


def test_it_is_short():
    assert len(README.read_text(encoding='utf-8').split()) < MOST_WORDS


def test_its_commands_are_tested():
    """Those without a test elsewhere are run below; a new one needs either."""
    here = {'.venv/bin/twinseg predict', 'source .venv/bin/activate'}
    for command in commands(README):
        if elsewhere(command):
            file, _, name = elsewhere(command).partition('::')
            assert f'def {name}(' in (ROOT / 'tests' / file).read_text(), command
        else:
            assert command.startswith(
                ('twinseg convert', 'twinseg eval', 'twinseg train', 'twinseg recipe', 'twinseg export', *here)
            ), command


def test_its_five_steps_are_those_of_the_page():
    steps = [command for command in commands(README) if 'photos' in command]
    assert len(steps) == 5 and set(steps) <= set(commands(ROOT / 'docs' / 'own_images.md'))


def test_its_proofs_can_be_repeated():
    proofs = re.findall(r'\| `((?:bash|python) [^`]+)` \|$', README.read_text(encoding='utf-8'), re.MULTILINE)
    assert len(proofs) == 6
    for words in map(shlex.split, proofs):
        words = [word for word in words if word != '--slow']
        if words[0] == 'bash':
            assert words[:3] == ['bash', 'scripts/test.sh', '-k'] and list(ROOT.glob(f'tests/**/{words[3]}.py')), words
        elif words[1] == '-m':
            module = ROOT / words[2].replace('.', '/')
            assert module.with_suffix('.py').exists() or (module / '__main__.py').exists(), words
        else:
            assert (ROOT / words[1]).exists(), words


def test_its_figures_are_those_of_files():
    text = README.read_text(encoding='utf-8')
    record = json.loads((ROOT / 'docs/figures/masks.json').read_text())
    assert f'{record["right_of_pytorch"]} % of the pixels are right' in text
    differ = record['differ_from_pytorch']
    sentence = re.search(
        r'PyTorch in ([\d,]+) of ([\d,]+) pixels, the C\+\+ program\s+for Ascend, run on a CPU, in ([\d,]+)', text
    )
    assert [int(group.replace(',', '')) for group in sentence.groups()] == [
        differ['mindspore'],
        record['pixels'],
        differ['ascend310_infer'],
    ]
    rows = [line for line in (ROOT / 'docs/exports.md').read_text().splitlines() if line.startswith('| `')]
    worst = max(float(figure) for line in rows if 'segnet' not in line for figure in re.findall(r'\d\.\de[-+]\d\d', line))
    assert f'{worst:.1e}'.replace('e-0', 'e-') in text
    card = (ROOT / 'common/weights/shipped/README.md').read_text()
    measured = json.loads((ROOT / 'docs/figures/speed.json').read_text())['miou']
    for name, score, parameters in re.findall(r'^\| `(\w+_camvid)` \| ([\d.]+) \| ([\d.]+) \|$', text, re.MULTILINE):
        assert re.search(rf'^\| `{name}` \| \w+ \| {parameters} \| {score} \|', card, re.MULTILINE), name
        assert float(score) == measured[name], name


def test_the_picture_is_small():
    assert (ROOT / 'docs/figures/masks.png').stat().st_size <= PICTURE


class TestChinese:
    """README_CN.md against README.md."""

    def test_headings(self):
        levels = [
            re.findall(r'^#+', BLOCK.sub('', page.read_text(encoding='utf-8')), re.MULTILINE) for page in (README, CHINESE)
        ]
        assert levels[0] == levels[1] and len(levels[0]) > 8

    @pytest.mark.parametrize('language', ['bash', 'python'])
    def test_code(self, language):
        """Equal but for the comments."""
        code = [[COMMENT.sub('', text) for text in blocks(page, language)] for page in (README, CHINESE)]
        assert code[0] == code[1] and code[0]

    def test_tables(self):
        """As many rows and columns, the same names and the same figures in each cell."""
        tables = [re.findall(r'^\|.*\|$', page.read_text(encoding='utf-8'), re.MULTILINE) for page in (README, CHINESE)]
        assert len(tables[0]) == len(tables[1])
        for rows in zip(*tables):
            cells = [row.strip('|').split('|') for row in rows]
            assert len(cells[0]) == len(cells[1]), rows[1]
            for ours, theirs in zip(*cells):
                assert re.findall(r'`[^`]*`|\d[\d.,e-]*\d', ours) == re.findall(r'`[^`]*`|\d[\d.,e-]*\d', theirs), rows[1]

    def test_figures_and_pictures(self):
        pattern = r'\d{1,3}(?:,\d{3})+|!\[.*?\]\(.*?\)|\d\.\d+'
        found = [
            [re.sub(r'\[.*?\]', '', one) for one in re.findall(pattern, page.read_text(encoding='utf-8'))]
            for page in (README, CHINESE)
        ]
        assert sorted(found[0]) == sorted(found[1])


def test_the_quickstart(tmp_path):
    """Its commands, with a stub for Python, are known to the command line, and it leaves what the page says."""
    stub, log = tmp_path / 'python', tmp_path / 'log'
    stub.write_text(STUB)
    stub.chmod(0o755)
    (tmp_path / 'scripts').mkdir()
    for name in ('quickstart.sh', 'common.sh'):
        (tmp_path / 'scripts' / name).write_text((ROOT / 'scripts' / name).read_text())
    environment = {'PATH': '/usr/bin:/bin', 'TWINSEG_PYTHON': str(stub), 'STUB_LOG': str(log)}
    done = subprocess.run(['bash', 'scripts/quickstart.sh'], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    calls = [shlex.split(line) for line in log.read_text().splitlines()]
    assert [words[2] for words in calls] == ['train', 'eval', 'train', 'eval', 'parity', 'export', 'export', 'report']
    assert calls[-1][calls[-1].index('--out') + 1] == 'runs/quickstart/report.html'
    known = get_command(cli.make_app()).commands
    for words in calls:
        options = {option for parameter in known[words[2]].params for option in parameter.opts}
        assert {word for word in words if word.startswith('--')} <= options


def cityscapes(folder: Path) -> None:
    """Two images for each split, of noise and of two classes."""
    rng = np.random.default_rng(0)
    for split in ('train', 'val'):
        for index in range(2):
            name = f'ulm_{index:06d}_000019'
            for kind, ending, pixels in (
                ('leftImg8bit', 'leftImg8bit', rng.integers(0, 256, (*SIZE, 3), np.uint8)),
                ('gtFine', 'gtFine_labelIds', np.repeat([[7, 23]], SIZE[0], 0).repeat(SIZE[1] // 2, 1).astype(np.uint8)),
            ):
                path = folder / kind / split / 'ulm' / f'{name}_{ending}.png'
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), pixels)


@pytest.mark.skipif('pytorch' not in available(), reason='the page uses PyTorch')
def test_the_commands_for_mmsegmentation(tmp_path, monkeypatch, capfd):
    torch = pytest.importorskip('torch')
    pytest.importorskip('onnxruntime')
    monkeypatch.chdir(tmp_path)
    state = golden.state_dict(golden.load(ROOT / 'tests/golden/mmseg_fastscnn.json')[0])
    tensors = {name: torch.from_numpy(np.array(value)) for name, value in state.items()}
    torch.save({'state_dict': tensors}, 'fast_scnn_lr0.12_8x4_160k_cityscapes.pth')
    cityscapes(tmp_path / 'cityscapes')
    monkeypatch.setenv('TWINSEG_DATA', str(tmp_path))
    mine = [command for command in commands(README) if command.startswith('twinseg ') and not elsewhere(command)]
    assert [command.split()[1] for command in mine] == ['convert', 'eval', 'train', 'recipe', 'export']
    for command in mine:
        words = shlex.split(command.replace('/data/cityscapes', str(tmp_path / 'cityscapes')))[1:]
        assert main([*words, *SMALL.get(words[0], [])]) == 0, capfd.readouterr().err
    assert Path('fast_scnn.onnx').is_file() and 'mIoU' in capfd.readouterr().out


def test_the_shipped_weights_and_python(tmp_path, monkeypatch):
    """The second command of the first screen, and the block for Python."""
    if 'mindspore' not in available():
        pytest.skip('the page uses MindSpore')
    monkeypatch.chdir(tmp_path)
    from twinseg.common import config

    street = open_dataset(config.from_flat({'set': 'toy_street', 'image_size': [64, 96]}).data, 'val').read_image(0)
    cv2.imwrite('street.jpg', street[..., ::-1])
    (command,) = (command for command in commands(README) if command.startswith('.venv/bin/twinseg'))
    assert main(shlex.split(command)[1:]) == 0
    assert {path.name for path in Path('predictions').iterdir()} == {'street_ids.png', 'street_overlay.png'}
    (code,) = blocks(README, 'python')
    names: dict = {}
    exec(code, names)
    assert names['result'].mask.shape == (64, 96) and len(list(Path('pictures').iterdir())) == 2
