"""yassouali/pytorch-segmentation."""
from common.weights import resnet
from common.weights.table import Table

DEEPLAB = {  # without its backbone
    **{f'ASSP.aspp{number}.0': f'aspp.branches.{number - 1}.conv' for number in (1, 2, 3, 4)},
    **{f'ASSP.aspp{number}.1': f'aspp.branches.{number - 1}.bn' for number in (1, 2, 3, 4)},
    'ASSP.avg_pool.1': 'aspp.pool.conv',
    'ASSP.avg_pool.2': 'aspp.pool.bn',
    'ASSP.conv1': 'aspp.project.conv',
    'ASSP.bn1': 'aspp.project.bn',
    'decoder.conv1': 'low_level.conv',
    'decoder.bn1': 'low_level.bn',
    'decoder.output.0': 'decoder.0.conv',
    'decoder.output.1': 'decoder.0.bn',
    'decoder.output.3': 'decoder.1.conv',
    'decoder.output.4': 'decoder.1.bn',
    'decoder.output.7': 'classifier',
}
DEEPLAB_ARGUMENTS = {'auxiliary': False, 'contract_dilation': False, 'convolution': 'dense', 'low_level_first': True,
                     'align_corners': True, 'aspp_dropout': 0.5}


def _separable(theirs: str, norm: str, ours: str) -> dict[str, str]:
    """A separable convolution of its Xception and the norm that follows."""
    return {f'{theirs}.conv1': f'{ours}.depthwise.conv', f'{theirs}.bn': f'{ours}.depthwise.bn',
            f'{theirs}.pointwise': f'{ours}.pointwise.conv', norm: f'{ours}.pointwise.bn'}


def _xception() -> dict[str, str]:
    rules = {'conv1': 'stem.0.conv', 'bn1': 'stem.0.bn', 'conv2': 'stem.1.conv', 'bn2': 'stem.1.bn'}
    blocks = ['block1', 'block2', 'block3', *(f'middle.{number}' for number in range(16)), 'exit']
    for number, ours in enumerate(blocks, start=1):
        theirs, first = f'block{number}', 0 if number == 1 else 1  # the first block has no relu in front
        rules |= {f'{theirs}.skip': f'{ours}.shortcut.conv', f'{theirs}.skipbn': f'{ours}.shortcut.bn'}
        for index in range(3):
            place = first + 3 * index
            rules |= _separable(f'{theirs}.rep.{place}', f'{theirs}.rep.{place + 1}', f'{ours}.conv{index + 1}')
    for index in range(3):
        rules |= _separable(f'conv{index + 3}', f'bn{index + 3}', f'convs.{index}')
    return {f'backbone.{theirs}': f'backbone.{ours}' for theirs, ours in rules.items()}


DEEPLABV3PLUS = Table(
    source='yassouali',
    arch='deeplabv3plus',
    marks=('ASSP.aspp1.0.weight', 'decoder.output.7.weight', 'backbone.layer0.0.weight'),
    classes='decoder.output.7.weight',
    arguments=DEEPLAB_ARGUMENTS,
    more_arguments=lambda state: {'backbone': resnet.name(state)},
    rules={**resnet.rules('backbone.', 'layer0'), **DEEPLAB})
DEEPLABV3PLUS_XCEPTION = Table(
    source='yassouali',
    arch='deeplabv3plus',
    marks=('ASSP.aspp1.0.weight', 'decoder.output.7.weight', 'backbone.block20.skip.weight'),
    classes='decoder.output.7.weight',
    arguments={**DEEPLAB_ARGUMENTS, 'backbone': 'xception', 'shared_relu': True},
    rules={**_xception(), **DEEPLAB})

TABLES = (
    DEEPLABV3PLUS,  # after DUC-HDC, whose files have all names of these
    DEEPLABV3PLUS_XCEPTION,
)
