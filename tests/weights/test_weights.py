"""Published checkpoints: safe reading, renaming, and what is refused."""

import importlib
import inspect
import io
import os
import pickle
import re
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
from safetensors.numpy import save_file

from twinseg.common import checkpoint, weights
from twinseg.common import config as configuration
from twinseg.common.backend import available, find_builder, get_backend
from twinseg.common.errors import StateError
from twinseg.common.inference.runs import load_run
from twinseg.common.settings.presets import PRESETS, preset_arguments, without_heads
from twinseg.common.weights import TABLES
from twinseg.common.weights.publishers.table import rule_pattern, rule_template

NETWORKS = [table for table in TABLES if table.classes]  # the others are backbones
STATE = {'a.weight': np.arange(6, dtype=np.float32).reshape(2, 3), 'b.bias': np.ones(4, np.float32)}


def in_their_names(table, state):
    """A state of ours under the publisher's names: the table read from right to left."""
    rules = [(rule_pattern(ours), rule_template(theirs)) for theirs, ours in table.rules.items()]
    return {
        next(pattern.sub(theirs, name, count=1) for pattern, theirs in rules if pattern.match(name)): array
        for name, array in state.items()
    }


class Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f'touch {self.marker}',)


def write_zip(path, pickled, storages):
    """A file like those of torch.save."""
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('archive/data.pkl', pickled)
        for key, content in storages.items():
            archive.writestr(f'archive/data/{key}', content)


def tensor_pickle(shape, strides, length):
    """The pickle of {'w': tensor} by hand: one FloatStorage '0' of ``length`` numbers."""

    def integers(values):
        return b'(' + b''.join(b'\x8a\x08' + struct.pack('<q', value) for value in values) + b't'

    return (
        b'\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n'
        b'X\x01\x00\x00\x000X\x03\x00\x00\x00cpu\x8a\x08'
        + struct.pack('<q', length)
        + b'tQK\x00'
        + integers(shape)
        + integers(strides)
        + b'\x89}tRs.'
    )


def name_of(table):
    return f'{table.source} {table.arch}'


def numbered(state):
    """Positive numbers, others in every tensor: one series, rolled, which costs less than to draw each of them."""
    series = np.random.default_rng(0).random(1 << 16, np.float32)
    return {name: np.resize(np.roll(series, number), array.shape) for number, (name, array) in enumerate(state.items())}


@pytest.mark.parametrize('table', NETWORKS, ids=name_of)
def test_every_tensor_of_the_network_has_a_published_name(table):
    """So networks without a golden fixture are covered too: names out and back again give the same state. Twins have the same
    names and shapes (models/test_matrix.py), so one of them is enough."""
    backend = get_backend(available()[0])
    arguments = {'num_classes': 7, **table.arguments}
    state = numbered(backend.state(backend.build_model(table.arch, seed=None, **arguments)))
    first = next(other for other in TABLES if other.marks == table.marks)
    source = None if first is table else table.source  # a copy has the names of its original: only the user can tell
    converted = weights.convert(in_their_names(table, state), source)
    assert (converted.source, converted.arch, converted.num_classes) == (table.source, table.arch, 7)
    assert {**converted.arguments, **arguments} == converted.arguments
    assert list(converted.state) == list(state)
    assert all(np.abs(converted.state[name] - state[name]).max() <= 1.1e-5 for name in state)
    report = backend.load_state(backend.build_model(converted.arch, seed=None, **converted.arguments), converted.state)
    assert len(report.matched) == len(state)


@pytest.mark.parametrize('table', [table for table in TABLES if table.heads], ids=name_of)
def test_a_file_without_auxiliary_heads_makes_a_network_without(backend, table):
    network = backend.build_model(table.arch, seed=None, auxiliary=False, **without_heads(table.arguments))
    converted = weights.convert(in_their_names(table, numbered(backend.state(network))))
    assert converted.arguments['auxiliary'] is False
    backend.load_state(backend.build_model(converted.arch, seed=None, **converted.arguments), converted.state)


