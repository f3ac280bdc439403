"""torchvision's classifiers; timm's and mmsegmentation's ResNets have the same names."""
from common.weights import resnet
from common.weights.table import Table


def _resnet(arch: str, last_block: str) -> Table:
    return Table(
        source='torchvision',
        arch=arch,
        marks=('conv1.weight', f'layer3.{last_block}.weight', 'fc.weight'),
        classes='fc.weight',
        rules={**resnet.rules(), 'fc': 'fc'})


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
    rules={**_vgg(), 'classifier.0': 'fc1', 'classifier.3': 'fc2', 'classifier.6': 'fc3'})

TABLES = (
    _resnet('resnet152', '35.conv3'),  # the longer first
    _resnet('resnet101', '22.conv3'),
    _resnet('resnet50', '5.conv3'),
    _resnet('resnet34', '5.conv2'),
    _resnet('resnet18', '1.conv2'),
    VGG16_BN,
)
