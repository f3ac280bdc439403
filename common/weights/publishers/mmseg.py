"""mmsegmentation 0.x and 1.x: the checkpoints of its model zoo and those that its training writes."""

from typing import Any, Callable

from twinseg.common.weights.publishers import resnet
from twinseg.common.weights.publishers.table import Arrays, Table

FAST_SCNN = Table(
    source='mmseg',
    arch='fast_scnn',
    marks=('backbone.learning_to_downsample.conv.conv.weight',),
    classes='decode_head.conv_seg.weight',
    heads=('aux_gfe', 'aux_ltd'),
    rules={
        'backbone.learning_to_downsample.conv': 'learning_to_downsample.conv',
        'backbone.learning_to_downsample.{block}.depthwise_conv': 'learning_to_downsample.{block}.depthwise',
        'backbone.learning_to_downsample.{block}.pointwise_conv': 'learning_to_downsample.{block}.pointwise',
        'backbone.global_feature_extractor.ppm.{bin}.1': 'global_feature_extractor.ppm.branches.{bin}',
        'backbone.global_feature_extractor.out': 'global_feature_extractor.ppm.out',
        'backbone.global_feature_extractor.{stage}.{block}.conv.0': 'global_feature_extractor.{stage}.{block}.expand',
        'backbone.global_feature_extractor.{stage}.{block}.conv.1': 'global_feature_extractor.{stage}.{block}.depthwise',
        'backbone.global_feature_extractor.{stage}.{block}.conv.2': 'global_feature_extractor.{stage}.{block}.project',
        'backbone.feature_fusion.dwconv': 'feature_fusion.depthwise',
        'backbone.feature_fusion.conv_lower_res': 'feature_fusion.lower',
        'backbone.feature_fusion.conv_higher_res': 'feature_fusion.higher',
        'decode_head.convs.0.depthwise_conv': 'classifier.dsconv1.depthwise',
        'decode_head.convs.0.pointwise_conv': 'classifier.dsconv1.pointwise',
        'decode_head.convs.1.depthwise_conv': 'classifier.dsconv2.depthwise',
        'decode_head.convs.1.pointwise_conv': 'classifier.dsconv2.pointwise',
        'decode_head.conv_seg': 'classifier.conv',
        'auxiliary_head.0.convs.0': 'aux_gfe.conv',
        'auxiliary_head.0.conv_seg': 'aux_gfe.classifier',
        'auxiliary_head.1.convs.0': 'aux_ltd.conv',
        'auxiliary_head.1.conv_seg': 'aux_ltd.classifier',
    },
)

STAGES = {
    'stages.0': 'backbone.stage1',
    'stages.1': 'backbone.stage2',
    **{f'stages.{stage - 1}.{{block}}.layers': f'backbone.stage{stage}.{{block}}.convs' for stage in (3, 4, 5)},
    **{f'stages.{stage - 1}.{{block}}.downsample': f'backbone.stage{stage}.{{block}}.downsample' for stage in (3, 4, 5)},
}


def _detail_channels(state: Arrays) -> dict[str, Any]:
    weight = state.get('detail.classifier.weight')
    return {} if weight is None else {'detail_channels': weight.shape[0]}


def _stdc_seg(arch: str, last_block: str) -> Table:
    return Table(
        source='mmseg',
        arch=arch,
        marks=('backbone.arms.0.conv_layer.conv.weight', f'backbone.backbone.{last_block}.layers.0.conv.weight'),
        classes='decode_head.conv_seg.weight',
        heads=('aux16', 'aux32', 'detail'),
        more_arguments=_detail_channels,
        rules={
            **{f'backbone.backbone.{theirs}': ours for theirs, ours in STAGES.items()},
            'backbone.arms.0.conv_layer': 'arm32.conv',
            'backbone.arms.0.atten_conv_layer.1': 'arm32.attention',
            'backbone.arms.1.conv_layer': 'arm16.conv',
            'backbone.arms.1.atten_conv_layer.1': 'arm16.attention',
            'backbone.convs.0': 'conv_head32',
            'backbone.convs.1': 'conv_head16',
            'backbone.conv_avg': 'conv_avg',
            'backbone.ffm.conv0': 'ffm.conv',
            'backbone.ffm.attention.1.conv': 'ffm.squeeze',
            'backbone.ffm.attention.2.conv': 'ffm.excite',
            'decode_head.convs.0': 'head.conv',
            'decode_head.conv_seg': 'head.classifier',
            'auxiliary_head.0.convs.0': 'aux16.conv',  # reads the 1/8 context feature
            'auxiliary_head.0.conv_seg': 'aux16.classifier',
            'auxiliary_head.1.convs.0': 'aux32.conv',
            'auxiliary_head.1.conv_seg': 'aux32.classifier',
            'auxiliary_head.2.convs.0': 'detail.conv',
            'auxiliary_head.2.conv_seg': 'detail.classifier',
        },
        unused=('auxiliary_head.2.fusion_kernel', 'auxiliary_head.2.laplacian_kernel'),
    )