def test_convert_is_the_function_and_not_its_module():
    """The package's function has the name of one of its modules, whose import must not put the module in its stead."""
    module = 'twinseg.common.weights.convert'
    code = (
        f'import {module}; from {module} import convert; from twinseg.common import weights; assert weights.convert is convert'
    )
    subprocess.run([sys.executable, '-c', code], check=True)
    importlib.import_module(module)
    assert inspect.isfunction(weights.convert)


PRESET_NETWORKS = [(preset, arch) for preset, networks in PRESETS.items() for arch in networks]


@pytest.mark.parametrize('preset, arch', PRESET_NETWORKS)
def test_presets_are_what_differs_from_the_defaults_and_the_network_names_them(backend, preset, arch):
    builder = backend.MODELS[arch]
    defaults = {name: parameter.default for name, parameter in inspect.signature(builder).parameters.items()}
    arguments = preset_arguments(preset, arch)
    assert not {key for key, value in arguments.items() if defaults[key] == value}
    assert not arguments or f'``{preset}``' in inspect.getmodule(builder).__doc__


@pytest.mark.parametrize('preset, arch', PRESET_NETWORKS)
def test_a_preset_goes_with_a_network_without_auxiliary_heads(backend, preset, arch):
    """What the preset says of the heads is dropped, not refused: the user did not give it."""
    if 'auxiliary' in inspect.signature(backend.MODELS[arch]).parameters:
        find_builder(
            backend.MODELS, arch, configuration.Model(arch=arch, preset=preset, model_args={'auxiliary': False}).arguments()
        )


def test_every_preset_is_of_a_published_network():
    """So ``test_every_tensor_of_the_network_has_a_published_name`` builds all of them."""
    assert {(table.preset or table.source, table.arch) for table in TABLES} == set(PRESET_NETWORKS)


def test_a_checkpoint_outlives_its_preset(tmp_path, backend, monkeypatch):
    config = configuration.from_flat({'arch': 'enet', 'preset': 'davidtvs', 'num_classes': 3})
    network = backend.build_model('enet', num_classes=3, **config.model.arguments())
    state, path = backend.state(network), tmp_path / 'x.safetensors'
    checkpoint.save(path, {f'model.{name}': array for name, array in state.items()}, checkpoint.RunMeta(config=config.flat()))
    monkeypatch.setitem(PRESETS, 'davidtvs', {})
    converted = weights.load(path)
    assert converted.arguments == {'num_classes': 3, **config.model.arguments()}
    run = load_run(path, backend.name, 'cpu')
    assert run.config.model.arguments() == config.model.arguments()


def test_in_place_norms_of_the_authors_scale_by_their_magnitude(backend):
    table = next(table for table in TABLES if (table.source, table.arch) == ('stdc_seg', 'stdc1_seg'))
    state = {name: -array for name, array in backend.state(backend.build_model('stdc1_seg', **table.arguments)).items()}
    converted = weights.convert(in_their_names(table, state))
    assert np.all(converted.state['ffm.conv.bn.weight'] == np.float32(1 + 1e-5))
    assert np.all(converted.state['backbone.stage1.bn.weight'] == -1)  # plain batch norm there


def test_wrappers_prefixes_and_counters():
    table = TABLES[0]
    names = {'module.' + mark: np.zeros((3, 1, 1, 1), np.float32) for mark in table.marks}
    names |= {
        'module.' + table.classes: np.zeros((5, 1, 1, 1), np.float32),
        'module.decode_head.convs.0.depthwise_conv.bn.num_batches_tracked': np.array(9),
    }
    converted = weights.convert({'state_dict': names, 'meta': {'epoch': 3}})
    assert converted.num_classes == 5
    assert converted.ignored == ['decode_head.convs.0.depthwise_conv.bn.num_batches_tracked']


def test_class_weights_that_training_code_keeps_beside_the_network():
    table = next(table for table in TABLES if (table.source, table.arch) == ('ddrnet', 'ddrnet23_slim_seg'))
    names = {f'model.{mark}': np.zeros(32, np.float32) for mark in (*table.marks, table.classes)}
    converted = weights.convert({**names, 'loss.criterion.weight': np.ones(19, np.float32)})
    assert (converted.arch, converted.ignored) == ('ddrnet23_slim_seg', ['loss.criterion.weight'])


