"""Files of other people: whatever is around the weights, beside them and in their place."""

import argparse
import collections
import io
import json
import os
import pickle
import re
import struct
import sys
import types
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.weights.test_weights import ckpt, in_their_names, tensor_pickle, write_zip
from twinseg.common import checkpoint, weights
from twinseg.common.backend import get_backend
from twinseg.common.cli import main
from twinseg.common.errors import StateError
from twinseg.common.printable import LONGEST, one_line
from twinseg.common.weights import TABLES
from twinseg.common.weights.reading.dtypes import BY_NAME

torch = pytest.importorskip('torch')
FAST_SCNN = next(table for table in TABLES if (table.source, table.arch) == ('mmseg', 'fast_scnn'))
TRAMAC = next(table for table in TABLES if table.source == 'tramac')
HEADS = ('aux_gfe', 'aux_ltd')


@pytest.fixture(scope='module')
def network():
    backend = get_backend('pytorch')
    return backend.state(backend.build_model('fast_scnn', num_classes=3, auxiliary=False, seed=3))


@pytest.fixture(scope='module')
def published(network):
    """mmsegmentation's Fast-SCNN as tensors by the publisher's names."""
    return {name: torch.from_numpy(array.copy()) for name, array in in_their_names(FAST_SCNN, network).items()}


@pytest.fixture(scope='module')
def averages(published):
    """Other numbers under the same names."""
    return {name: value * 0.5 + 0.25 for name, value in published.items()}


def is_state(converted, tensors):
    """Whether these are the weights that were converted, and all of them."""
    assert (converted.source, converted.arch, len(converted.state)) == ('mmseg', 'fast_scnn', len(tensors))
    return all(np.array_equal(converted.state[ours], tensors[theirs].numpy()) for ours, theirs in converted.names.items())


def prefixed(prefix, tensors):
    return {f'{prefix}{name}': value for name, value in tensors.items()}


def stand_in(module, name, base=dict):
    """A class that pickles as ``module.name``, which is not installed."""
    parts = module.split('.')
    for end in range(1, len(parts) + 1):
        sys.modules.setdefault('.'.join(parts[:end]), types.ModuleType('.'.join(parts[:end])))
    kind = type(name, (base,), {'__module__': module})
    setattr(sys.modules[module], name, kind)
    return kind


WRAPPED = {  # what is around the weights
    'nothing': lambda state: state,
    'module': lambda state: prefixed('module.', state),
    'compiled': lambda state: {'state_dict': prefixed('_orig_mod.', state)},
    'compiled in DDP': lambda state: {'state_dict': prefixed('module._orig_mod.', state)},
    'DDP, compiled': lambda state: prefixed('_orig_mod.module.', state),
    'Lightning': lambda state: {'state_dict': prefixed('net.', state), 'epoch': 3},
    'Lightning, compiled': lambda state: {'state_dict': prefixed('model._orig_mod.module.', state)},
    'student': lambda state: {'student': state},
    'words that nobody knows': lambda state: {'zustand': {'netz': {'gewichte': prefixed('was.auch.immer.', state)}}},
    'list': lambda state: {'models': [state]},
    'tuple': lambda state: (3, state),
    'compiled parts': lambda state: {
        name.replace('backbone.', 'backbone._orig_mod.').replace('decode_head.', 'decode_head.module.'): value
        for name, value in state.items()
    },
    'parts': lambda state: {
        part: {name.removeprefix(f'{part}.'): value for name, value in state.items() if name.startswith(part)}
        for part in ('backbone', 'decode_head')
    },
    'DeepSpeed': lambda state: {'module': state, 'buffer_names': [], 'optimizer': None, 'param_shapes': [torch.Size([3])]},
    'ordered': lambda state: collections.OrderedDict(state_dict=collections.OrderedDict(state)),
}


@pytest.mark.parametrize('wrap', WRAPPED.values(), ids=WRAPPED)
def test_weights_are_found_below_any_dicts_and_prefixes(tmp_path, published, wrap):
    torch.save(wrap(published), tmp_path / 'x.pth')
    converted = weights.load(tmp_path / 'x.pth')
    assert is_state(converted, published) and not converted.ignored and not converted.chosen


def test_wrappers_in_other_formats(tmp_path, published):
    wrapped = prefixed('a.b.module.', {name: value.numpy() for name, value in published.items()})
    save_file(wrapped, tmp_path / 'x.bin')
    assert is_state(weights.load(tmp_path / 'x.bin'), published)
    torch.save(prefixed('net.', published), tmp_path / 'x.safetensors', _use_new_zipfile_serialization=False)
    assert is_state(weights.load(tmp_path / 'x.safetensors'), published)
    (tmp_path / 'x.pkl').write_bytes(pickle.dumps({'net': wrapped}, 4))
    assert is_state(weights.load(tmp_path / 'x.pkl'), published)
    torch.save({name: array for name, array in wrapped.items()}, tmp_path / 'arrays.pth')
    assert is_state(weights.load(tmp_path / 'arrays.pth'), published)
    (tmp_path / 'y.pkl').write_bytes(pickle.dumps({'net': wrapped}, 2))
    assert is_state(weights.load(tmp_path / 'y.pkl'), published)


