"""yassouali/pytorch-segmentation."""

from dataclasses import replace
from typing import Any

import numpy as np

from twinseg.common.weights.publishers import resnet
from twinseg.common.weights.publishers.table import Arrays, Table

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


def _separable(theirs: str, norm: str, ours: str) -> dict[str, str]:
    """A separable convolution of its Xception and the norm that follows."""
    return {
        f'{theirs}.conv1': f'{ours}.depthwise.conv',
        f'{theirs}.bn': f'{ours}.depthwise.bn',
        f'{theirs}.pointwise': f'{ours}.pointwise.conv',
        norm: f'{ours}.pointwise.bn',
    }


def _xception() -> dict[str, str]:
    rules = {'conv1': 'stem.0.conv', 'bn1': 'stem.0.bn', 'conv2': 'stem.1.conv', 'bn2': 'stem.1.bn'}
    blocks = ['block1', 'block2', 'block3', *(f'middle.{number}' for number in range(16)), 'exit']
    for number, ours in enumerate(blocks, start=1):
        theirs, first = f'block{number}', 0 if number == 1 else 1  # the first block has no relu in front
        rules |= {f'{theirs}.skip': f'{ours}.shortcut.conv', f'{theirs}.skipbn': f'{ours}.shortcut.bn'}
        for index in range(3):
            layer = first + 3 * index
            rules |= _separable(f'{theirs}.rep.{layer}', f'{theirs}.rep.{layer + 1}', f'{ours}.conv{index + 1}')
    for index in range(3):
        rules |= _separable(f'conv{index + 3}', f'bn{index + 3}', f'convs.{index}')
    return {f'backbone.{theirs}': f'backbone.{ours}' for theirs, ours in rules.items()}


DEEPLABV3PLUS = Table(
    source='yassouali',
    arch='deeplabv3plus',
    marks=('ASSP.aspp1.0.weight', 'decoder.output.7.weight', 'backbone.layer0.0.weight'),
    classes='decoder.output.7.weight',
    more_arguments=lambda state: {'backbone': resnet.name(state)},
    rules={**resnet.rules('backbone.', 'layer0'), **DEEPLAB},
)
DEEPLABV3PLUS_XCEPTION = Table(
    source='yassouali',
    arch='deeplabv3plus',
    preset='yassouali_xception',
    marks=('ASSP.aspp1.0.weight', 'decoder.output.7.weight', 'backbone.block20.skip.weight'),
    classes='decoder.output.7.weight',
    rules={**_xception(), **DEEPLAB},
)


def _pspnet(state: Arrays) -> dict[str, Any]:
    return {
        'backbone': resnet.name(state),
        'channels': len(state['ppm.out.bn.weight']),
        **({'auxiliary_channels': len(state['aux.conv.bn.weight'])} if 'aux.conv.bn.weight' in state else {}),
    }


PSPNET = Table(
    source='yassouali',
    arch='pspnet',
    marks=('initial.0.0.weight', 'layer4.0.conv1.weight', 'master_branch.0.stages.0.1.weight'),
    classes='master_branch.1.weight',
    heads=('aux',),
    more_arguments=_pspnet,
    rules={
        **resnet.rules('', 'deep initial'),
        'master_branch.0.stages.{bin}.1': 'ppm.branches.{bin}.conv',
        'master_branch.0.stages.{bin}.2': 'ppm.branches.{bin}.bn',
        'master_branch.0.bottleneck.0': 'ppm.out.conv',
        'master_branch.0.bottleneck.1': 'ppm.out.bn',
        'master_branch.1': 'classifier',
        'auxiliary_branch.0': 'aux.conv.conv',
        'auxiliary_branch.1': 'aux.conv.bn',
        'auxiliary_branch.4': 'aux.classifier',
    },
)

UPERNET = Table(
    source='yassouali',
    arch='upernet',
    marks=('backbone.initial.0.weight', 'PPN.stages.0.1.weight', 'FPN.conv1x1.0.weight'),
    classes='head.weight',
    more_arguments=lambda state: {'backbone': resnet.name(state)},
    rules={
        **resnet.rules('backbone.', 'initial'),
        'PPN.stages.{bin}.1': 'fpn.ppm.branches.{bin}.conv',
        'PPN.stages.{bin}.2': 'fpn.ppm.branches.{bin}.bn',
        'PPN.bottleneck.0': 'fpn.ppm.out.conv',
        'PPN.bottleneck.1': 'fpn.ppm.out.bn',
        **{f'FPN.conv1x1.{level}': f'fpn.laterals.{2 - level}' for level in range(3)},
        'FPN.smooth_conv.0': 'fpn.smooth',
        'FPN.conv_fusion.0': 'fpn.fusion.conv',
        'FPN.conv_fusion.1': 'fpn.fusion.bn',
        'head': 'classifier',
    },
    unused=('FPN.smooth_conv.1', 'FPN.smooth_conv.2'),  # other names of the same convolution
)

