"""Arguments that have no effect on a network are refused, and no others: found by building every network with and without.

The model files of both backends are one text (``test_twins.py``), so what holds for PyTorch's networks holds for MindSpore's.
"""

import inspect
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.zoo import NETWORKS
from twinseg.common import config
from twinseg.common.backend import available, find_builder, get_backend, used_arguments
from twinseg.common.errors import UserError
from twinseg.common.settings import recipes

VARIANTS = {  # beside the networks of the matrix, each of them with and without auxiliary heads
    'resnet18 with stochastic depth': ('resnet18', {'drop_path_rate': 0.1}),
    'ddrnet39 with stochastic depth': ('ddrnet39', {'drop_path_rate': 0.1}),
    'pspnet of three stages': ('pspnet', {'backbone': 'resnet18', 'stages': 3}),
    'upernet at stride 16': ('upernet', {'backbone': 'resnet18', 'output_stride': 16}),
    'unet behind a ResNet, bilinear': ('unet', {'backbone': 'resnet18', 'block': 'linear', 'upsampling': 'bilinear'}),
    'unet behind a ResNet with a head of FCN': ('unet', {'backbone': 'resnet18', 'head': 'fcn'}),
    **{
        f'{name}{with_heads}': (case.arch, {**case.arguments, **heads})
        for name, case in NETWORKS.items()
        for with_heads, heads in (('', {}), (' without auxiliary heads', {'auxiliary': False}))
        if not heads or case.parameters[0] != case.parameters[1]
    },
}
ALWAYS = ('num_classes', 'auxiliary')  # every builder takes them; a network without auxiliary heads is as both values ask
ANY_DEPTH = ('dilate_second',)  # a publisher's networks of all depths have it, of which those with basic blocks use it
VALUES = {'drop_path_on': ['shortcut'], 'drop_path_rate': [0.2], 'bins': [[1, 2]], 'fpn': ['shared'], 'rates': [[6, 12]]}


@pytest.fixture(scope='module')
def models() -> dict[str, Any]:
    pytest.importorskip('torch')
    return get_backend('pytorch').MODELS


def values(key: str, default: Any) -> list[Any]:
    """Other values that an argument can have."""
    seen = [case.arguments[key] for case in NETWORKS.values() if key in case.arguments]
    if isinstance(default, bool):
        seen.append(not default)
    elif isinstance(default, int):
        seen += [default + 2, 2 * default, default // 2]
    elif isinstance(default, float):
        seen.append(default / 2 + 0.07)
    elif default is None and not seen:
        seen += [8, 0.3]
    return [value for value in (*VALUES.get(key, []), *seen) if value != default]


def structure(network: Any) -> Iterator[str]:
    """All that tells two networks apart before their weights: parts, their settings, shapes."""
    for name, module in network.named_modules():
        settings = {key: value for key, value in vars(module).items() if not key.startswith('_') and key != 'training'}
        shapes = {key: tuple(parameter.shape) for key, parameter in module.named_parameters(recurse=False)}
        yield f'{name} {type(module).__name__} {settings} {shapes}'


def build(builder: Any, arguments: dict[str, Any]) -> list[str] | None:
    """The structure; None for arguments that do not go together."""
    import torch

    try:
        with torch.device('meta'):
            return list(structure(builder(**arguments)))
    except (UserError, ValueError, ZeroDivisionError):
        return None


@pytest.mark.parametrize('name', VARIANTS)
def test_what_has_no_effect_is_refused_and_nothing_else(models, name):
    arch, arguments = VARIANTS[name]
    builder = models[arch]
    arguments = used_arguments(models, arch, arguments)
    find_builder(models, arch, arguments)
    base = build(builder, arguments)
    for key, parameter in inspect.signature(builder).parameters.items():
        if key in ALWAYS + ANY_DEPTH:
            continue
        others = [value for value in values(key, parameter.default) if value != arguments.get(key, parameter.default)]
        assert others or key in arguments, f'{key}: add values to VALUES'
        if key in arguments:
            others.append(parameter.default)
        has_effect = any(build(builder, {**arguments, key: value}) != base for value in others)
        for value in others:
            refused = key not in used_arguments(models, arch, {**arguments, key: value})
            assert refused != has_effect or value == parameter.default, f'{key}: {value!r}'


@pytest.mark.parametrize(
    'arch, arguments, message',
    [
        (
            'pspnet',
            {'auxiliary': False, 'auxiliary_channels': 64},
            'on pspnet with auxiliary: False',
        ),
        ('fcn', {'backbone': 'vgg16', 'stem': '7x7'}, "stem has no effect on fcn with backbone: 'vgg16'"),
        ('segnet', {'backbone': 'resnet50', 'shared': True}, "shared has no effect on segnet with backbone: 'resnet50'"),
        ('deeplabv3', {'shared_relu': True}, "shared_relu has no effect on deeplabv3 with backbone: 'resnet50'"),
        ('unet', {'stem': 'v1c'}, "stem has no effect on unet with backbone: 'plain'"),
        ('resnet18', {'drop_path_on': 'shortcut'}, 'drop_path_on has no effect on resnet18 with drop_path_rate: 0.0'),
        ('fast_scnn', {'width': 2}, "fast_scnn has no argument 'width'"),
    ],
)
def test_the_reason_is_said(backend, arch, arguments, message):
    with pytest.raises(UserError, match=message):
        backend.build_model(arch, **arguments)


@pytest.mark.parametrize('name', [path.stem for path in recipes.recipes()])
def test_recipes_name_nothing_without_effect(name):
    found = config.load(name)
    find_builder(get_backend(available()[0]).MODELS, found.model.arch, found.model.arguments())


def test_sizes_without_heads_are_measured_with_their_arguments_left_out(models):
    arguments = {'backbone': 'resnet18', 'channels': 64, 'auxiliary_channels': 64}
    given = used_arguments(models, 'pspnet', {**arguments, 'auxiliary': False})
    assert given == {'backbone': 'resnet18', 'channels': 64, 'auxiliary': False}
    assert get_backend('pytorch').parameters(models['pspnet'](**given)) > 0