def test_lightning_checkpoints(tmp_path, published):
    """Hyper-parameters are objects of any class; the loss's class weights and a metric's counts lie beside the network."""
    attributes = stand_in('lightning.fabric.utilities.data', 'AttributeDict')
    node = stand_in('omegaconf.dictconfig', 'DictConfig', object)()
    node.__dict__ = {'_content': {'lr': 1}, '_parent': node, '_flags_cache': None}
    content = {
        'pytorch-lightning_version': '2.2.0',
        'state_dict': {
            **prefixed('model.', published),
            'criterion.weight': torch.ones(3),
            'val_iou.confmat': torch.zeros(3, 3),
            'model.total_ops': torch.zeros(1, dtype=torch.float64),
            'model.backbone.total_params': torch.zeros(1, dtype=torch.float64),
        },
        'hyper_parameters': attributes(lr=1e-3, config=node, args=argparse.Namespace(lr=1), dtype=torch.float16),
        'optimizer_states': [{'state': {0: {'exp_avg': torch.zeros(7)}, 1: {'exp_avg': torch.zeros(5)}}}],
        'callbacks': {attributes: {'best': torch.tensor(0.5)}},
        'lr_schedulers': [torch.optim.lr_scheduler.LambdaLR.__name__],
    }
    torch.save(content, tmp_path / 'x.ckpt')
    converted = weights.load(tmp_path / 'x.ckpt')
    assert is_state(converted, published)
    assert set(converted.ignored) >= {'state_dict.criterion.weight', 'state_dict.val_iou.confmat'}
    assert len(converted.ignored) == 7 and 'total_ops' in converted.left_out and 'callbacks' in converted.left_out


BESIDE = {
    'criterion.weight': torch.ones(3),
    'loss_fn.pos_weight': torch.ones(3),
    'val_iou.confmat': torch.zeros(3, 3),
    'n_averaged': torch.tensor(4),
    'total_ops': torch.zeros(1),
    'criterion.vgg.conv.weight': torch.ones(3, 3, 3, 3),
    'decode_head.loss_decode.class_weight': torch.ones(3),
    'backbone.feature_fusion.lower.bn.num_batches_tracked': torch.tensor(3),
}
WITHIN = {  # what might be the network's, though no table knows it
    'backbone.extra.weight': torch.ones(3),
    'attention.conv.weight': torch.ones(3, 3, 1, 1),
    'projection.weight': torch.ones(3, 3),
    'scale.weight': torch.ones(3),
}


def test_what_lies_beside_the_network_is_left_out_and_named(published):
    converted = weights.convert({name: value.numpy() for name, value in {**published, **BESIDE}.items()})
    assert is_state(converted, published) and set(converted.ignored) == set(BESIDE)
    assert set(converted.left_out.split(', ')) == set(BESIDE)


@pytest.mark.parametrize('name', WITHIN)
def test_what_may_be_the_networks_is_refused(published, name):
    extra = {'scale.bias': torch.ones(3)} if name == 'scale.weight' else {}
    with pytest.raises(StateError, match=f'unknown: {name}'):
        weights.convert({name: value.numpy() for name, value in {**published, name: WITHIN[name], **extra}.items()})


def swa(tensors):
    return {**prefixed('module.', tensors), 'n_averaged': torch.tensor(100)}


ONLY_AVERAGES = {
    'timm': lambda ema: {'epoch': 3, 'state_dict_ema': ema},
    'torchvision': lambda ema: {'model_ema': swa(ema)},
    'AveragedModel': swa,
    'mmengine': lambda ema: {'ema_state_dict': {**prefixed('module.', ema), 'steps': torch.tensor(9)}},
    'camel case': lambda ema: {'modelEMA': ema},
    'Lightning': lambda ema: {'state_dict': prefixed('ema_model.module.', ema)},
    'swa': lambda ema: {'swa_state_dict': ema},
}
BOTH = {  # the last and the averaged weights, and the name of the averaged ones
    'timm': lambda last, ema: ({'state_dict': last, 'state_dict_ema': ema, 'optimizer': {}}, 'state_dict_ema'),
    'torchvision': lambda last, ema: ({'model_ema': swa(ema), 'model': last}, 'model_ema.module'),
    'Lightning': lambda last, ema: (
        {'state_dict': {**prefixed('model.', last), **prefixed('model_ema.module.', ema)}},
        'state_dict.model_ema.module',
    ),
    'inside': lambda last, ema: ({**last, **prefixed('ema.', ema)}, 'ema'),
    'mmengine': lambda last, ema: (  # exchanges both before it saves
        {'state_dict': ema, 'ema_state_dict': {**prefixed('module.', last), 'steps': torch.tensor(9)}},
        'state_dict',
    ),
    'mmcv': lambda last, ema: (  # so does mmcv, which keeps the last ones as buffers of the network
        {'state_dict': {**ema, **{f'ema_{name.replace(".", "_")}': value for name, value in last.items()}}},
        'state_dict',
    ),
}