FCN8 = Table(
    source='yassouali',
    arch='fcn',
    marks=('pool3.0.weight', 'adj_pool3.weight', 'up_final.weight'),
    classes='output.6.weight',
    rules={
        **{
            f'{part}.{index}': f'backbone.stages.{stage}.{number}.0'
            for part, stage, indices in (
                ('pool3', 0, (0, 2)),
                ('pool3', 1, (5, 7)),
                ('pool3', 2, (10, 12, 14)),
                ('pool4', 3, (0, 2, 4)),
                ('pool5', 4, (0, 2, 4)),
            )
            for number, index in enumerate(indices)
        },
        'output.0': 'conv6',
        'output.3': 'conv7',
        'output.6': 'classifier',
        'adj_pool4': 'skip4',
        'adj_pool3': 'skip3',
        'up_output': 'up5',
        'up_pool4_out': 'up4',
        'up_final': 'up3',
    },
)

ENET_BLOCKS = {  # the publisher's numbers of the bottlenecks -> our names
    '10': 'down1',
    **{f'1{number}': f'stage1.{number - 1}' for number in range(1, 5)},
    '20': 'down2',
    **{f'2{number}': f'stage2.{number - 1}' for number in range(1, 9)},
    **{f'3{number}': f'stage3.{number - 1}' for number in range(1, 9)},
    '40': 'up4',
    '41': 'stage4.0',
    '42': 'stage4.1',
    '50': 'up5',
    '51': 'stage5.0',
}


def _enet_block(theirs: str, ours: str) -> dict[str, str]:
    if ours in ('up4', 'up5'):
        return {
            f'{theirs}.spatil_conv': f'{ours}.shortcut.conv',
            f'{theirs}.bn_up': f'{ours}.shortcut.bn',
            f'{theirs}.conv1': f'{ours}.reduce.conv',
            f'{theirs}.bn1': f'{ours}.reduce.bn',
            f'{theirs}.conv2': f'{ours}.transposed',
            f'{theirs}.bn2': f'{ours}.bn',
            f'{theirs}.conv3': f'{ours}.expand.conv',
            f'{theirs}.bn3': f'{ours}.expand.bn',
        }
    asymmetric = ours.partition('.')[2] in ('2', '6') and ours.startswith(('stage2', 'stage3'))
    middle = f'{ours}.middle.{1 if asymmetric else 0}'
    rules = {
        f'{theirs}.conv2.{index}': f'{ours}.middle.0.{part}'
        for index, part in enumerate(('conv', 'bn', 'activation'))
        if asymmetric
    }
    for number, part in ((1, f'{ours}.reduce'), (2, middle), (3, f'{ours}.expand')):
        rules |= {
            f'{theirs}.conv{number}' + ('.3' if asymmetric and number == 2 else ''): f'{part}.conv',
            f'{theirs}.bn{number}': f'{part}.bn',
            f'{theirs}.prelu{number}': f'{part}.activation',
        }
    return {**rules, f'{theirs}.prelu_out': f'{ours}.activation'}


ENET = Table(
    source='yassouali',
    arch='enet',
    marks=('initial.conv.weight', 'bottleneck40.spatil_conv.weight', 'fullconv.weight'),
    classes='fullconv.weight',
    classes_axis=1,
    rules={
        'initial.conv': 'initial.conv',
        'initial.bn': 'initial.bn',
        'initial.prelu': 'initial.activation',
        **{
            rule: name
            for number, ours in ENET_BLOCKS.items()
            for rule, name in _enet_block(f'bottleneck{number}', ours).items()
        },
        'fullconv': 'classifier',
    },
)

