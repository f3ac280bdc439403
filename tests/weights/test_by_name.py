"""Weights by name: the table, what is fetched, what is said when it cannot be, and where a name does as a file does."""

import hashlib
import io
import re
import shutil
import zipfile
from pathlib import Path
from typing import Optional

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

import twinseg
from tests.support.web import server
from tests.weights.test_weights import in_their_names
from twinseg.common import config, weights
from twinseg.common.backend import available, get_backend
from twinseg.common.cli import main
from twinseg.common.errors import DataError, StateError, UserError
from twinseg.common.report import catalogue, counting
from twinseg.common.settings.recipes import recipes
from twinseg.common.weights import TABLES, by_name, published
from twinseg.common.weights.published import PUBLISHED, Published

BACKBONES = {'segnet': 'vgg16_bn'}  # where a recipe leaves it to the network
CONVERTED = {'vgg16': 'fcn'}  # backbone -> the network whose weights a file becomes
SHIPPED = by_name.SHIPPED / 'fast_scnn_camvid.safetensors'
CONTENT = SHIPPED.read_bytes()
DIGEST = hashlib.sha256(CONTENT).hexdigest()
TRAIN = ['train', 'fast_scnn_toy_street', '--device', 'cpu', '--backend', 'pytorch', '--work-dir', 'run']
SHORT = 'max_iters=1 warmup_iters=0 val_interval=1 batch_size=2 train_samples=2 val_samples=1 num_parallel_workers=0'.split()
SMALL = [*SHORT, 'image_size=[64,96]', 'crop_size=[64,96]', 'num_classes=19', 'reset_classifier=true', 'model_args={}']


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """The folder of published weights; the current folder is empty."""
    monkeypatch.setenv('TWINSEG_CACHE', str(tmp_path / 'cache'))
    (tmp_path / 'here').mkdir()
    monkeypatch.chdir(tmp_path / 'here')
    return tmp_path / 'cache/weights'


def entry(url: str, digest: Optional[str] = f'sha256:{DIGEST[:8]}', **facts) -> Published:
    """A file that somebody published: Fast-SCNN's, which ships."""
    file = f'theirs-{DIGEST[:8]}.safetensors'
    given = dict(about='of a test', licence='BSD-3-Clause', source='twinseg', arch='fast_scnn', aliases=('test://theirs',))
    return Published('theirs', file, f'{url}/{file}', **{**given, **facts}, digest=digest)


@pytest.fixture
def offered(monkeypatch):
    """One published file, ``theirs``, instead of the table; yields a function that says what is offered."""

    def offer(*entries: Published) -> Published:
        for module in (by_name, counting, published):
            monkeypatch.setattr(module, 'PUBLISHED', entries)
        return entries[0]

    return offer


# The table


def test_digests_are_what_file_names_carry():
    for one in PUBLISHED:
        prefix = re.search(r'-([0-9a-f]{8})\.pth$', one.file)
        if one.url.startswith((published.TORCHVISION, published.OPENMMLAB)):
            assert prefix and one.digest == f'sha256:{prefix[1]}' and one.url.endswith(f'/{one.file}')
        elif one.digest is not None:  # PyTorch-Encoding's files carry their SHA-1, which its code states in full
            assert prefix and re.fullmatch(f'sha1:{prefix[1]}[0-9a-f]{{32}}', one.digest)
        assert one.by_hand == (one.digest is None) and one.url.startswith('https://') and one.licence and one.about
        assert (one.mib is not None) == one.url.startswith(published.TORCHVISION)


def test_a_word_means_one_file():
    words = [word for one in PUBLISHED for word in one.words]
    assert len(set(words)) == len(words) and not set(words) & set(by_name.shipped())
    assert len(set(by_name.names())) == len(by_name.names())
    by = {one.name: one for one in PUBLISHED}
    assert all(by[one.instead].arch == one.arch and not by[one.instead].by_hand for one in PUBLISHED if one.instead)