@pytest.mark.parametrize('wrap', ONLY_AVERAGES.values(), ids=ONLY_AVERAGES)
def test_averages_alone_are_read(tmp_path, averages, wrap):
    torch.save(wrap(averages), tmp_path / 'x.pth')
    converted = weights.load(tmp_path / 'x.pth')
    assert is_state(converted, averages) and converted.chosen.startswith('the averaged ones')
    assert is_state(weights.load(tmp_path / 'x.pth', weights_of='ema'), averages)
    with pytest.raises(StateError, match='x.pth: --weights-of last: holds no weights but averaged ones'):
        weights.load(tmp_path / 'x.pth', weights_of='last')


@pytest.mark.parametrize('wrap', BOTH.values(), ids=BOTH)
def test_of_both_the_averages_are_taken_and_this_is_said(tmp_path, published, averages, wrap):
    content, name = wrap(published, averages)
    torch.save(content, tmp_path / 'x.pth')
    converted = weights.load(tmp_path / 'x.pth')
    assert is_state(converted, averages)
    assert converted.chosen.startswith(f'the averaged ones ({name}), to which published scores belong; --weights-of last takes')
    assert is_state(weights.load(tmp_path / 'x.pth', weights_of='ema'), averages)
    assert is_state(weights.load(tmp_path / 'x.pth', weights_of='last'), published)


def test_other_sets_are_named_and_chosen_by_name(tmp_path, published, averages):
    torch.save({'state_dict': {**prefixed('student.', published), **prefixed('teacher.', averages)}}, tmp_path / 'x.pth')
    named = r'student \(fast_scnn of mmseg\), state_dict.teacher \(fast_scnn of mmseg\): choose one by --weights-of NAME'
    with pytest.raises(StateError, match=named):
        weights.load(tmp_path / 'x.pth')
    for name, expected in {'student': published, 'state_dict.teacher': averages, 'ema': averages, 'last': published}.items():
        assert is_state(weights.load(tmp_path / 'x.pth', weights_of=name), expected)
    with pytest.raises(StateError, match='--weights-of generator: no sets of weights are called so'):
        weights.load(tmp_path / 'x.pth', weights_of='generator')


def test_the_same_weights_under_two_names_are_one_set(published):
    arrays = {name: value.numpy() for name, value in published.items()}
    assert is_state(
        weights.convert({'model': arrays, 'best': {name: value.copy() for name, value in arrays.items()}}), published
    )


def test_a_generator_beside_a_discriminator(published):
    arrays = {name: value.numpy() for name, value in published.items()}
    converted = weights.convert(
        {**prefixed('generator.', arrays), 'discriminator.conv.weight': np.ones((3, 3, 3, 3), np.float32)}
    )
    assert is_state(converted, published) and converted.left_out == 'discriminator.conv.weight'


def test_what_an_optimizer_keeps_of_each_parameter_is_no_network(published):
    arrays = {name: value.numpy() for name, value in published.items()}
    moments = {f'moments.{name}': array for name, array in arrays.items() if 'running' not in name}
    assert is_state(weights.convert({**arrays, **moments}), published)


def test_a_backbone_in_an_unknown_network_is_taken_when_asked_for():
    stdc = next(table for table in TABLES if (table.source, table.arch) == ('mmseg', 'stdc1'))
    arrays = {f'backbone.{mark}': np.ones((2, 2, 1, 1), np.float32) for mark in stdc.marks}
    head = {'decode_head.query.weight': np.ones((3, 3, 1, 1), np.float32)}
    with pytest.raises(StateError, match='is a part of a network that is not known here.*--weights-of backbone takes the part'):
        weights.convert({**arrays, **head})
    assert weights.convert({**arrays, **head}, weights_of='backbone').arch == 'stdc1'
    assert weights.convert(arrays).arch == 'stdc1'