def _stdc_backbone(arch: str, last_block: str) -> Table:
    """The ImageNet weights that its STDC recipes start from: no classifier, and in old files another name."""
    old = {theirs.replace('downsample', 'avg_pool'): ours for theirs, ours in STAGES.items()}
    return Table(
        source='mmseg',
        arch=arch,
        marks=(f'{last_block}.layers.0.conv.weight',),
        classes=None,
        rules={**STAGES, **old, 'final_conv': 'conv_last'},
    )


def _deeplabv3(state: Arrays) -> dict[str, Any]:
    return {
        'backbone': resnet.name(state),
        'stem': 'v1c' if 'backbone.stem.2.conv.weight' in state else '7x7',
        'channels': len(state['aspp.project.bn.weight']),
    }


DEEPLABV3 = Table(
    source='mmseg',
    arch='deeplabv3',
    marks=('decode_head.image_pool.1.conv.weight', 'decode_head.aspp_modules.3.conv.weight'),
    classes='decode_head.conv_seg.weight',
    heads=('aux',),
    more_arguments=_deeplabv3,
    rules={
        **resnet.rules('backbone.', 'v1c'),
        **resnet.rules('backbone.'),  # ResNet-50b and the like
        'decode_head.image_pool.1': 'aspp.pool',
        'decode_head.aspp_modules.{n}': 'aspp.branches.{n}',
        'decode_head.bottleneck': 'aspp.project',
        'decode_head.conv_seg': 'classifier',
        'auxiliary_head.convs.0': 'aux.conv',
        'auxiliary_head.conv_seg': 'aux.classifier',
    },
)


def _deeplabv3plus(state: Arrays) -> dict[str, Any]:
    return {**_deeplabv3(state), 'low_level_channels': len(state['low_level.bn.weight'])}


DEEPLABV3PLUS = Table(
    source='mmseg',
    arch='deeplabv3plus',
    marks=('decode_head.c1_bottleneck.conv.weight', 'decode_head.sep_bottleneck.0.depthwise_conv.conv.weight'),
    classes='decode_head.conv_seg.weight',
    heads=('aux',),
    more_arguments=_deeplabv3plus,
    rules={
        **resnet.rules('backbone.', 'v1c'),
        **resnet.rules('backbone.'),  # ResNet-50b and the like
        'decode_head.image_pool.1': 'aspp.pool',
        'decode_head.aspp_modules.{n}.depthwise_conv': 'aspp.branches.{n}.depthwise',
        'decode_head.aspp_modules.{n}.pointwise_conv': 'aspp.branches.{n}.pointwise',
        'decode_head.aspp_modules.0': 'aspp.branches.0',
        'decode_head.bottleneck': 'aspp.project',
        'decode_head.c1_bottleneck': 'low_level',
        'decode_head.sep_bottleneck.{n}.depthwise_conv': 'decoder.{n}.depthwise',
        'decode_head.sep_bottleneck.{n}.pointwise_conv': 'decoder.{n}.pointwise',
        'decode_head.conv_seg': 'classifier',
        'auxiliary_head.convs.0': 'aux.conv',
        'auxiliary_head.conv_seg': 'aux.classifier',
    },
)

RESNET = {**resnet.rules('backbone.', 'v1c'), **resnet.rules('backbone.')}  # the second for ResNet-50b and the like
AUXILIARY = {'auxiliary_head.convs.0': 'aux.conv', 'auxiliary_head.conv_seg': 'aux.classifier'}