def test_each_file_is_of_a_network_whose_names_are_known():
    known = {(table.source, table.arch) for table in TABLES}
    assert all((one.source, one.arch) in known for one in PUBLISHED)


def test_every_recipe_starts_from_weights_with_a_name():
    models = [config.load(path).model for path in recipes()]
    starts = [model for model in models if model.pretrained]
    assert len(starts) > 40
    for model in starts:
        one = by_name.published_as(str(model.pretrained))
        assert one is not None and model.pretrained == one.name
        start = model.backbone or BACKBONES.get(model.arch) or model.arch.removesuffix('_seg')
        assert one.arch == CONVERTED.get(start, start)


def starts() -> list:
    """A recipe for every network and file to start from; large ones are slow. VGG-16's into FCN-8s is in test_weights.py."""
    found: dict[tuple, str] = {}
    for path in recipes():
        model = config.load(path).model
        if model.pretrained and model.backbone not in CONVERTED:
            found.setdefault((model.arch, str(model.arguments()), model.pretrained), path.stem)
    large = [one.name for one in PUBLISHED if one.arch.startswith(('resnet', 'vgg'))]
    return [
        pytest.param(path, marks=[pytest.mark.slow] * (name in large and name != 'resnet50_encoding'))
        for (_, _, name), path in found.items()
    ]


@pytest.mark.parametrize('recipe', starts())
def test_a_file_fits_the_networks_that_start_from_it(recipe, tmp_path):
    pytest.importorskip('torch')
    backend = get_backend('pytorch')
    backend.setup('cpu', threads=1)
    model = config.load(recipe).model
    one = by_name.published_as(str(model.pretrained))
    table = next(table for table in TABLES if (table.source, table.arch) == (one.source, one.arch))
    theirs = backend.state(backend.build_model(one.arch, **table.arguments))
    state = {name: array for name, array in theirs.items() if table.classes or name.startswith('backbone')}
    save_file(in_their_names(table, state), tmp_path / 'theirs.safetensors')
    network = backend.build_model(model.arch, num_classes=19, **model.arguments())
    report = weights.load_pretrained(backend, network, model.arch, tmp_path / 'theirs.safetensors')
    assert {name for name in backend.state(network) if name.startswith('backbone.')} == set(report.matched)


@pytest.mark.parametrize(
    'word, name',
    [
        ('resnet50_v1c', 'resnet50_v1c'),
        ('open-mmlab://resnet50_v1c', 'resnet50_v1c'),
        ('resnet50_v1c-2cccc1ad', 'resnet50_v1c'),
        ('resnet50_v1c-2cccc1ad.pth', 'resnet50_v1c'),  # as recipes of earlier versions say it
        ('https://download.openmmlab.com/pretrain/third_party/resnet50_v1c-2cccc1ad.pth', 'resnet50_v1c'),
        ('torchvision://resnet50', 'resnet50_torchvision'),
        ('STDCNet813M_73.91.tar', 'stdc1_stdc_seg'),
    ],
)
def test_names_are_understood_as_others_write_them(word, name):
    for spelled in (word, Path(word)):
        found = by_name.published_as(spelled)
        assert found is not None and found.name == name


def test_the_list_says_all_that_is_known(offered, cache, capsys, monkeypatch):
    assert main(['list', '--weights']) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in by_name.names()) and 'not stated' in text and 'by hand' in text
    offered(entry('http://127.0.0.1:1', mib=2.9))
    cache.mkdir(parents=True)
    (row,) = [row for row in counting.weights() if row['weights'] == 'theirs']
    assert (row['size'], row['licence'], row['digest']) == ('2.9 MiB', 'BSD-3-Clause', f'sha256:{DIGEST[:8]}')
    assert row['from'].startswith('http://127.0.0.1:1/theirs')
    stored = catalogue.stored()
    monkeypatch.setattr(catalogue, 'stored', lambda: {**stored, 'weights': [dict(row)]})
    assert catalogue.weights()[0]['from'] == row['from']
    shutil.copy(SHIPPED, cache / row['file'])
    assert catalogue.weights()[0]['from'] == 'is in the cache'


