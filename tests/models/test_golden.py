"""Our networks give what the publishers' networks gave, with the publishers' weights (docs/design.md section 4)."""

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest

from tests.conftest import GOLDEN, operator_by_operator
from tests.golden import golden
from twinseg.common import weights
from twinseg.common.backend import get_backend
from twinseg.common.config import Loss
from twinseg.common.images.interpolation import resize_bilinear

OUTPUTS = {  # the publishers' names -> ours, for one of our networks or for all
    **dict.fromkeys(
        (
            'logits',
            'decode_head',
            'feat_out',
            'out',
            'final_layer',
            'train.logits',
            'train.decode_head.context',
            'decode_head.context',
        ),
        'logits',
    ),
    **dict.fromkeys(
        ('aux', 'auxiliary_head', 'seghead_extra', 'train.aux', 'train.decode_head.spatial', 'decode_head.spatial'), 'aux'
    ),
    'fast_scnn aux': 'aux_ltd',
    'fast_scnn auxiliary_head.0': 'aux_gfe',
    'fast_scnn auxiliary_head.1': 'aux_ltd',
    'auxiliary_head.0': 'aux16',
    'auxiliary_head.1': 'aux32',
    'auxiliary_head.2': 'detail',  # STDC
    'feat_out16': 'aux16',
    'feat_out32': 'aux32',
    'feat_out_sp8': 'detail',
}
NOT_IN_WEIGHTS = {'deeplabv3plus': ('output_stride',)}  # by network: arguments, of the same name there, that shape no tensor
OUTPUT_TOLERANCE = 2e-5  # of the largest magnitude, or 3 times the fixture's noise
STATISTICS_TOLERANCE = 2e-5  # of the largest magnitude: mean and standard deviation of the whole output
GRADIENT_TOLERANCE = 1e-4  # relative, or 10 times the fixture's noise
NUDGES = (0, 1, -1, 2, -2, 3, -3, 4)  # of the images, in units of their rounding error, until no relu falls on the other side
FEW, WIDER = 0.03, 1.5  # share of the parameters whose tolerance is this many times as wide: processors round differently
LOSS_TOLERANCE = 1e-5


def cases(gradients=False):
    """Names of the fixtures."""
    names = sorted(path.stem for path in GOLDEN.glob('*.json') if path.stem != 'losses')
    assert names, f'{GOLDEN}: no fixtures'
    return [name for name in names if not gradients or golden.read(GOLDEN / f'{name}.json').get('gradients')]


def published(root, case):
    """The description, the outputs, and the publisher's weights in our names."""
    return (*golden.load(root / f'{case}.json'), published_weights(root, case.removesuffix('_odd')))


@lru_cache(maxsize=1)  # for both backends, and for the outputs at odd sizes
def published_weights(root, case):
    spec = golden.read(root / f'{case}.json')
    converted = weights.convert(golden.state_dict(spec))
    chosen = {name: spec['arguments'][name] for name in NOT_IN_WEIGHTS.get(converted.arch, ()) if name in spec['arguments']}
    return replace(converted, arguments={**converted.arguments, **chosen})


def network(backend, converted):
    """Our network with the publisher's weights, every one of them used."""
    built = backend.MODELS[converted.arch](**converted.arguments)
    report = backend.load_state(built, converted.state)
    assert not report.missing and not report.unexpected and not report.mismatched
    return built


def ours(name, arch):
    return OUTPUTS.get(f'{arch} {name}') or OUTPUTS[name]


