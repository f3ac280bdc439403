"""torchvision's networks; timm's and mmsegmentation's ResNets have the same names."""

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


def _vgg() -> dict[str, str]:
    """torchvision numbers convolutions, norms, relus and pools in one list."""
    rules, index = {}, 0
    for stage, count in enumerate((2, 2, 3, 3, 3)):
        for number in range(count):
            rules[f'features.{index}'] = f'backbone.stages.{stage}.{number}.conv'
            rules[f'features.{index + 1}'] = f'backbone.stages.{stage}.{number}.bn'
            index += 3
        index += 1
    return rules


VGG16_BN = Table(
    source='torchvision',
    arch='vgg16_bn',
    marks=('features.41.running_mean', 'classifier.6.weight'),
    classes='classifier.6.weight',
    rules={**_vgg(), 'classifier.0': 'fc1', 'classifier.3': 'fc2', 'classifier.6': 'fc3'},
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
)