def test_unknown_tensors_are_refused_and_listed():
    table = TABLES[0]
    state = {mark: np.zeros(1, np.float32) for mark in table.marks} | {table.classes: np.zeros((5, 1, 1, 1), np.float32)}
    with pytest.raises(StateError, match=r'1 of its \d+ tensors are unknown: backbone\.extra\.weight'):
        weights.convert({**state, 'backbone.extra.weight': np.zeros(1, np.float32)})
    with pytest.raises(StateError, match='no network that is known here.*a.weight'):
        weights.convert(STATE)
    with pytest.raises(StateError, match="no publisher 'mseg'; did you mean 'mmseg'"):
        weights.convert(STATE, source='mseg')
    with pytest.raises(StateError, match='tramac'):
        weights.convert(state, source='tramac')


@pytest.mark.parametrize('legacy', [False, True], ids=['zip', 'legacy'])
def test_reads_what_pytorch_saves(tmp_path, legacy):
    torch = pytest.importorskip('torch')
    base = torch.arange(24.0).reshape(4, 6)
    state = OrderedDict(
        plain=base,
        view=base[1:3, 2:5],
        transposed=base.t(),
        half=base.half(),
        brain=base.bfloat16(),
        double=base.double(),
        counter=torch.tensor(7),
        flags=base > 3,
        empty=torch.zeros(0, 3),
        parameter=torch.nn.Parameter(base * 2),
    )
    path = tmp_path / 'x.pth'
    torch.save(
        {'state_dict': state, 'meta': {'epoch': 1, 'classes': ('a', 'b'), 'lr': 0.1, 'none': None}},
        path,
        _use_new_zipfile_serialization=not legacy,
    )
    arrays = weights.read(path)
    assert list(arrays) == list(state)
    for name, tensor in state.items():
        expected = tensor.detach().float().numpy() if name == 'brain' else tensor.detach().numpy()
        assert arrays[name].dtype == expected.dtype and np.array_equal(arrays[name], expected), name
    content = path.read_bytes()
    for length in (0, 10, len(content) // 3, len(content) - 8):
        path.write_bytes(content[:length])
        with pytest.raises(StateError, match='x.pth'):
            weights.read(path)


@pytest.mark.parametrize('protocol', [0, 2, 4])
@pytest.mark.parametrize('inside', [False, True], ids=['alone', 'beside weights'])
def test_a_pickle_bomb_is_refused_and_not_executed(tmp_path, protocol, inside):
    marker = tmp_path / 'executed'
    bomb = Bomb(marker)
    content = pickle.dumps({'state_dict': OrderedDict(a=1), 'extra': bomb} if inside else bomb, protocol)
    write_zip(tmp_path / 'zip.pth', content, {})
    (tmp_path / 'plain.pth').write_bytes(content)
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2)
    (tmp_path / 'legacy.pth').write_bytes(magic + pickle.dumps(1001, 2) + pickle.dumps({}, 2) + content)
    for name in ('zip', 'plain', 'legacy'):
        with pytest.raises(StateError, match=f'{name}.pth'):
            weights.read(tmp_path / f'{name}.pth')
    assert not marker.exists()


@pytest.mark.parametrize(
    'shape, strides, length',
    [
        ([2, 3], [3, 1], 6 << 40),  # a storage larger than the file
        ([1 << 20, 1 << 20], [1 << 20, 1], 6),  # a tensor larger than its storage
        ([1 << 30, 1 << 30], [0, 0], 6),  # the same numbers again and again
        ([2, 3], [-3, 1], 6),
        ([2, 3], [3], 6),
        ([1 << 62, 0], [1, 1], 6),
    ],
    ids=['storage', 'tensor', 'expanded', 'negative', 'rank', 'empty'],
)
def test_sizes_are_checked_before_anything_is_allocated(tmp_path, shape, strides, length):
    path = tmp_path / 'x.pth'
    write_zip(path, tensor_pickle([2, 3], [3, 1], 6), {'0': np.arange(6, dtype='<f4').tobytes()})
    assert np.array_equal(weights.read(path)['w'], np.arange(6, dtype=np.float32).reshape(2, 3))
    write_zip(path, tensor_pickle(shape, strides, length), {'0': np.arange(6, dtype='<f4').tobytes()})
    with pytest.raises(StateError, match='x.pth'):
        weights.read(path)