@pytest.mark.parametrize('case', cases())
def test_outputs(request, golden_folder, backend, case):
    if backend.name == 'mindspore' and case.endswith('_odd') and not request.config.getoption('--slow'):
        pytest.skip("needs --slow; PyTorch's output is the publisher's, and test_matrix.py compares the twins at odd sizes")
    spec, recorded, converted = published(golden_folder, case)
    built = network(backend, converted)
    with operator_by_operator():
        outputs = backend.forward(built, golden.input(case, spec['input_shape']), auxiliary=True)
    for output in spec['outputs']:
        name = ours(output['name'], converted.arch)
        value = outputs[name]
        if value.ndim == 4 and value.shape[2:] != tuple(output['shape'][2:]):
            value = resize_bilinear(value, output['shape'][2:], built.align_corners[name])
        assert list(value.shape) == output['shape']
        largest = output['absmax']
        tolerance = max(OUTPUT_TOLERANCE, 3 * output.get('noise', 0)) * largest
        difference = np.abs(golden.sample(value, output['stride']) - recorded[output['name']]).max()
        assert difference <= tolerance, f'{output["name"]}: {difference / largest:.1e} of the largest magnitude'
        assert abs(np.abs(value).max() - largest) <= tolerance
        assert abs(value.mean(dtype=float) - output['mean']) <= STATISTICS_TOLERANCE * largest
        assert abs(value.std(dtype=float) - output['std']) <= STATISTICS_TOLERANCE * largest


@pytest.mark.parametrize('case', [case for case in cases() if not str(case).endswith('_odd')])
def test_sizes(golden_folder, case):
    """Parameters are the publisher's, but for what its network never reads; multiply-accumulates likewise."""
    pytest.importorskip('torch')
    spec, _, converted = published(golden_folder, case)
    backend = get_backend('pytorch')
    built = network(backend, converted)
    counted = {
        key: np.prod(shape, dtype=int)
        for key, shape, kind in spec['params']
        if kind not in ('running_mean', 'running_var', 'constant', 'bilinear')
        and key not in spec.get('aliases', {})
        and not key.endswith(('running_mean', 'running_var'))
    }
    unread = sum(counted.get(key, 0) for key in converted.ignored)
    assert sum(counted.values()) == spec['num_parameters']
    assert backend.parameters(built) == spec['num_parameters'] - unread
    built.set_auxiliary(case.startswith(('official_ddrnet', 'tramac', 'torchvision')))  # these count their auxiliary heads
    for shape, macs in spec.get('macs', {}).items():
        if shape != 'tool' and not case.startswith('official_stdc'):  # this one computes heads that nobody reads
            number, _, height, width = map(int, shape.split('x'))
            assert number * backend.macs(built, (height, width)) == macs


@pytest.mark.parametrize('case', cases(gradients=True))
def test_gradient_norms(golden_folder, backend, case):
    """Cross-entropy of the main output, then of all listed outputs, at the input's size."""
    spec, _, converted = published(golden_folder, case)
    images = golden.input(case, spec['input_shape'])
    labels = golden.label(case, [spec['input_shape'][0], *spec['input_shape'][2:]], spec['num_classes'])
    built = network(backend, converted)
    for record in spec['gradients']:
        tolerance = max(GRADIENT_TOLERANCE, 10 * record['noise'])
        wanted = {name: record['norms'][theirs] or 0.0 for name, theirs in converted.names.items() if theirs in record['norms']}
        auxiliary = {ours(name, converted.arch): 1.0 for name in record['loss_of']}
        auxiliary.pop('logits')
        for nudge in NUDGES:
            nudged = images * np.float32(1 + nudge * np.finfo(np.float32).eps)
            with operator_by_operator():
                loss, gradients = backend.loss_and_gradients(built, nudged, labels, Loss(auxiliary_weights=auxiliary))
            assert loss == pytest.approx(record['loss'], rel=LOSS_TOLERANCE)
            norms = {name: np.linalg.norm(gradient) for name, gradient in gradients.items()}
            apart = {name: abs(norm - wanted[name]) / (wanted[name] or 1e-12 / tolerance) for name, norm in norms.items()}
            over = {name: difference for name, difference in apart.items() if not difference <= tolerance}
            if len(over) <= FEW * len(norms) and all(difference <= WIDER * tolerance for difference in over.values()):
                break
        else:
            pytest.fail(f'{len(over)} of {len(norms)} norms differ by more than {tolerance:.1e}: {over}')