# Fetching


def test_a_name_is_fetched_once(offered, cache):
    file = f'theirs-{DIGEST[:8]}.safetensors'
    with server({file: CONTENT}) as (address, asked):
        offered(entry(address, mib=3.0))
        lines: list[str] = []
        assert by_name.find_weights('theirs', lines.append).read_bytes() == CONTENT
        assert lines == [
            f'theirs: downloading (3.0 MiB) from {address}/{file}',
            f'theirs: kept in {cache}/{file}; licence BSD-3-Clause, trained on ImageNet, whose terms may apply',
        ]
        for word in ('theirs', Path('test://theirs'), f'{address}/{file}', file):
            assert by_name.find_weights(word, lines.append) == cache / file
        assert len(asked) == 1 and len(lines) == 2
        assert weights.load('theirs').arch == 'fast_scnn'
    assert [path.name for path in cache.iterdir()] == [file]


def test_a_file_that_is_there_wins(offered, tmp_path):
    offered(entry('http://127.0.0.1:1'))
    Path('theirs').write_bytes(b'mine')
    assert by_name.find_weights('theirs').read_bytes() == b'mine'
    Path('fast_scnn_camvid').write_bytes(b'mine')
    assert by_name.find_weights('fast_scnn_camvid') == by_name.find_checkpoint('fast_scnn_camvid') == Path('fast_scnn_camvid')
    Path('enet_camvid').mkdir()
    assert by_name.find_checkpoint('enet_camvid') == Path('enet_camvid')  # a run folder
    assert by_name.find_weights('enet_camvid') == by_name.SHIPPED / 'enet_camvid.safetensors'


def test_another_file_in_its_place_is_refused(offered, cache):
    one = offered(entry('http://127.0.0.1:1'))
    cache.mkdir(parents=True)
    (cache / one.file).write_bytes(b'<html>')
    found = hashlib.sha256(b'<html>').hexdigest()
    message = f'{one.file}: 6 bytes with sha256 {found}, expected {DIGEST[:8]}: broken or another file; delete it and run again'
    with pytest.raises(DataError, match=message):
        by_name.find_weights('theirs')
    with server({one.file: b'<html>'}) as (address, _):
        (cache / one.file).unlink()
        offered(entry(address))
        with pytest.raises(DataError, match='theirs: .*expected .*run again to download it again'):
            by_name.find_weights('theirs')
    assert not list(cache.iterdir())


def test_a_file_larger_than_its_publisher_says_is_refused(offered, cache):
    one = entry('')
    with server({one.file: CONTENT}) as (address, _):
        offered(entry(address, mib=1.0))
        with pytest.raises(DataError, match='theirs: .*more than the limit of 10496'):
            by_name.find_weights('theirs')


def test_an_archive_is_unpacked(offered, cache):
    one, packed = entry(''), io.BytesIO()
    with zipfile.ZipFile(packed, 'w') as archive:
        archive.writestr(one.file, CONTENT)
    for content, message in ((packed.getvalue(), None), (b'PK', 'not readable as an archive')):
        with server({'theirs.zip': content}) as (address, _):
            offered(entry('')._replace(url=f'{address}/theirs.zip'))
            shutil.rmtree(cache, ignore_errors=True)
            if message is None:
                assert by_name.find_weights('theirs').read_bytes() == CONTENT
                assert [path.name for path in cache.iterdir()] == [one.file]
            else:
                with pytest.raises(DataError, match=f'theirs: .*{message}'):
                    by_name.find_weights('theirs')
    offered(entry('', f'sha1:{"0" * 40}')._replace(url='http://127.0.0.1:1/theirs.zip'))
    (cache / 'theirs.zip').write_bytes(packed.getvalue())  # by hand
    with pytest.raises(DataError, match='sha1 .*, expected 0{40}.*delete .*theirs.zip'):
        by_name.find_weights('theirs')