@pytest.mark.parametrize(
    'content',
    [
        b'\x80\x02' + b'(' * 100_000 + b'.',
        b'\x80\x02' + b']' * 100_000 + b'a' * 99_999 + b'.',
        b'\x80\x04\x94.',
        b'\x80\x02}r\xff\xff\xff\x7f.',
        b'\x80\x02X\xff\xff\xff\x7fx.',
        b'\x80\x02K\x01K\x02s.',
        b'',
    ],
    ids=['marks', 'nested', 'memo', 'memo index', 'string length', 'no dict', 'nothing'],
)
def test_malformed_pickles_are_refused(tmp_path, content):
    write_zip(tmp_path / 'x.pth', content, {})
    with pytest.raises(StateError, match='x.pth'):
        weights.read(tmp_path / 'x.pth')


def test_compressed_archives_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / 'x.pth', 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('a/data.pkl', tensor_pickle([1 << 20], [1], 1 << 20))
        archive.writestr('a/data/0', bytes(4 << 20))
    with pytest.raises(StateError, match='declare more bytes'):
        weights.read(tmp_path / 'x.pth')


def test_logs_of_training_frameworks_become_stand_ins(tmp_path):
    """mmengine keeps history objects and numpy scalars beside the weights; neither is built."""
    buffer = io.BytesIO()
    pickle.Pickler(buffer, 2).dump({'state_dict': OrderedDict(), 'scalar': np.float64(3), 'array': np.ones(2)})
    history = b'cmmengine.logging.history_buffer\nHistoryBuffer\n)\x81}b'
    content = tensor_pickle([2, 3], [3, 1], 6)
    content = content[:-1] + b'X\x01\x00\x00\x00h' + history + b's.'
    write_zip(tmp_path / 'x.pth', content, {'0': bytes(24)})
    assert list(weights.read(tmp_path / 'x.pth')) == ['w']
    write_zip(tmp_path / 'y.pth', buffer.getvalue(), {})
    with pytest.raises(StateError, match='no weights in it'):
        weights.read(tmp_path / 'y.pth')


def test_safetensors_ours_and_foreign(tmp_path):
    save_file(STATE, tmp_path / 'foreign.safetensors')
    assert list(weights.read(tmp_path / 'foreign.safetensors')) == list(STATE)
    meta = checkpoint.RunMeta(config={'arch': 'fast_scnn', 'model_args': {'dropout': 0.0}}, num_classes=4)
    checkpoint.save(tmp_path / 'ours.safetensors', {f'model.{name}': array for name, array in STATE.items()}, meta)
    converted = weights.load(tmp_path / 'ours.safetensors')
    assert (converted.source, converted.arch) == ('twinseg', 'fast_scnn')
    assert converted.arguments == {'num_classes': 4, 'dropout': 0.0}
    assert all(np.array_equal(converted.state[name], array) for name, array in STATE.items())
    (tmp_path / 'cut.safetensors').write_bytes((tmp_path / 'foreign.safetensors').read_bytes()[:-5])
    for name in ('cut.safetensors', 'absent.pth'):
        with pytest.raises(StateError, match=re.escape(name)):
            weights.load(tmp_path / name)


BACKBONES = [  # publisher and classifier; a network that starts from it, and one that cannot
    ('stdc_seg', 'stdc1', 'stdc1_seg', {}, 'stdc2_seg'),
    ('mmseg', 'stdc1', 'stdc1_seg', {}, 'fast_scnn'),
    ('ddrnet', 'ddrnet23_slim', 'ddrnet23_slim_seg', {'stem_bias': True}, 'ddrnet23_slim_seg'),
    ('torchvision', 'resnet18', 'deeplabv3plus', {'backbone': 'resnet18'}, 'deeplabv3plus'),
    ('torchvision', 'resnet18', 'gcn', {'backbone': 'resnet18'}, 'gcn'),
    ('mmseg', 'resnet18', 'pspnet', {'backbone': 'resnet18', 'stem': 'v1c'}, 'gcn'),
    ('torchvision', 'resnet18', 'pspnet', {'backbone': 'resnet18', 'stem': '7x7', 'stages': 2}, 'gcn'),
    ('encoding', 'resnet50', 'pspnet', {'stem': 'deep'}, 'gcn'),
    ('torchvision', 'vgg16_bn', 'segnet', {}, 'gcn'),
]


