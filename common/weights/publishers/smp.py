"""segmentation-models-pytorch 0.6."""

from twinseg.common.weights.publishers import resnet
from twinseg.common.weights.publishers.table import Table

DEEPLABV3PLUS = Table(
    source='smp',
    arch='deeplabv3plus',
    marks=('decoder.aspp.0.convs.1.0.1.weight', 'decoder.block2.0.0.weight', 'encoder.conv1.weight'),
    classes='segmentation_head.0.weight',
    more_arguments=lambda state: {'backbone': resnet.name(state)},
    rules={
        **resnet.rules('encoder.'),
        'decoder.aspp.0.convs.0.0': 'aspp.branches.0.conv',
        'decoder.aspp.0.convs.0.1': 'aspp.branches.0.bn',
        'decoder.aspp.0.convs.4.1': 'aspp.pool.conv',
        'decoder.aspp.0.convs.4.2': 'aspp.pool.bn',
        'decoder.aspp.0.convs.{n}.0.0': 'aspp.branches.{n}.depthwise',
        'decoder.aspp.0.convs.{n}.0.1': 'aspp.branches.{n}.pointwise.conv',
        'decoder.aspp.0.convs.{n}.1': 'aspp.branches.{n}.pointwise.bn',
        'decoder.aspp.0.project.0': 'aspp.project.conv',
        'decoder.aspp.0.project.1': 'aspp.project.bn',
        'decoder.aspp.1.0': 'aspp.refine.depthwise',
        'decoder.aspp.1.1': 'aspp.refine.pointwise.conv',
        'decoder.aspp.2': 'aspp.refine.pointwise.bn',
        'decoder.block1.0': 'low_level.conv',
        'decoder.block1.1': 'low_level.bn',
        'decoder.block2.0.0': 'decoder.0.depthwise',
        'decoder.block2.0.1': 'decoder.0.pointwise.conv',
        'decoder.block2.1': 'decoder.0.pointwise.bn',
        'segmentation_head.0': 'classifier',
    },
)

PSPNET = Table(
    source='smp',
    arch='pspnet',
    marks=('decoder.psp.blocks.0.pool.1.0.weight', 'encoder.layer2.0.conv1.weight'),
    classes='segmentation_head.0.weight',
    more_arguments=lambda state: {'backbone': resnet.name(state), 'channels': len(state['ppm.out.bn.weight'])},
    rules={
        **resnet.rules('encoder.', stages=2),
        'decoder.psp.blocks.0.pool.1.0': 'ppm.branches.0.0',
        'decoder.psp.blocks.{bin}.pool.1.0': 'ppm.branches.{bin}.conv',
        'decoder.psp.blocks.{bin}.pool.1.1': 'ppm.branches.{bin}.bn',
        'decoder.conv.0': 'ppm.out.conv',
        'decoder.conv.1': 'ppm.out.bn',
        'segmentation_head.0': 'classifier',
    },
    unused=('encoder.layer3', 'encoder.layer4'),
)

UPERNET = Table(
    source='smp',
    arch='upernet',
    marks=('decoder.feature_norms.0.weight', 'decoder.psp.blocks.0.1.0.weight', 'encoder.layer4.0.conv1.weight'),
    classes='segmentation_head.0.weight',
    more_arguments=lambda state: {'backbone': resnet.name(state), 'channels': len(state['fpn.fusion.bn.weight'])},
    rules={
        **resnet.rules('encoder.'),
        'decoder.feature_norms': 'norms',
        'decoder.psp.blocks.{bin}.1.0': 'fpn.ppm.branches.{bin}.conv',
        'decoder.psp.blocks.{bin}.1.1': 'fpn.ppm.branches.{bin}.bn',
        'decoder.psp.out_conv.0': 'fpn.ppm.out.conv',
        'decoder.psp.out_conv.1': 'fpn.ppm.out.bn',
        'decoder.fpn_lateral_blocks.{level}.conv_norm_relu.0': 'fpn.laterals.{level}.conv',
        'decoder.fpn_lateral_blocks.{level}.conv_norm_relu.1': 'fpn.laterals.{level}.bn',
        'decoder.fpn_conv_blocks.{level}.0': 'fpn.smooth.{level}.conv',
        'decoder.fpn_conv_blocks.{level}.1': 'fpn.smooth.{level}.bn',
        'decoder.fusion_block.0': 'fpn.fusion.conv',
        'decoder.fusion_block.1': 'fpn.fusion.bn',
        'segmentation_head.0': 'classifier',
    },
)

UNET = Table(
    source='smp',
    arch='unet',
    marks=('decoder.blocks.0.conv1.0.weight', 'segmentation_head.0.weight', 'encoder.layer4.0.conv1.weight'),
    classes='segmentation_head.0.weight',
    more_arguments=lambda state: {'backbone': resnet.name(state)},
    rules={
        **resnet.rules('encoder.'),
        **{
            f'decoder.blocks.{block}.conv{layer + 1}.{index}': f'{ours}.convs.{layer}.{part}'
            for block, ours in (('4', 'more_ups.0'), ('{n}', 'ups.{n}'))
            for layer in (0, 1)
            for index, part in enumerate(('conv', 'bn'))
        },
        'segmentation_head.0': 'head',
    },
)

TABLES = (
    UNET,
    PSPNET,
    UPERNET,
    DEEPLABV3PLUS,
)