GCN_SCORES = {4: 'coarsest', 3: 'levels.0.scores', 2: 'levels.1.scores', 1: 'levels.2.scores'}  # feature -> its scores
GCN_REFINEMENTS = {
    **{number: f'{ours}.1' for number, ours in GCN_SCORES.items()},
    5: 'levels.0.refine',
    6: 'levels.1.refine',
    7: 'levels.2.refine',
    8: 'refine_half',
    9: 'refine_full',
}
GCN = Table(
    source='yassouali',
    arch='gcn',
    marks=('gcn1.conv11.weight', 'br9.conv2.weight'),
    classes='final_conv.weight',
    more_arguments=lambda state: {'backbone': resnet.name(state), 'kernel_size': state['coarsest.0.left.0.weight'].shape[2]},
    rules={
        **resnet.rules('backbone.', 'initial'),
        **{
            f'gcn{number}.conv{side}{layer}': f'{ours}.0.{branch}.{layer - 1}'
            for number, ours in GCN_SCORES.items()
            for side, branch in ((1, 'left'), (2, 'right'))
            for layer in (1, 2)
        },
        **{f'br{number}.conv{layer}': f'{ours}.conv{layer}' for number, ours in GCN_REFINEMENTS.items() for layer in (1, 2)},
        'final_conv': 'classifier',
    },
    unused=tuple(f'br{number}.bn{layer}' for number in GCN_REFINEMENTS for layer in (1, 2)),
)
GCN_TRANSPOSED = replace(
    GCN,
    preset='yassouali_transposed',
    marks=(*GCN.marks, 'decon5.weight'),
    rules={
        **GCN.rules,
        'decon4': 'levels.0.up',
        'decon3': 'levels.1.up',
        'decon2': 'levels.2.up',
        'decon1': 'up_half',
        'decon5': 'up_full',
    },
)

DUC_HDC = Table(
    source='yassouali',
    arch='duc_hdc',
    marks=('DUC_out.conv.weight', 'ASSP.aspp6.0.weight'),
    classes='decoder.output.7.weight',
    more_arguments=lambda state: {'backbone': resnet.name(state)},
    rules={
        **resnet.rules('backbone.', 'layer0'),
        **{
            f'ASSP.aspp{number}.{index}': f'aspp.branches.{number - 1}.{part}'
            for number in range(1, 7)
            for index, part in enumerate(('conv', 'bn'))
        },
        'ASSP.avg_pool.1': 'aspp.pool.conv',
        'ASSP.avg_pool.2': 'aspp.pool.bn',
        'ASSP.conv1': 'aspp.project.conv',
        'ASSP.bn1': 'aspp.project.bn',
        'decoder.conv1': 'decoder.low_level.conv',
        'decoder.bn1': 'decoder.low_level.bn',
        'decoder.DUC': 'decoder.up.conv',
        'decoder.output.0': 'decoder.convs.0.conv',
        'decoder.output.1': 'decoder.convs.0.bn',
        'decoder.output.3': 'decoder.convs.1.conv',
        'decoder.output.4': 'decoder.convs.1.bn',
        'decoder.output.7': 'decoder.classifier',
        'DUC_out': 'up.conv',
    },
)

PAIR = {'0': '0.conv', '1': '0.bn', '3': '1.conv', '4': '1.bn'}  # two convolutions in its numbers
UNET = Table(
    source='yassouali',
    arch='unet',
    marks=('start_conv.0.weight', 'up4.up_conv.0.weight'),
    classes='final_conv.weight',
    rules={
        **{
            f'{theirs}.{index}': f'{ours}.{part}'
            for theirs, ours in (
                ('start_conv', 'backbone.stages.0'),
                ('middle_conv', 'backbone.last'),
                *((f'down{number}.down_conv', f'backbone.stages.{number}') for number in (1, 2, 3, 4)),
                *((f'up{number}.up_conv', f'ups.{number - 1}.convs') for number in (1, 2, 3, 4)),
            )
            for index, part in PAIR.items()
        },
        **{f'up{number}.up': f'ups.{number - 1}.transposed' for number in (1, 2, 3, 4)},
        'final_conv': 'head',
    },
)
UNET_RESNET = Table(
    source='yassouali',
    arch='unet',
    preset='yassouali_resnet',
    marks=('upconv5.weight', 'conv7.weight', 'initial.0.0.weight'),
    classes='conv7.weight',
    more_arguments=lambda state: {'backbone': resnet.name(state)},
    rules={
        **resnet.rules('', 'deep initial'),
        'conv1': 'inner',
        **{
            theirs.format(number + shift): f'{ours}.{part}'
            for number, ours in enumerate(('ups.0', 'ups.1', 'ups.2', 'more_ups.0', 'more_ups.1'), start=1)
            for theirs, shift, part in (('upconv{}', 0, 'transposed'), ('conv{}', 1, 'convs'))
        },
        'conv7': 'head',
    },
)