def test_what_a_browser_alone_gets_is_asked_for(offered, cache, capsys):
    one = offered(entry('https://example.org', None, by_hand=True, instead='others'))
    assert main(['prepare', 'weights', 'theirs']) == 2
    said = capsys.readouterr().err
    assert f'download {one.file} from {one.url} and put it into {cache}; others names the same weights' in said
    cache.mkdir(parents=True)
    shutil.copy(SHIPPED, cache / one.file)
    assert main(['prepare', 'weights', 'theirs']) == 0
    assert re.search('holds: +fast_scnn of twinseg, 11 classes', capsys.readouterr().out)
    shutil.copy(by_name.SHIPPED / 'enet_camvid.safetensors', cache / one.file)
    assert main(['prepare', 'weights', 'theirs']) == 2
    assert 'holds enet of twinseg, expected fast_scnn of twinseg' in capsys.readouterr().err
    (cache / one.file).write_bytes(b'<html>')
    assert main(['prepare', 'weights', 'theirs']) == 2
    assert str(cache / one.file) in capsys.readouterr().err


def test_without_a_network_one_line_says_what_to_do(offered, cache, capsys):
    one = offered(entry('http://127.0.0.1:1'))
    for words in (['prepare', 'weights', 'theirs'], ['convert', 'theirs'], [*TRAIN, '--set', 'pretrained=theirs', *SMALL]):
        if words[0] == 'train':
            pytest.importorskip('torch')
        assert main(words) == 2
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 1 and said[0].startswith(f'twinseg: error: theirs: {one.url}: not reached (')
        assert said[0].endswith(f'or fetch it by other means and put it into {cache}')


def test_prepare_describes_and_takes_a_folder(offered, tmp_path, capsys):
    with server({entry('').file: CONTENT}) as (address, _):
        one = offered(entry(address))
        assert main(['prepare', 'weights', 'theirs', 'enet_camvid', '--folder', str(tmp_path / 'other')]) == 0
    out = re.sub(r': +', ': ', capsys.readouterr().out)  # the values are a column
    assert f'file: {tmp_path}/other/{one.file}' in out and f'checked: sha256:{DIGEST[:8]}' in out
    assert 'holds: fast_scnn of twinseg' in out and 'holds: enet of twinseg' in out and 'licence: BSD-3-Clause' in out


@pytest.mark.parametrize(
    'words, message',
    [
        (['weights'], 'prepare weights: give names: ddrnet23_slim_camvid'),
        (['weights', 'resnet50_v1'], "did you mean 'resnet50_v1c'"),
        (['weights', 'resnet50'], "'resnet50_torchvision' or 'resnet50_v1c' or 'resnet50_encoding'"),
        (['camvid', 'voc'], 'one thing at a time'),
        (['qqq'], '`twinseg list --weights`'),
        (['weights', 'qqq'], '`twinseg list --weights`'),
    ],
)
def test_what_prepare_does_not_know(words, message, capsys):
    assert main(['prepare', *words]) == 2
    assert message in capsys.readouterr().err


def test_a_cache_that_cannot_be_written_is_named(offered, cache, monkeypatch):
    offered(entry('http://127.0.0.1:1'))
    cache.parent.write_bytes(b'')
    with pytest.raises(DataError, match='theirs cannot be kept there .*TWINSEG_CACHE'):
        by_name.find_weights('theirs')
    monkeypatch.delenv('TWINSEG_CACHE')
    monkeypatch.delenv('XDG_CACHE_HOME', raising=False)
    monkeypatch.setenv('HOME', '')
    with pytest.raises(UserError, match='set the environment variable TWINSEG_CACHE'):
        by_name.find_weights('theirs')


