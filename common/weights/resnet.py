"""Names of the ResNets inside published networks, and which ResNet it is."""
from common.errors import StateError
from common.weights.table import Arrays

STAGE_BLOCKS = {'resnet18': (2, False), 'resnet34': (6, False), 'resnet50': (6, True), 'resnet101': (23, True),
                'resnet152': (36, True)}  # blocks of the third stage, and whether they are bottlenecks
BLOCK = {
    **{f'conv{index}': f'conv{index}.conv' for index in (1, 2, 3)},
    **{f'bn{index}': f'conv{index}.bn' for index in (1, 2, 3)},
    'downsample.0': 'downsample.conv',
    'downsample.1': 'downsample.bn',
}
STEMS = {
    '7x7': {'conv1': 'stem.0.conv', 'bn1': 'stem.0.bn'},
    'v1c': {f'stem.{3 * index + place}': f'stem.{index}.{part}'  # of mmsegmentation
            for index in range(3) for place, part in enumerate(('conv', 'bn'))},
    'deep': {**{f'conv1.{3 * index}': f'stem.{index}.conv' for index in range(3)},  # of torchvision's shape: the last norm
             'conv1.1': 'stem.0.bn', 'conv1.4': 'stem.1.bn', 'bn1': 'stem.2.bn'},  # stands outside
}


def rules(theirs: str = '', stem: str = '7x7', ours: str = 'backbone.') -> dict[str, str]:
    """Rules for a ResNet whose names begin with ``theirs`` (with its dot) in torchvision's form."""
    return {**{f'{theirs}{name}': f'{ours}{target}' for name, target in STEMS[stem].items()},
            **{f'{theirs}layer{stage}.{{block}}.{name}': f'{ours}layer{stage}.{{block}}.{target}'
               for stage in (1, 2, 3, 4) for name, target in BLOCK.items()}}


def name(state: Arrays, prefix: str = 'backbone.') -> str:
    """Which ResNet: from our names."""
    parts = [key.removeprefix(f'{prefix}layer3.').partition('.') for key in state if key.startswith(f'{prefix}layer3.')]
    found = len({number for number, _, _ in parts}), any(rest.startswith('conv3.') for _, _, rest in parts)
    for known, blocks in STAGE_BLOCKS.items():
        if blocks == found:
            return known
    raise StateError(f'its ResNet has {found[0]} {"bottleneck" if found[1] else "basic"} blocks in the third stage: none that '
                     'is known here')
