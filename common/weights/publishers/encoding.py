"""PyTorch-Encoding's ImageNet ResNets (Hang Zhang), whose stem is three convolutions with 64, 64 and 128 channels."""

from twinseg.common.weights.publishers import resnet
from twinseg.common.weights.publishers.table import Table


def _resnet(arch: str, last_block: str) -> Table:
    return Table(
        source='encoding',
        arch=arch,
        marks=('conv1.6.weight', f'layer3.{last_block}.conv3.weight', 'fc.weight'),
        classes='fc.weight',
        rules={**resnet.rules(stem='deep'), 'fc': 'fc'},
    )


TABLES = (_resnet('resnet152', '35'), _resnet('resnet101', '22'), _resnet('resnet50', '5'))  # the longer first