@pytest.mark.parametrize(
    'word, message',
    [
        ('resnet50_v1', "resnet50_v1: no such file, and no name of weights; did you mean 'resnet50_v1c'"),
        ('files/resnet50_v1c-2cccc1ad.pth', "'resnet50_v1c' is the name of this file"),
        ('weights/enet_camvid.safetensors', "did you mean 'enet_camvid'"),
        ('mine.pth', '`twinseg list --weights` shows the names'),
        ('https://example.org/x.pth', 'https://example.org/x.pth: no address of weights that is known here; download'),
        (Path('http://example.org/x.pth'), 'no address of weights that is known here'),
        ('~nobody.at.all/x.pth', '~nobody.at.all/x.pth: there is no home folder ~nobody.at.all'),
    ],
)
def test_what_is_neither_file_nor_name(word, message):
    with pytest.raises(UserError, match=re.escape(message)):
        by_name.find_weights(word)


# Training


def test_training_fetches_says_so_and_resumes_without(offered, cache, capsys):
    pytest.importorskip('torch')
    with server({entry('').file: CONTENT}) as (address, _):
        one = offered(entry(address))
        assert main([*TRAIN, '--set', 'pretrained=theirs', *SMALL]) == 0
    said = capsys.readouterr().out
    assert f'theirs: downloading from {address}' in said and f'kept in {cache / one.file}; licence BSD-3-Clause' in said
    assert 'tensors matched' in said
    assert 'pretrained: theirs\n' in Path('run/config.yaml').read_text()
    shutil.rmtree(cache)
    assert main([*TRAIN, '--resume', '--set', 'pretrained=theirs', *[*SMALL, 'max_iters=2']]) == 0  # the server is gone
    steps = sorted(Path('run/checkpoints').glob('step_*'))
    assert (
        main([*TRAIN[:-1], 'other', '--checkpoint', str(steps[-1]), '--set', 'pretrained=theirs', *SMALL, 'max_iters=3']) == 0
    )
    assert not cache.exists() and 'tensors matched' not in capsys.readouterr().out


def test_the_weights_of_a_name_are_the_networks(offered):
    pytest.importorskip('torch')
    backend = get_backend('pytorch')
    backend.setup('cpu', threads=1)
    network = backend.build_model('fast_scnn', num_classes=11, auxiliary=False)
    weights.load_pretrained(backend, network, 'fast_scnn', 'fast_scnn_camvid')
    state, expected = backend.state(network), weights.load(SHIPPED).state
    assert all(np.array_equal(array, expected[name]) for name, array in state.items())


# Checkpoints that ship


@pytest.fixture
def street() -> Path:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)).save('street.png')
    return Path('street.png')


@pytest.mark.skipif(not available(), reason='no framework is installed')
def test_commands_take_a_name_for_a_checkpoint(street, capsys):
    name = ['--checkpoint', 'fast_scnn_camvid', '--device', 'cpu']
    assert main(['predict', 'street.png', *name]) == 0
    ids = np.array(Image.open('predictions/street_ids.png'))
    assert np.array_equal(ids, twinseg.load('fast_scnn_camvid').predict('street.png').mask)
    assert np.array_equal(ids, twinseg.load(SHIPPED).predict('street.png').mask)
    assert main(['benchmark', *name, '--size', '64x96', '--runs', '1', '--no-train']) == 0
    assert main(['convert', 'fast_scnn_camvid', '--half', '--out', 'mine.safetensors']) == 0
    assert weights.load('mine.safetensors').meta is not None
    capsys.readouterr()
    for word, message in {
        'fast_scnn_camvi': "no such checkpoint, and no name of one that ships; did you mean 'fast_scnn_camvid'",
        'resnet50_torchvision': '`twinseg convert resnet50_torchvision` makes a checkpoint',
    }.items():
        assert main(['predict', 'street.png', '--checkpoint', word, '--device', 'cpu']) == 2
        assert message in capsys.readouterr().err
        with pytest.raises(StateError, match=re.escape(message)):
            twinseg.load(word)