@pytest.mark.parametrize('source, arch, target, arguments, wrong', BACKBONES, ids=lambda value: str(value) if value else '')
def test_a_classifier_fills_the_backbone(tmp_path, source, arch, target, arguments, wrong):
    backend = get_backend(available()[0])  # the names are those of both
    table = next(table for table in TABLES if (table.source, table.arch) == (source, arch))
    classifier = backend.state(backend.build_model(arch, seed=5, **table.arguments))
    published = {name: array for name, array in classifier.items() if table.classes or name.startswith('backbone')}
    save_file(in_their_names(table, published), tmp_path / 'imagenet.safetensors')
    network = backend.build_model(target, num_classes=3, **arguments)
    report = weights.load_pretrained(backend, network, target, tmp_path / 'imagenet.safetensors')
    state = backend.state(network)
    assert set(report.matched) == {name for name in state if name.startswith('backbone.')}
    assert '(all of backbone)' in str(report)
    assert all(np.array_equal(state[name], classifier[name]) for name in report.matched)
    with pytest.raises(StateError, match=f'weights of {arch} do not fit {wrong}: .*' + ''.join(table.arguments)):
        weights.load_pretrained(backend, backend.build_model(wrong), wrong, tmp_path / 'imagenet.safetensors')


def test_vgg16_fills_fcn8s_with_its_fully_connected_layers_as_convolutions(tmp_path, backend):
    """torchvision's plain VGG-16, here with 8 instead of 4096 hidden channels."""
    rng = np.random.default_rng(0)
    table = next(table for table in TABLES if (table.source, table.arch, table.classes) == ('torchvision', 'fcn', None))
    network = backend.build_model('fcn', num_classes=3, backbone='vgg16', channels=8)
    drawn = backend.state(network)
    inner = {name: array for name, array in drawn.items() if name.startswith('backbone.')}
    published = {name: rng.random(array.shape, np.float32) for name, array in in_their_names(table, inner).items()}
    shapes = {'classifier.0': (8, 512 * 7 * 7), 'classifier.3': (8, 8), 'classifier.6': (1000, 8)}
    published |= {f'{layer}.weight': rng.random(shape, np.float32) for layer, shape in shapes.items()}
    published |= {f'{layer}.bias': rng.random(shape[0], np.float32) for layer, shape in shapes.items()}
    save_file(published, tmp_path / 'vgg16.safetensors')
    report = weights.load_pretrained(backend, network, 'fcn', tmp_path / 'vgg16.safetensors')
    state = backend.state(network)
    assert '(all of backbone, conv6, conv7)' in str(report)
    features = rng.random((512, 7, 7), np.float32)  # what a fully connected layer sees of an image of 224x224
    connected = published['classifier.0.weight'] @ features.ravel()
    np.testing.assert_allclose((state['conv6.weight'] * features).sum((1, 2, 3)), connected, rtol=1e-4)
    assert np.array_equal(state['conv7.weight'][:, :, 0, 0], published['classifier.3.weight'])
    assert np.array_equal(state['conv7.bias'], published['classifier.3.bias'])
    assert np.array_equal(state['backbone.stages.4.2.0.weight'], published['features.28.weight'])
    assert all(np.array_equal(state[name], drawn[name]) for name in drawn if name.startswith(('classifier', 'skip')))


