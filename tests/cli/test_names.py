"""File names in any bytes: every command caches, prints and writes them, in any locale."""

import json
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from tests.support import streets
from tests.support.tiny import CLASSES, tiny_network
from twinseg.common import cli, config
from twinseg.common.backend import get_backend

NAMES = [  # bytes of names without suffix
    '图像'.encode('gbk'),
    b'\xff\xfe',
    b'line\nbreak\ttab',
    b'\x1b[31mred\x07',
    '\u202egnp'.encode(),
    '👩\u200d🔬 photo'.encode(),
    unicodedata.normalize('NFD', 'é').encode(),
    b'-dash',
    b'--debug',
    b'[bold]',
    b'a' * 251,
    '图'.encode() * 83,
]
RUN = os.fsdecode(b'run \xff\x1b[1m')


def twinseg(*words) -> int:
    return cli.main([str(word) for word in words])


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    """Street scenes under ``NAMES``, in a folder of such a name."""
    place = tmp_path_factory.mktemp('names')
    streets.make(place / 'd', count=len(NAMES), size=(32, 48))
    for path in sorted(place.rglob('*.png')):
        path.rename(path.with_name(os.fsdecode(NAMES[int(path.stem)] + b'.png')))
    return (place / 'd').rename(place / os.fsdecode(b'd\xe9'))


@pytest.fixture
def recipe(data, tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv('TWINSEG_CACHE', str(tmp_path / 'cache'))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / 'small.yaml'
    keys = streets.settings(data, max_iters=2, val_interval=2, crop_size=[32, 48])
    path.write_text(config.dump(config.from_flat(keys)), encoding='ascii')
    return path


def shown(captured) -> str:
    """All that was printed; not a letter of it drives a terminal, or is half of one."""
    text = captured.out + captured.err
    assert not [letter for letter in text if unicodedata.category(letter) in ('Cc', 'Cs') and letter != '\n']
    assert 'internal error' not in text
    return text


def test_every_command(recipe, data, tmp_path, capsys):
    """From the cache to the exported file, in a run folder of such a name."""
    pytest.importorskip('torch')
    run, exported = tmp_path / RUN, tmp_path / os.fsdecode(b'out \xff\n') / os.fsdecode(b'net\xfe.onnx')
    assert twinseg('prepare', recipe, '--cache') == 0, capsys.readouterr().err
    assert twinseg('browse', recipe, '--out', tmp_path / 'browse') == 0
    assert twinseg('train', recipe, '--device', 'cpu', '--backend', 'pytorch', '--work-dir', run) == 0
    assert twinseg('eval', '--checkpoint', run, '--json', tmp_path / 'eval.json') == 0
    assert twinseg('report', run, '--out', tmp_path / 'report.html') == 0
    assert twinseg('export', '--checkpoint', run, '--out', exported) == 0
    shown(capsys.readouterr())
    assert json.loads((tmp_path / 'eval.json').read_text(encoding='ascii'))['conditions']['checkpoint'] == str(run)
    assert '\\xff' in (tmp_path / 'report.html').read_text(encoding='utf-8')
    assert twinseg('predict', '--model', exported, data / 'images' / 'val', '--out', tmp_path / 'out') == 0
    said = shown(capsys.readouterr())
    written = set(map(os.fsencode, os.listdir(tmp_path / 'out')))
    expected = {name + ending for name in NAMES for ending in (b'_ids.png', b'_overlay.png') if len(name + ending) <= 255}
    assert expected < written and len(written) == 2 * len(NAMES)
    assert {len(name) for name in written - expected} <= {253, 254, 255}  # cut, not in the middle of a letter
    for name in ('\\xff\\xfe', 'line\\nbreak\\ttab', '\\x1b[31mred\\x07', '\\u202egnp', '👩\u200d🔬 photo', '-dash', '[bold]'):
        assert f'/{name}_ids.png\n' in said


@pytest.mark.parametrize('name', [b'net.mindir', b'net\xfe.mindir'])
def test_mindspore_s_own_files(tmp_path, name):
    """MindSpore takes UTF-8 only, and follows links to their end."""
    pytest.importorskip('mindspore')
    backend, path = get_backend('mindspore'), tmp_path / os.fsdecode(b'f\xff') / os.fsdecode(name)
    backend.setup('cpu', threads=1)
    path.parent.mkdir()
    backend.write(tiny_network('mindspore'), path, 'mindir', shape=(1, 3, 32, 48))
    assert os.listdir(os.fsencode(path.parent)) == [name]
    assert backend.open_mindir(path)(np.zeros((1, 3, 32, 48), np.float32)).shape == (1, CLASSES, 16, 24)


def test_a_locale_without_letters(recipe, tmp_path):
    """C instead of UTF-8, for the terminal and for names."""
    ascii_only = {'LC_ALL': 'C', 'PYTHONUTF8': '0', 'PYTHONCOERCECLOCALE': '0', 'PYTHONIOENCODING': 'ascii:strict'}
    for words, status in ((['prepare', recipe, '--cache'], 0), (['eval', 'fast_scnn', '--checkpoint', 'é.safetensors'], 2)):
        done = subprocess.run(
            [sys.executable, '-m', 'twinseg', *words], capture_output=True, env={**os.environ, **ascii_only}, cwd=tmp_path
        )
        assert done.returncode == status, done.stderr
        assert b'internal error' not in done.stderr and b'Traceback' not in done.stderr


def test_names_that_look_like_options(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert twinseg('predict', '--checkpoint', 'none.safetensors', '--', '--debug', '-x.jpg') == 2
    assert '--debug, -x.jpg: no such file or folder' in capsys.readouterr().err


def test_a_name_that_the_locale_has_no_letters_for_is_said(capsys):
    assert cli.explain(pytest.raises(UnicodeEncodeError, 'é.png'.encode, 'ascii').value) == 2
    assert "'\\xe9.png' cannot be a name in the locale of this process" in capsys.readouterr().err
