"""The authors' MichaelFan01/STDC-Seg: ImageNet classifiers and segmentation networks.

The segmentation network's norms outside the backbone are in-block ABN, which scales by |weight| + eps; the files hold the
backbone twice (``x2`` to ``x32`` are ``features``) and parts that are never read.
"""

import numpy as np

from twinseg.common.weights.publishers.table import Table

ABN_EPS = 1e-5
BLOCKS = {'stdc1': (2, 2, 2), 'stdc2': (4, 5, 3)}
ALIASES = ('x2', 'x4', 'x8', 'x16', 'x32')


def _features(arch: str) -> dict[str, str]:
    """The publisher numbers all blocks in one list; we count them by stage."""
    rules = {'features.0': 'backbone.stage1', 'features.1': 'backbone.stage2'}
    blocks = [f'stage{stage}.{number}' for stage, count in zip((3, 4, 5), BLOCKS[arch]) for number in range(count)]
    for index, block in enumerate(blocks, start=2):
        rules[f'features.{index}.conv_list'] = f'backbone.{block}.convs'
        rules[f'features.{index}.avd_layer.0'] = f'backbone.{block}.downsample.conv'
        rules[f'features.{index}.avd_layer.1'] = f'backbone.{block}.downsample.bn'
    return rules


def _last(arch: str) -> str:
    """The first weight of the last block: longer networks have more."""
    return f'features.{1 + sum(BLOCKS[arch])}.conv_list.0.conv.weight'


def _in_place_abn(name: str, array: np.ndarray) -> np.ndarray:
    if name.endswith('.bn.weight') and not name.startswith('backbone.'):
        return np.abs(array) + np.float32(ABN_EPS)
    return array


def _classifier(arch: str) -> Table:
    return Table(
        source='stdc_seg',
        arch=arch,
        marks=(_last(arch),),
        classes='linear.weight',
        rules={**_features(arch), 'conv_last': 'conv_last', 'fc': 'fc', 'linear': 'linear'},
        unused=(*ALIASES, 'bn'),
    )


def _segmentation(arch: str) -> Table:
    heads = {'conv_out': 'head', 'conv_out16': 'aux16', 'conv_out32': 'aux32', 'conv_out_sp8': 'detail'}
    return Table(
        source='stdc_seg',
        arch=f'{arch}_seg',
        marks=(f'cp.backbone.{_last(arch)}',),
        classes='conv_out.conv_out.weight',
        heads=('aux16', 'aux32', 'detail'),
        values=_in_place_abn,
        rules={
            **{f'cp.backbone.{theirs}': ours for theirs, ours in _features(arch).items()},
            'cp.{arm}.conv_atten': '{arm}.attention.conv',
            'cp.{arm}.bn_atten': '{arm}.attention.bn',
            'cp.arm16.conv': 'arm16.conv',
            'cp.arm32.conv': 'arm32.conv',
            'cp.conv_head16': 'conv_head16',
            'cp.conv_head32': 'conv_head32',
            'cp.conv_avg': 'conv_avg',
            'ffm.convblk': 'ffm.conv',
            'ffm.conv1': 'ffm.squeeze',
            'ffm.conv2': 'ffm.excite',
            **{f'{theirs}.conv': f'{ours}.conv' for theirs, ours in heads.items()},
            **{f'{theirs}.conv_out': f'{ours}.classifier' for theirs, ours in heads.items()},
        },
        unused=(
            *(f'cp.backbone.{part}' for part in (*ALIASES, 'conv_last', 'fc', 'bn', 'linear')),
            'conv_out_sp2',
            'conv_out_sp4',
            'conv_out_sp16',
        ),
    )


TABLES = (_segmentation('stdc2'), _segmentation('stdc1'), _classifier('stdc2'), _classifier('stdc1'))  # the longer first