def _channels(last: str) -> Callable[[Arrays], dict[str, Any]]:
    """Backbone, and the channels that a head's last norm and the auxiliary head's have."""

    def arguments(state: Arrays) -> dict[str, Any]:
        names = {
            'channels': f'{last}.bn.weight',
            'branch_channels': 'ppm.branches.0.bn.weight',
            'auxiliary_channels': 'aux.conv.bn.weight',
        }
        return {
            'backbone': resnet.name(state),
            'stem': resnet.stem(state),
            **{argument: len(state[name]) for argument, name in names.items() if name in state},
        }

    return arguments


PSPNET = Table(
    source='mmseg',
    arch='pspnet',
    marks=('decode_head.psp_modules.0.1.conv.weight', 'decode_head.bottleneck.conv.weight', 'backbone.layer4.0.conv1.weight'),
    classes='decode_head.conv_seg.weight',
    heads=('aux',),
    more_arguments=_channels('ppm.out'),
    rules={
        **RESNET,
        **AUXILIARY,
        'decode_head.psp_modules.{bin}.1': 'ppm.branches.{bin}',
        'decode_head.bottleneck': 'ppm.out',
        'decode_head.conv_seg': 'classifier',
    },
)

UPERNET = Table(
    source='mmseg',
    arch='upernet',
    marks=(
        'decode_head.psp_modules.0.1.conv.weight',
        'decode_head.fpn_bottleneck.conv.weight',
        'backbone.layer4.0.conv1.weight',
    ),
    classes='decode_head.conv_seg.weight',
    heads=('aux',),
    more_arguments=_channels('fpn.fusion'),
    rules={
        **RESNET,
        **AUXILIARY,
        'decode_head.psp_modules.{bin}.1': 'fpn.ppm.branches.{bin}',
        'decode_head.bottleneck': 'fpn.ppm.out',
        **{f'decode_head.lateral_convs.{level}': f'fpn.laterals.{2 - level}' for level in range(3)},
        **{f'decode_head.fpn_convs.{level}': f'fpn.smooth.{2 - level}' for level in range(3)},
        'decode_head.fpn_bottleneck': 'fpn.fusion',
        'decode_head.conv_seg': 'classifier',
    },
)

FCN = Table(
    source='mmseg',
    arch='fcn',
    marks=('decode_head.convs.1.conv.weight', 'decode_head.conv_cat.conv.weight', 'backbone.layer4.0.conv1.weight'),
    classes='decode_head.conv_seg.weight',
    heads=('aux',),
    more_arguments=_channels('head.fusion'),
    rules={
        **RESNET,
        **AUXILIARY,
        'decode_head.convs': 'head.convs',
        'decode_head.conv_cat': 'head.fusion',
        'decode_head.conv_seg': 'head.classifier',
    },
)

DDRNET_BRANCHES = {
    'stem.2.{block}': 'layer1.{block}',
    'stem.4.{block}': 'layer2.{block}',
    'context_branch_layers.2.0': 'last_low',
    'spatial_branch_layers.2.0': 'last_high',
    'context_branch_layers.{stage}.{block}': 'low.{stage}.{block}',
    'spatial_branch_layers.{stage}.{block}': 'high.{stage}.{block}',
}
DDRNET = {
    'stem.0': 'backbone.stem.0',
    'stem.1': 'backbone.stem.1',
    **{
        f'{theirs}.{name}': f'backbone.{ours}.{part}'
        for theirs, ours in DDRNET_BRANCHES.items()
        for name, part in (
            ('downsample.0', 'downsample.conv'),
            ('downsample.1', 'downsample.bn'),
            *((f'conv{index}', f'conv{index}') for index in (1, 2, 3)),
        )
    },
    'compression_1': 'backbone.compression.0',
    'compression_2': 'backbone.compression.1',
    'down_1': 'backbone.down.0.0',
    'down_2': 'backbone.down.1',
    'spp.scales.0': 'spp.scales.0',
    **{f'spp.scales.{index}.1': f'spp.scales.{index}' for index in (1, 2, 3, 4)},
    'spp': 'spp',
}