def test_enet_starts_from_its_encoder(tmp_path, backend):
    """The second of the authors' two stages takes all of the first but its classifier."""
    encoder = backend.build_model('enet', num_classes=3, encoder_only=True, seed=5)
    meta = checkpoint.RunMeta(config={'arch': 'enet', 'model_args': {'encoder_only': True}}, num_classes=3)
    trained = backend.state(encoder)
    checkpoint.save(tmp_path / 'encoder.safetensors', {f'model.{k}': v for k, v in trained.items()}, meta)
    network = backend.build_model('enet', num_classes=3, decoder_dropout=0.0, seed=6)
    drawn = backend.state(network)
    report = weights.load_pretrained(backend, network, 'enet', tmp_path / 'encoder.safetensors')
    state, parts = backend.state(network), ('initial', 'down1', 'stage1', 'down2', 'stage2', 'stage3')
    assert set(report.matched) == {name for name in trained if name.startswith(parts)}
    assert all(np.array_equal(state[name], (trained if name in trained else drawn)[name]) for name in state)


@pytest.mark.parametrize('other', ['features.1.weight', 'features.34.weight'])
def test_vgg16_with_norms_and_vgg19_are_not_plain_vgg16(other):
    state = {f'features.{number}.weight': np.zeros((64, 64, 3, 3), np.float32) for number in (0, 28)}
    state |= {f'classifier.{number}.weight': np.zeros((8, 8), np.float32) for number in (0, 3, 6)}
    with pytest.raises(StateError, match='no network that is known'):
        weights.convert({**state, other: np.zeros(64, np.float32)})


def test_a_classifier_for_other_classes_is_drawn_anew_only_when_told_to(tmp_path, backend):
    source = backend.build_model('fast_scnn', num_classes=19, seed=5)
    meta = checkpoint.RunMeta(config={'arch': 'fast_scnn'}, num_classes=19)
    checkpoint.save(tmp_path / 'x.safetensors', {f'model.{k}': v for k, v in backend.state(source).items()}, meta)
    network = backend.build_model('fast_scnn', num_classes=11)
    arguments = backend, network, 'fast_scnn', tmp_path / 'x.safetensors'
    drawn = backend.state(network)
    with pytest.raises(StateError, match='made for another number of classes.*reset_classifier'):
        weights.load_pretrained(*arguments)
    assert all(np.array_equal(array, drawn[name]) for name, array in backend.state(network).items())
    report = weights.load_pretrained(*arguments, reset_classifier=True)
    assert 'all of learning_to_downsample, global_feature_extractor, feature_fusion)' in str(report)
    classifiers = ('classifier.conv', 'aux_gfe.classifier', 'aux_ltd.classifier')
    assert {line.split()[0] for line in report.mismatched} == {
        f'{name}.{leaf}' for name in classifiers for leaf in ('weight', 'bias')
    }


@pytest.fixture
def mindspore():
    return pytest.importorskip('mindspore')