def test_a_missing_tensor_is_an_error(tmp_path, published, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    gone = 'backbone.feature_fusion.conv_lower_res.bn.weight'
    torch.save({name: value for name, value in published.items() if name != gone}, 'x.pth')
    assert main(['convert', 'x.pth', '--out', 'y.safetensors']) == 2
    assert 'x.pth: fast_scnn of mmseg, 3 classes' in (said := capsys.readouterr().err)
    assert '1 missing (feature_fusion.lower.bn.weight)' in said


class Holder(torch.nn.Module):
    """Modules and parameters by dotted names."""

    def __init__(self, tensors):
        super().__init__()
        for name, value in tensors.items():
            part, _, rest = name.partition('.')
            if not rest and 'running' in part:
                self.register_buffer(part, value)
            elif not rest:
                self.register_parameter(part, torch.nn.Parameter(value))
            elif part not in self._modules:
                below = {key.removeprefix(f'{part}.'): tensor for key, tensor in tensors.items() if key.startswith(f'{part}.')}
                self.add_module(part, Holder(below))
        self.register_buffer('anchors', torch.ones(3), persistent=False)


@pytest.mark.parametrize('legacy', [False, True], ids=['zip', 'legacy'])
def test_a_pickled_module(tmp_path, published, legacy):
    torch.save({'epoch': 1, 'net': Holder(published)}, tmp_path / 'x.pt', _use_new_zipfile_serialization=not legacy)
    assert is_state(weights.load(tmp_path / 'x.pt'), published)
    torch.save(torch.nn.Conv2d(3, 4, 1), tmp_path / 'y.pt', _use_new_zipfile_serialization=not legacy)
    with pytest.raises(StateError, match=r'y.pt: no network.*saved whole: torch.save\(model.state_dict\(\), FILE\)'):
        weights.load(tmp_path / 'y.pt')


def test_a_torchscript_archive(tmp_path, published):
    traced = torch.jit.trace(torch.nn.Conv2d(3, 4, 1), torch.zeros(1, 3, 2, 2))
    traced.save(tmp_path / 'x.pt')
    assert {name: array.shape for name, array in weights.read(tmp_path / 'x.pt').items()} == {
        'weight': (4, 3, 1, 1),
        'bias': (4,),
    }
    with pytest.raises(StateError, match=r'x.pt: no network.*saved whole'):
        weights.load(tmp_path / 'x.pt')


class Canary:
    """Makes a file when any of what it is pickled as is called."""

    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize('protocol', range(6))
def test_nothing_in_a_pickle_is_executed(tmp_path, monkeypatch, protocol):
    monkeypatch.chdir(tmp_path)
    bombs = [
        Canary(os.system, 'touch executed'),
        Canary(eval, "open('executed', 'w')"),
        Canary(exec, "open('executed', 'w')"),
        Canary(open, 'executed', 'w'),
        Canary(os.mkdir, 'executed'),
        Canary(getattr, 'text', 'upper'),
        Canary(__import__, 'this_module_is_not_there'),
    ]
    content = pickle.dumps({'weight': np.ones(3, np.float32), 'bombs': bombs, 'key': {bombs[0]: 1}}, protocol)
    (tmp_path / 'x.pkl').write_bytes(content)
    write_zip(tmp_path / 'x.pth', content, {})
    for name in ('x.pkl', 'x.pth'):
        if protocol < 2 and name == 'x.pkl':  # no byte tells a pickle of text
            continue
        if name == 'x.pth':  # its arrays are no tensors
            with pytest.raises(StateError, match='no weights in it'):
                weights.read(tmp_path / name)
        else:
            assert np.array_equal(weights.read(tmp_path / name)['weight'], np.ones(3, np.float32))
    assert (
        sorted(path.name for path in tmp_path.iterdir()) == ['x.pkl', 'x.pth'] and 'this_module_is_not_there' not in sys.modules
    )


@pytest.mark.parametrize(
    'operations',
    [
        b'(cos\nsystem\nX\x0e\x00\x00\x00touch executedo',
        b'(X\x0e\x00\x00\x00touch executedios\nsystem\n',
        b'cos\nsystem\nX\x0e\x00\x00\x00touch executed\x85}\x92',
        b'cos\nsystem\nX\x0e\x00\x00\x00touch executed\x85\x81',
        b'cos\nsystem\n)\x81(X\x0c\x00\x00\x00__setstate__K\x01db',
        b'\x82\x01)R',
        b'cbuiltins\ngetattr\ncos\npath\nX\x06\x00\x00\x00system\x86RX\x0e\x00\x00\x00touch executed\x85R',
        b'Px\n',
        b'(K\x01K\x020K\x011' + b'N20',
        b'(lp0\n0g0\n',
        b'\x96\x03\x00\x00\x00\x00\x00\x00\x00abc0\x97\x98',
        b'(K\x01K\x01\x91',
    ],
    ids=[
        'OBJ',
        'INST',
        'NEWOBJ_EX',
        'NEWOBJ',
        'BUILD',
        'EXT',
        'REDUCE of a result',
        'PERSID',
        'POP',
        'GET',
        'bytes',
        'frozenset',
    ],
)
def test_every_operation_is_inert(tmp_path, monkeypatch, operations):
    monkeypatch.chdir(tmp_path)
    plain = tensor_pickle([2, 3], [3, 1], 6)
    content = plain[:-1] + b'X\x01\x00\x00\x00x' + operations + b's.'
    write_zip(tmp_path / 'x.pth', content, {'0': np.arange(6, dtype='<f4').tobytes()})
    assert list(weights.read('x.pth')) == ['w']
    assert [path.name for path in tmp_path.iterdir()] == ['x.pth']


FLOAT8 = [name for name in BY_NAME if name.startswith('float8')]


@pytest.mark.parametrize('name', ['bfloat16', 'float16', *FLOAT8])
def test_narrow_floats_are_pytorchs(tmp_path, name):
    from safetensors.torch import save_file as save_torch

    dtype = getattr(torch, name)
    codes = torch.arange(256, dtype=torch.uint8) if name in FLOAT8 else torch.arange(-30000, 30000, 7, dtype=torch.int16)
    values = codes.view(dtype)
    expected = values.float().numpy()
    torch.save({'a': {'x': values, 'part': values[3:9]}}, tmp_path / 'x.pth')
    save_torch({'x': values, 'part': values[3:9].clone()}, tmp_path / 'x.safetensors')
    for path in (tmp_path / 'x.pth', tmp_path / 'x.safetensors'):
        found = weights.read(path)
        assert np.array_equal(found['x'].astype(np.float32), expected, equal_nan=True)
        assert np.array_equal(found['part'].astype(np.float32), expected[3:9], equal_nan=True)


def test_other_storages_and_byte_orders(tmp_path):
    value = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    value.attribute = 1
    parameter = torch.nn.Parameter(value.clone())
    parameter.attribute = 1
    torch.save({'subclass': value, 'parameter': parameter, 'wide': torch.arange(5).to(torch.uint16)}, tmp_path / 'x.pth')
    found = weights.read(tmp_path / 'x.pth')
    assert np.array_equal(found['subclass'], value) and np.array_equal(found['parameter'], value.numpy())
    assert np.array_equal(found['wide'], np.arange(5)) and found['wide'].dtype == np.uint16
    write_zip(tmp_path / 'big.pth', tensor_pickle([2, 3], [3, 1], 6), {'0': np.arange(6, dtype='>f4').tobytes()})
    with zipfile.ZipFile(tmp_path / 'big.pth', 'a') as archive:
        archive.writestr('archive/byteorder', 'big')
    assert np.array_equal(weights.read(tmp_path / 'big.pth')['w'], value)


OTHER_TENSORS = {
    'sparse': lambda: torch.eye(3).to_sparse(),
    'complex': lambda: torch.zeros(3, dtype=torch.complex64),
    'quantised': lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
    'without numbers': lambda: torch.zeros(3, device='meta'),
}


@pytest.mark.filterwarnings('ignore::UserWarning')
@pytest.mark.parametrize('kind', OTHER_TENSORS)
def test_tensors_of_other_kinds(tmp_path, published, kind):
    """They are named where the network needs them, and do not matter beside it."""
    torch.save({**published, 'decode_head.conv_seg.bias': OTHER_TENSORS[kind]()}, tmp_path / 'x.pth')
    with pytest.raises(StateError, match=f'x.pth: decode_head.conv_seg.bias is a tensor {kind}.*save them as plain tensors'):
        weights.load(tmp_path / 'x.pth')
    torch.save({'model': published, 'optimizer': {'state': OTHER_TENSORS[kind]()}}, tmp_path / 'y.pth')
    assert is_state(weights.load(tmp_path / 'y.pth'), published)
    torch.save({'w': OTHER_TENSORS[kind]()}, tmp_path / 'z.pth')
    with pytest.raises(StateError, match=f'z.pth: no weights in it: its 1 tensors are {kind}'):
        weights.load(tmp_path / 'z.pth')


def zipped(**files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w') as archive:
        for name, content in files.items():
            archive.writestr(name.replace('__', '/'), content)
    return buffer.getvalue()


def npz():
    buffer = io.BytesIO()
    np.savez(buffer, a=np.ones(3))
    return buffer.getvalue()


KINDS = {  # content, and what the message says
    'empty': (b'', 'empty'),
    'web page': (b'\n<!DOCTYPE html><html><title>Google Drive - Virus scan warning</title>', 'a web page'),
    'Git LFS': (b'version https://git-lfs.github.com/spec/v1\noid sha256:4665\nsize 5\n', 'git lfs pull'),
    'ONNX': (b'\x08\x08\x12\x07pytorch\x1a\x052.1.0:', 'ONNX'),
    'MINDIR': (b'\n\x050.1.1\x12\tMindSpore', 'MINDIR'),
    'HDF5': (b'\x89HDF\r\n\x1a\n' + bytes(100), 'HDF5'),
    'npz': (npz(), 'save_file'),
    'zip': (zipped(**{'weights.pth': b'x'}), 'unpack it'),
    'cut zip': (zipped(**{'archive__data.pkl': b'x' * 50})[:60], 'truncated'),
    'gzip': (b'\x1f\x8b\x08' + bytes(30), 'gzip'),
    'tar': (b'a.pth' + bytes(252) + b'ustar\x0000' + bytes(250), 'tar -xf'),
    'TensorFlow index': (bytes(60) + b'\x57\xfb\x80\x8b\x24\x75\x47\xdb', 'TensorFlow'),
    'TensorFlow checkpoint': (b'model_checkpoint_path: "model.ckpt-1"\n', 'TensorFlow'),
    'shards': (
        json.dumps({'weight_map': {'a': 'model-1-of-2.safetensors', 'b': 'model-2-of-2.safetensors'}}).encode(),
        '2 files',
    ),
    'text': (b'epoch,loss\n1,0.5\n', 'text'),
    'unknown': (bytes(range(200, 240)), 'another kind of file'),
}


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors', '.ckpt', ''])
@pytest.mark.parametrize('kind', KINDS)
def test_what_is_no_file_of_weights_is_answered_by_its_kind(tmp_path, capsys, kind, suffix):
    content, said = KINDS[kind]
    path = tmp_path / f'x{suffix}'
    path.write_bytes(content)
    for function in (weights.load, checkpoint.load):
        with pytest.raises(StateError, match=said) as caught:
            function(path)
        assert str(path) in str(caught.value)


def test_folders_in_place_of_files(tmp_path):
    for name, said in {
        '.metadata': 'dcp_to_torch',
        'zero_to_fp32.py': 'DeepSpeed',
        'saved_model.pb': 'TensorFlow',
        'checkpoints': 'a run folder; give a file of its folder checkpoints',
        'x': 'a folder; give the file of weights in it',
    }.items():
        folder = tmp_path / name.lstrip('.')
        folder.mkdir()
        (folder / name).mkdir() if name == 'checkpoints' else (folder / name).touch()
        with pytest.raises(StateError, match=said):
            weights.load(folder)


def test_shards_of_a_network_are_named(published):
    arrays = {name: value.numpy() for name, value in published.items()}
    with pytest.raises(StateError, match=r'1 tensors are empty \(decode_head.conv_seg.bias\): one of several files'):
        weights.convert({**arrays, 'decode_head.conv_seg.bias': np.ones(0, np.float32)})


def test_another_publisher_and_an_unknown_network(published):
    arrays = {name: value.numpy() for name, value in published.items()}
    with pytest.raises(
        StateError, match='not weights of tramac, but the top of the file .fast_scnn of mmseg.: leave out --from'
    ):
        weights.convert(arrays, 'tramac')
    mark = FAST_SCNN.marks[0]
    unknown = {name: array for name, array in arrays.items() if name != mark} | {'neck.weight': np.ones(3, np.float32)}
    counts = f'{len(arrays) - 1} of {len(arrays)} names are its'
    nearest = rf'nearest is fast_scnn of mmseg: {counts}, 1 missing \({mark}\), 1 unexpected \(neck.weight\)'
    for prefix in ('', 'model.net.'):
        with pytest.raises(StateError, match=nearest):
            weights.convert(prefixed(prefix, unknown))
    with pytest.raises(StateError, match='none is near; `twinseg list --models`'):
        weights.convert({'transformer.h.0.attn.weight': np.ones((3, 3), np.float32)})


@pytest.mark.parametrize('command', ['eval', 'predict'])
def test_a_published_file_as_a_checkpoint_is_answered_with_the_whole_command(tmp_path, monkeypatch, capsys, published, command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'a.png').write_bytes(b'\x89PNG')
    arrays = {name: value.numpy() for name, value in published.items()}
    torch.save(published, "some body's.pth")
    torch.save(published, 'old', _use_new_zipfile_serialization=False)
    (tmp_path / 'x.ckpt').write_bytes(ckpt([2, 3], b'Float32', bytes(24)))
    save_file(arrays, 'published.safetensors')
    outs = {
        "some body's.pth": "'some body'\"'\"'s.pth' --out 'some body'\"'\"'s.safetensors'",
        'old': 'old --out old.safetensors',
        'x.ckpt': 'x.ckpt --out x.safetensors',
        'published.safetensors': 'published.safetensors --out published_twinseg.safetensors',
    }
    for name, said in outs.items():
        words = [command, '--checkpoint', name] + (['a.png'] if command == 'predict' else [])
        assert main(words) == 2
        assert f'{name}: ' in (error := capsys.readouterr().err) and f'`twinseg convert {said}`' in error


def test_convert_says_what_was_taken_and_what_was_left_out(tmp_path, monkeypatch, capsys, published, averages):
    monkeypatch.chdir(tmp_path)
    torch.save({'model': {**published, 'criterion.weight': torch.ones(3)}, 'model_ema': swa(averages)}, 'both.pth')
    assert main(['convert', 'both.pth', '--out', 'x.safetensors']) == 0
    said = re.sub(r': +', ': ', capsys.readouterr().out)  # the values are a column
    assert (
        'weights: the averaged ones (model_ema.module), to which published scores belong; --weights-of last takes model' in said
    )
    assert f'left out: model_ema.n_averaged, model ({len(published) + 1} tensors)' in said
    assert main(['convert', 'both.pth', '--weights-of', 'last', '--out', 'y.safetensors']) == 0
    assert re.search(r'weights: +the last ones \(model\), not model_ema\.module', capsys.readouterr().out)
    last, averaged = (checkpoint.model_state(tmp_path / name)[0] for name in ('y.safetensors', 'x.safetensors'))
    name = 'classifier.conv.weight'
    assert np.array_equal(last[name], published['decode_head.conv_seg.weight'])
    assert np.array_equal(averaged[name], averages['decode_head.conv_seg.weight'])


def test_of_our_checkpoints_the_averages_or_the_last(tmp_path, network):
    meta = checkpoint.RunMeta(config={'arch': 'fast_scnn', 'model_args': {'auxiliary': False}}, num_classes=3)
    averaged = {name: array + 1 for name, array in network.items()}
    checkpoint.save(tmp_path / 'x.safetensors', {**prefixed('model.', network), **prefixed('ema.', averaged)}, meta)
    checkpoint.save(tmp_path / 'last.safetensors', prefixed('model.', network), meta)
    name = 'classifier.conv.weight'
    for weights_of, expected in {None: averaged, 'ema': averaged, 'last': network}.items():
        converted = weights.load(tmp_path / 'x.safetensors', weights_of=weights_of)
        assert np.array_equal(converted.state[name], expected[name]) and converted.chosen
    assert np.array_equal(weights.load(tmp_path / 'last.safetensors', weights_of='last').state[name], network[name])
    for weights_of in ('ema', 'student'):
        with pytest.raises(StateError):
            weights.load(tmp_path / 'last.safetensors', weights_of=weights_of)


@pytest.mark.parametrize(
    'key, value',
    [('arch', ['fast_scnn']), ('backbone', 7), ('num_classes', 'three'), ('num_classes', 10**9), ('model_args', 3)],
)
def test_what_a_checkpoint_says_of_its_network_is_checked(tmp_path, network, key, value):
    meta = checkpoint.RunMeta(config={'arch': 'fast_scnn', key: value}, num_classes=3)
    checkpoint.save(tmp_path / 'x.safetensors', prefixed('model.', network), meta)
    with pytest.raises(StateError, match=f'x.safetensors: .* is damaged: {key}: expected '):
        weights.load(tmp_path / 'x.safetensors')


def test_pretrained_says_which_weights_it_takes(tmp_path, network, published, averages):
    backend = get_backend('pytorch')
    torch.save({'model': published, 'model_ema': averages}, tmp_path / 'x.pth')
    filled = backend.build_model('fast_scnn', num_classes=3, auxiliary=False)
    with pytest.warns(UserWarning, match=r'x.pth: takes the averaged ones \(model_ema\), .*; weights_of: last takes model'):
        weights.load_pretrained(backend, filled, 'fast_scnn', tmp_path / 'x.pth')
    assert np.array_equal(backend.state(filled)['classifier.conv.weight'], averages['decode_head.conv_seg.weight'])
    with pytest.warns(UserWarning, match='the last ones'):
        weights.load_pretrained(backend, filled, 'fast_scnn', tmp_path / 'x.pth', weights_of='last')
    with pytest.raises(StateError, match='x.pth: weights_of: student: no sets of weights are called so'):
        weights.load_pretrained(backend, filled, 'fast_scnn', tmp_path / 'x.pth', weights_of='student')
    assert np.array_equal(backend.state(filled)['classifier.conv.weight'], network['classifier.conv.weight'])


def integers(*values):
    return b''.join(b'\x8a\x08' + struct.pack('<q', value) for value in values)


TENSOR = tensor_pickle([2, 3], [3, 1], 6)[3:-1]  # the dict and its tensor, without the start and the end
HOSTILE = {  # pickles of a zip archive
    'key of tuples in tuples': b'\x80\x02}' + b'K\x01' + b'\x85' * 200_000 + b'K\x01s.',
    'key of shared tuples': b'\x80\x02})' + b'2\x86' * 60 + b'K\x01s.',
    'name of shared tuples': b'\x80\x04})' + b'2\x86' * 60 + b'2\x93s.',
    'storage of shared tuples': b'\x80\x02}X\x01\x00\x00\x00a(X\x07\x00\x00\x00storage)'
    + b'2\x86' * 60
    + b'K\x00K\x00K\x00tQs.',
    'lists shared by all levels': b'\x80\x02}X\x01\x00\x00\x00a]'
    + b''.join(b'q%c](h%ch%ce' % (n, n, n) for n in range(60))
    + b's.',
    'a dict in itself': b'\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.',
    'dicts in dicts': b'\x80\x02' + b'}X\x01\x00\x00\x00a' * 50_000 + b'N' + b's' * 50_000 + b'.',
    'long name': b'\x80\x02cos\n' + b'A' * 100_000 + b'\n.',
    'escapes': b'\x80\x02}X\x09\x00\x00\x00\x1b[31mevilK\x01s.',
}


@pytest.mark.parametrize('name', HOSTILE)
def test_hostile_pickles_end_in_one_line(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    write_zip(tmp_path / 'x.pth', HOSTILE[name], {})
    assert main(['convert', 'x.pth']) == 2
    error = capsys.readouterr().err
    assert error.count('\n') == 1 and len(error) <= LONGEST + 1 and error[:-1].isprintable() and 'x.pth' in error
    assert [path.name for path in tmp_path.iterdir()] == ['x.pth']


@pytest.mark.parametrize('compression', [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
@pytest.mark.parametrize('entry', ['byteorder', 'data.pkl'])
def test_bombs_and_broken_compression(tmp_path, entry, compression):
    path = tmp_path / 'x.pth'
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('archive/data/0', bytes(24))
        for name, content in {'byteorder': b'little', 'data.pkl': tensor_pickle([2, 3], [3, 1], 6)}.items():
            content = content + bytes(10 << 20) if name == entry else content
            archive.writestr(f'archive/{name}', content, compression if name == entry else None)
    with pytest.raises(StateError, match='declare more bytes than the file has'):
        weights.read(path)
    with zipfile.ZipFile(path, 'w', compression) as archive:
        archive.writestr('archive/data.pkl', tensor_pickle([2, 3], [3, 1], 6) + os.urandom(400))
    content = bytearray(path.read_bytes())
    content[60:90] = bytes(255 - byte for byte in content[60:90])
    path.write_bytes(content)
    with pytest.raises(StateError, match='x.pth'):
        weights.read(path)


def test_names_that_share_a_storage_are_not_copied(tmp_path):
    """932 names of parts of one storage would take 932 times the file."""
    tensors = torch.zeros(1 << 20)
    torch.save({f'layer{index}.weight': tensors[index:] for index in range(932)}, tmp_path / 'x.pth')
    with pytest.raises(StateError, match='share their numbers'):
        weights.read(tmp_path / 'x.pth')
    torch.save({f'layer{index}.weight': tensors for index in range(932)}, tmp_path / 'y.pth')
    found = weights.read(tmp_path / 'y.pth')
    assert len(found) == 932 and len({id(array) for array in found.values()}) == 1


def test_a_mindspore_tensor_of_many_dimensions(tmp_path):
    def field(number, data):
        length, size = b'', len(data)
        while size > 127:
            length, size = length + bytes([size & 127 | 128]), size >> 7
        return bytes([number << 3 | 2]) + length + bytes([size]) + data

    sizes = b'\x08\xff\x7f' * 300_000
    (tmp_path / 'x.ckpt').write_bytes(field(1, field(1, b'w') + field(2, sizes + field(2, b'Float32') + field(3, b''))))
    with pytest.raises(StateError, match='impossible shape'):
        weights.read(tmp_path / 'x.ckpt')


def test_a_message_is_one_printable_line():
    assert one_line('a\x1b[31m\n b\u202e') == 'a\\x1b[31m b\\u202e'
    long = one_line('START ' + 'x' * 10_000_000 + ' END')
    assert len(long) == LONGEST and long.startswith('START') and long.endswith('END') and ' ... ' in long