def _ddrnet_seg(arch: str, channels: int) -> Table:
    return Table(
        source='mmseg',
        arch=f'{arch}_seg',
        marks=('backbone.context_branch_layers.0.0.conv1.conv.weight', 'decode_head.head.0.conv.weight'),
        condition=lambda published: len(published['backbone.context_branch_layers.0.0.conv1.conv.weight']) == 4 * channels,
        classes='decode_head.conv_seg.weight',
        heads=('aux',),
        rules={
            **{f'backbone.{theirs}': ours for theirs, ours in DDRNET.items()},
            'decode_head.head.0': 'head.conv',
            'decode_head.head.1': 'head.bn',
            'decode_head.conv_seg': 'head.classifier',
            'decode_head.aux_head.0': 'aux.conv',
            'decode_head.aux_head.1': 'aux.bn',
            'decode_head.aux_cls_seg': 'aux.classifier',
        },
        unused=tuple(f'decode_head.loss_decode.{index}.class_weight' for index in (0, 1)),
    )


def _ddrnet_backbone(arch: str, channels: int) -> Table:
    """The ImageNet weights that its DDRNet recipes start from; it leaves the biases of the stem out."""
    return Table(
        source='mmseg',
        arch=arch,
        marks=('context_branch_layers.0.0.conv1.conv.weight',),
        condition=lambda published: len(published['context_branch_layers.0.0.conv1.conv.weight']) == 4 * channels,
        classes=None,
        rules={
            **{f'stem.{index}.{part}': f'backbone.stem.{index}.{part}' for index in (0, 1) for part in ('conv.weight', 'bn')},
            **{theirs: ours for theirs, ours in DDRNET.items() if theirs not in ('stem.0', 'stem.1')},
        },
        unused=('stem.0.conv.bias', 'stem.1.conv.bias', 'down5', 'last_layer', 'linear'),
    )


UNET = Table(
    source='mmseg',
    arch='unet',
    marks=('backbone.encoder.0.0.convs.0.conv.weight', 'decode_head.convs.0.conv.weight'),
    classes='decode_head.conv_seg.weight',
    heads=('aux',),
    rules={
        'backbone.encoder.0.0.convs': 'backbone.stages.0',
        'backbone.encoder.{n}.1.convs': 'backbone.stages.{n}',
        **{
            f'backbone.decoder.{3 - number}.{theirs}': f'ups.{number}.{ours}'
            for number in range(4)
            for theirs, ours in (('conv_block.convs', 'convs'), ('upsample.interp_upsample.1', 'project'))
        },
        'decode_head.convs.0': 'head.conv',
        'decode_head.conv_seg': 'head.classifier',
        'auxiliary_head.convs.0': 'aux.conv',
        'auxiliary_head.conv_seg': 'aux.classifier',
    },
)


def _resnet_backbone(arch: str, last_block: str) -> Table:
    """The ImageNet weights with three 3x3 convolutions as stem (V1c) that its ResNet recipes start from."""
    return Table(
        source='mmseg',
        arch=arch,
        marks=('stem.0.weight', f'layer3.{last_block}.weight'),
        classes=None,
        rules={**resnet.rules(stem='v1c'), 'fc': 'fc'},
    )


TABLES = (
    UNET,
    FAST_SCNN,
    UPERNET,  # before PSPNET, whose marks it has too
    PSPNET,
    FCN,
    DEEPLABV3,
    DEEPLABV3PLUS,
    _stdc_seg('stdc2_seg', 'stages.2.3'),
    _stdc_seg('stdc1_seg', 'stages.2.1'),
    _stdc_backbone('stdc2', 'stages.2.3'),
    _stdc_backbone('stdc1', 'stages.2.1'),
    _ddrnet_seg('ddrnet23_slim', 32),
    _ddrnet_seg('ddrnet23', 64),
    _ddrnet_backbone('ddrnet23_slim', 32),
    _ddrnet_backbone('ddrnet23', 64),
    _resnet_backbone('resnet152', '35.conv3'),  # the longer first
    _resnet_backbone('resnet101', '22.conv3'),
    _resnet_backbone('resnet50', '5.conv3'),
    _resnet_backbone('resnet34', '5.conv2'),
    _resnet_backbone('resnet18', '1.conv2'),
)