@pytest.mark.parametrize('checksum', [False, True], ids=['plain', 'checksum'])
def test_reads_what_mindspore_saves(tmp_path, mindspore, monkeypatch, checksum):
    base = np.arange(24).reshape(4, 6)
    kinds = (np.float16, np.float32, np.float64, np.bool_, np.int8, np.int16, np.int32, np.int64, np.uint8)
    state = {np.dtype(kind).name: base.astype(kind) for kind in kinds}
    state['large'] = np.arange(900, dtype=np.float32).reshape(3, 300)
    state |= {
        f'0.{leaf}': np.full(3, index, np.float32)
        for index, leaf in enumerate(('moving_mean', 'moving_variance', 'gamma', 'beta'))
    } | {'1.gamma': np.ones(2, np.float32)}
    monkeypatch.setattr('mindspore.train.serialization.SLICE_SIZE', 1)  # KB: a larger one stands in several parts
    path = tmp_path / 'x.ckpt'
    mindspore.save_checkpoint(
        [{'name': name, 'data': mindspore.Tensor(array)} for name, array in state.items()],
        str(path),
        append_dict={'epoch_num': 3, 'lr': 0.5, 'text': 'grün'},
        crc_check=checksum,
    )
    path.chmod(0o644)
    arrays = weights.read(path)
    names = {'0.moving_mean': '0.running_mean', '0.moving_variance': '0.running_var', '0.gamma': '0.weight', '0.beta': '0.bias'}
    assert list(arrays) == [*(names.get(name, name) for name in state), 'epoch_num', 'lr']
    for name, array in state.items():
        found = arrays[names.get(name, name)]
        assert found.dtype == array.dtype and np.array_equal(found, array), name
    assert arrays['epoch_num'] == 3 and arrays['lr'] == 0.5 and not arrays.meta
    content = path.read_bytes()
    for length in (*range(1, 60), len(content) // 3, len(content) - 8):
        path.write_bytes(content[:length])
        with pytest.raises(StateError, match='x.ckpt'):
            weights.read(path)


def ckpt(dims, kind, content, tag=b'w'):
    """A value of a checkpoint by hand; all lengths below 128."""

    def field(number, data):
        return bytes((number << 3 | 2, len(data))) + data

    sizes = b''.join(
        b'\x08' + bytes(side >> shift & 127 | 128 for shift in range(0, 63, 7)) + bytes([side >> 63 & 1]) for side in dims
    )
    return field(1, field(1, tag) + field(2, sizes + field(2, kind) + field(3, content)))


@pytest.mark.parametrize(
    'content',
    [
        ckpt([3, 3], b'Float32', bytes(24)),
        ckpt([1 << 62, 0], b'Float32', b''),
        ckpt([1 << 40, 1 << 40], b'Float32', bytes(24)),
        ckpt([-2 % (1 << 64), -3 % (1 << 64)], b'Float32', bytes(24)),
        ckpt([2, 3], b'Object', bytes(24)),
        ckpt([2, 3], b'Float32', bytes(24)) + ckpt([6], b'Float32', bytes(24)),
        ckpt([2, 3], b'Float32', bytes(24)) * 2,
        ckpt([1] * 10, b'Float32', bytes(4)).replace(b'Float32', b'Float3\xff'),
        ckpt([1], b'Float32', bytes(4), b'\xff'),
        b'\n\xff\xff\xff\xff\x0f',
        b'\n' * 1000,
        b'\n' + b'\xff' * 30,
        b'\n\x04\x0a\x02ab',
        b'\n\x02\x08\x01',
        b'\n\x00',
    ],
    ids=[
        'size',
        'empty',
        'huge',
        'negative',
        'type',
        'other part',
        'twice',
        'type name',
        'tag',
        'length',
        'feeds',
        'number',
        'no tensor',
        'no message',
        'nothing',
    ],
)
def test_malformed_mindspore_checkpoints_are_refused(tmp_path, content):
    path = tmp_path / 'x.ckpt'
    path.write_bytes(ckpt([2, 3], b'Float32', bytes(24)))
    assert weights.read(path)['w'].shape == (2, 3)
    path.write_bytes(content)
    with pytest.raises(StateError, match='x.ckpt'):
        weights.read(path)


def test_training_checkpoints_of_the_mindspore_zoo(tmp_path, mindspore):
    """The network in MindSpore's names, beside the optimizer's state."""
    from twinseg.common.backend import get_backend
    from twinseg.mindspore_impl.network import canonical_names

    table = next(table for table in TABLES if table.source == 'zoo')
    backend = get_backend('mindspore')
    network = backend.build_model(table.arch, num_classes=5, **table.arguments)
    state = backend.state(network)
    named = {theirs: state[ours] for theirs, ours in canonical_names(network).items()}
    leaves = {ours: theirs.rpartition('.')[2] for theirs, ours in canonical_names(network).items()}
    published = {
        f'{next(iter(in_their_names(table, {ours: array}))).rpartition(".")[0]}.{leaves[ours]}': array
        for ours, array in state.items()
    }
    assert len(published) == len(named) and 'conv1.1.gamma' in published
    extra = {
        'moments.conv1.1.gamma': np.ones(64, np.float32),
        'global_step': np.array([9], np.int32),
        'learning_rate': np.array(0.1, np.float32),
    }
    content = [{'name': name, 'data': mindspore.Tensor(array)} for name, array in {**published, **extra}.items()]
    mindspore.save_checkpoint(content, str(tmp_path / 'zoo.ckpt'), append_dict={'epoch_num': 3})
    converted = weights.load(tmp_path / 'zoo.ckpt')
    assert (converted.source, converted.arch, converted.num_classes) == ('zoo', 'ddrnet23', 5)
    assert all(np.array_equal(converted.state[name], array) for name, array in state.items())
    assert set(converted.ignored) == {*extra, 'epoch_num'}
