"""Names of the ResNets inside published networks, and which ResNet it is."""

from twinseg.common.errors import StateError
from twinseg.common.weights.publishers.table import Arrays

STAGE_BLOCKS = {  # blocks of the second and third stage, and whether they are bottlenecks
    'resnet18': (2, 2, False),
    'resnet34': (4, 6, False),
    'resnet50': (4, 6, True),
    'resnet101': (4, 23, True),
    'resnet152': (8, 36, True),
}
BLOCK = {
    **{f'conv{index}': f'conv{index}.conv' for index in (1, 2, 3)},
    **{f'bn{index}': f'conv{index}.bn' for index in (1, 2, 3)},
    'downsample.0': 'downsample.conv',
    'downsample.1': 'downsample.bn',
}
STEMS = {
    '7x7': {'conv1': 'stem.0.conv', 'bn1': 'stem.0.bn'},
    'v1c': {  # mmsegmentation
        f'stem.{3 * index + layer}': f'stem.{index}.{part}' for index in range(3) for layer, part in enumerate(('conv', 'bn'))
    },
    'deep': {  # PyTorch-Encoding: the last norm is outside the list
        **{f'conv1.{3 * index}': f'stem.{index}.conv' for index in range(3)},
        'conv1.1': 'stem.0.bn',
        'conv1.4': 'stem.1.bn',
        'bn1': 'stem.2.bn',
    },
    'initial': {'initial.0': 'stem.0.conv', 'initial.1': 'stem.0.bn'},  # yassouali's UperNet and GCN
    'deep initial': {  # yassouali's PSPNet and U-Net: the last norm is outside the list
        **{f'initial.0.{3 * index}': f'stem.{index}.conv' for index in range(3)},
        'initial.0.1': 'stem.0.bn',
        'initial.0.4': 'stem.1.bn',
        'initial.1': 'stem.2.bn',
    },
    'layer0': {'layer0.0': 'stem.0.conv', 'layer0.1': 'stem.0.bn'},  # yassouali's DeepLabV3+ and DUC-HDC
}


def rules(theirs: str = '', stem: str = '7x7', ours: str = 'backbone.', stages: int = 4) -> dict[str, str]:
    """Rules for a ResNet, or its first stages, whose names begin with ``theirs`` (with its dot) in torchvision's form."""
    return {
        **{f'{theirs}{name}': f'{ours}{target}' for name, target in STEMS[stem].items()},
        **{
            f'{theirs}layer{stage}.{{block}}.{name}': f'{ours}layer{stage}.{{block}}.{target}'
            for stage in range(1, stages + 1)
            for name, target in BLOCK.items()
        },
    }


def name(state: Arrays, prefix: str = 'backbone.') -> str:
    """Name of the ResNet, from our tensors' names. With two stages alone 'resnet50' may be ResNet-101: they are the same."""
    counts = [
        len({key.removeprefix(prefix).split('.')[1] for key in state if key.startswith(f'{prefix}layer{stage}.')})
        for stage in (2, 3)
    ]
    bottlenecks = f'{prefix}layer2.0.conv3.conv.weight' in state
    for known, (second, third, kind) in STAGE_BLOCKS.items():
        if counts in ([second, third], [second, 0]) and bottlenecks == kind:
            return known
    raise StateError(
        f'its ResNet has {counts[0]} and {counts[1]} {"bottleneck" if bottlenecks else "basic"} blocks in stages 2 '
        'and 3: none that is known here'
    )


def stem(state: Arrays, prefix: str = 'backbone.') -> str:
    """Name of the stem, from our tensor names."""
    last = state.get(f'{prefix}stem.2.conv.weight')
    return '7x7' if last is None else 'v1c' if last.shape[0] == 64 else 'deep'
