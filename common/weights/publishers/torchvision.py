"""torchvision's networks; timm's and mmsegmentation's ResNets have the same names."""

import numpy as np

from twinseg.common.weights.publishers import resnet
from twinseg.common.weights.publishers.table import Table


def _resnet(arch: str, last_block: str) -> Table:
    return Table(
        source='torchvision',
        arch=arch,
        marks=('conv1.weight', f'layer3.{last_block}.weight', 'fc.weight'),
        classes='fc.weight',
        rules={**resnet.rules(), 'fc': 'fc'},
    )


def _vgg(batch_norm: bool) -> dict[str, str]:
    """torchvision numbers convolutions, norms, relus and pools in one list."""
    rules, index = {}, 0
    for stage, count in enumerate((2, 2, 3, 3, 3)):
        for number in range(count):
            layer = f'backbone.stages.{stage}.{number}'
            rules[f'features.{index}'] = f'{layer}.conv' if batch_norm else f'{layer}.0'
            if batch_norm:
                rules[f'features.{index + 1}'] = f'{layer}.bn'
            index += 3 if batch_norm else 2
        index += 1
    return rules


def _convolutions(name: str, array: np.ndarray) -> np.ndarray:
    """VGG-16's first two fully connected layers as convolutions of 7x7 and 1x1 (Long et al. 2015, section 3.1)."""
    if name == 'conv6.weight':
        return array.reshape(len(array), -1, 7, 7)
    return array[:, :, None, None] if name == 'conv7.weight' else array


VGG16_BN = Table(
    source='torchvision',
    arch='vgg16_bn',
    marks=('features.41.running_mean', 'classifier.6.weight'),
    classes='classifier.6.weight',
    rules={**_vgg(True), 'classifier.0': 'fc1', 'classifier.3': 'fc2', 'classifier.6': 'fc3'},
)

VGG16 = Table(  # what FCN-8s starts from
    source='torchvision',
    arch='fcn',
    preset='yassouali',
    marks=('features.28.weight', 'classifier.0.weight', 'classifier.3.weight'),
    classes=None,
    condition=lambda published: 'features.1.weight' not in published and 'features.34.weight' not in published,  # bn, VGG-19
    rules={**_vgg(False), 'classifier.0': 'conv6', 'classifier.3': 'conv7'},
    unused=('classifier.6',),
    values=_convolutions,
)

DEEPLABV3 = Table(
    source='torchvision',
    arch='deeplabv3',
    marks=('classifier.0.convs.4.1.weight', 'backbone.conv1.weight'),
    classes='classifier.4.weight',
    heads=('aux',),
    more_arguments=lambda state: {'backbone': resnet.name(state)},
    rules={
        **resnet.rules('backbone.'),
        'classifier.0.convs.4.1': 'aspp.pool.conv',
        'classifier.0.convs.4.2': 'aspp.pool.bn',
        'classifier.0.convs.{n}.0': 'aspp.branches.{n}.conv',
        'classifier.0.convs.{n}.1': 'aspp.branches.{n}.bn',
        'classifier.0.project.0': 'aspp.project.conv',
        'classifier.0.project.1': 'aspp.project.bn',
        'classifier.1': 'aspp.refine.conv',
        'classifier.2': 'aspp.refine.bn',
        'classifier.4': 'classifier',
        'aux_classifier.0': 'aux.conv.conv',
        'aux_classifier.1': 'aux.conv.bn',
        'aux_classifier.4': 'aux.classifier',
    },
)

FCN = Table(
    source='torchvision',
    arch='fcn',
    marks=('classifier.0.weight', 'classifier.4.weight', 'backbone.layer4.0.conv1.weight'),
    classes='classifier.4.weight',
    heads=('aux',),
    more_arguments=lambda state: {'backbone': resnet.name(state)},
    rules={
        **resnet.rules('backbone.'),
        'classifier.0': 'head.convs.0.conv',
        'classifier.1': 'head.convs.0.bn',
        'classifier.4': 'head.classifier',
        'aux_classifier.0': 'aux.conv.conv',
        'aux_classifier.1': 'aux.conv.bn',
        'aux_classifier.4': 'aux.classifier',
    },
)

TABLES = (
    FCN,
    DEEPLABV3,
    _resnet('resnet152', '35.conv3'),  # the longer first
    _resnet('resnet101', '22.conv3'),
    _resnet('resnet50', '5.conv3'),
    _resnet('resnet34', '5.conv2'),
    _resnet('resnet18', '1.conv2'),
    VGG16_BN,
    VGG16,
)