SEGNET_ENCODER = {  # the publisher's layers: convolution, norm and relu in turn
    f'stage{stage + 1}_encoder.{3 * number + layer}': f'backbone.stages.{stage}.{number}.{part}'
    for stage, count in enumerate((2, 2, 3, 3, 3))
    for number in range(count)
    for layer, part in enumerate(('conv', 'bn'))
}
SEGNET_DECODER = {  # the publisher counts from the deepest stage
    f'stage{5 - stage}_decoder.{3 * number + layer}': f'decoder.{stage}.{number}.{part}'
    for stage, count in enumerate((2, 2, 3, 3, 3))
    for number in range(count)
    for layer, part in enumerate(('conv', 'bn'))
}
SEGNET_ALIASES = {  # layers of the decoder that are layers of the encoder in its older version
    'stage1_decoder.6': 'stage5_encoder.0',
    'stage1_decoder.7': 'stage5_encoder.1',
    'stage5_decoder.4': 'stage1_encoder.1',
    **{
        f'stage{6 - stage}_decoder.{3 * number + layer}': f'stage{stage}_encoder.{3 * (count - 1 - number) + layer}'
        for stage, count in enumerate((2, 2, 3, 3, 3), start=1)
        for number in range(count - 1)
        for layer in (0, 1)
    },
}


def segnet_is_shared(published: Arrays) -> bool:
    """True where the decoder's layers equal the encoder's, as far as the file has both."""
    return all(
        np.array_equal(published[f'{alias}.weight'], published[f'{layer}.weight'])
        for alias, layer in SEGNET_ALIASES.items()
        if f'{alias}.weight' in published and f'{layer}.weight' in published
    )


SEGNET = Table(
    source='yassouali',
    arch='segnet',
    marks=('stage1_encoder.0.weight', 'stage1_decoder.0.weight', 'stage5_decoder.6.weight'),
    condition=lambda published: not segnet_is_shared(published),
    classes='stage5_decoder.6.weight',
    rules={**SEGNET_ENCODER, **SEGNET_DECODER, 'stage5_decoder.6': 'classifier'},
)


def _segresnet_decoder() -> dict[str, str]:
    """Stages from the deepest: plain blocks, then the one that changes the size or, in the last stage, the channels."""
    rules: dict[str, str] = {}
    for stage, (ours, last, blocks) in enumerate(
        (('decoder4', 'up4', 2), ('decoder3', 'up3', 5), ('decoder2', 'up2', 3), ('decoder1', 'narrow', 2))
    ):
        closing = f'decoder.{stage}.{blocks}'
        if last == 'narrow':
            rules |= {f'{closing}.{theirs}': f'{last}.{name}' for theirs, name in resnet.BLOCK.items()}
            rules |= {f'{closing}.downsample.0': f'{last}.shortcut.conv', f'{closing}.downsample.1': f'{last}.shortcut.bn'}
        else:
            rules |= {f'{closing}.{part}{index}': f'{last}.conv{index}.{part}' for index in (1, 3) for part in ('conv', 'bn')}
            rules |= {
                f'{closing}.conv2': f'{last}.conv2',
                f'{closing}.bn2': f'{last}.bn2',
                f'{closing}.downsample.0': f'{last}.shortcut',
                f'{closing}.downsample.1': f'{last}.shortcut_bn',
            }
        rules |= {f'decoder.{stage}.{{block}}.{theirs}': f'{ours}.{{block}}.{name}' for theirs, name in resnet.BLOCK.items()}
    return rules


SEGRESNET = Table(
    source='yassouali',
    arch='segnet',
    preset='yassouali_resnet',
    marks=('first_conv.0.weight', 'encoder.0.0.conv1.weight', 'last_conv.1.weight'),
    classes='last_conv.1.weight',
    rules={
        'first_conv.0': 'backbone.stem.0.conv',
        'first_conv.1': 'backbone.stem.0.bn',
        **{
            f'encoder.{stage}.{{block}}.{theirs}': f'backbone.layer{stage + 1}.{{block}}.{ours}'
            for stage in range(4)
            for theirs, ours in resnet.BLOCK.items()
        },
        **_segresnet_decoder(),
        'last_conv.0': 'up1',
        'last_conv.1': 'classifier',
    },
)

TABLES = (
    SEGNET,
    SEGRESNET,
    UNET,
    UNET_RESNET,
    DUC_HDC,
    GCN_TRANSPOSED,
    GCN,
    ENET,
    PSPNET,
    UPERNET,
    FCN8,
    DEEPLABV3PLUS,  # after DUC-HDC, whose files have all names of these
    DEEPLABV3PLUS_XCEPTION,
)
