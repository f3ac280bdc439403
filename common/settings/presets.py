"""The settings by which publishers' networks differ from the defaults: stem, padding, dilation, ``align_corners``, ...

They are only here. The tables of ``weights/publishers`` build the network of a published checkpoint with them, a recipe
names them (``preset: davidtvs``), and the tests' networks are made of them. This module is data: it imports nothing but the
errors, so that ``config`` below ``weights`` can read it.
"""

from copy import deepcopy
from typing import Any, Mapping

from twinseg.common.errors import UserError
from twinseg.common.printable import one_line

Arguments = Mapping[str, Any]  # arguments of a network's builder, as YAML and JSON hold them

DEFAULTS: Arguments = {}  # nothing differs
_YASSOUALI_DEEPLABV3PLUS: Arguments = {  # settings for any backbone
    'auxiliary': False,
    'low_level_first': True,
    'align_corners': True,
    'aspp_dropout': 0.5,
}
_YASSOUALI_GCN: Arguments = {'auxiliary': False, 'kernel_size': 11}
_STDC_SEG: Arguments = {
    'detail_channels': 1,
    'class_bias': False,
    'auxiliary_align_corners': True,
    'dropout': 0.0,
    'decoder_init': 'kaiming_linear',
}
_RESNETS = ('resnet18', 'resnet34', 'resnet50', 'resnet101', 'resnet152')

PRESETS: Mapping[str, Mapping[str, Arguments]] = {  # preset -> arch -> arguments
    'mmseg': {  # mmsegmentation; channels are those of its networks on ResNet-50 and deeper ones
        **dict.fromkeys(('fast_scnn', 'upernet', 'pspnet', 'fcn'), DEFAULTS),
        **dict.fromkeys(('stdc1', 'stdc2', 'stdc1_seg', 'stdc2_seg'), DEFAULTS),
        **dict.fromkeys(('ddrnet23_slim', 'ddrnet23', 'ddrnet23_slim_seg', 'ddrnet23_seg'), DEFAULTS),
        **dict.fromkeys(_RESNETS, {'stem': 'v1c'}),
        'unet': {'upsampling': 'bilinear', 'head': 'fcn'},  # UNet-S5-D16
        'deeplabv3': {
            'stem': 'v1c',
            'output_stride': 8,
            'channels': 512,
            'pool_first': True,
            'project_kernel': 3,
            'dropout': 0.1,
        },
        'deeplabv3plus': {
            'stem': 'v1c',
            'output_stride': 8,
            'channels': 512,
            'convolution': 'separable',
            'pool_first': True,
            'project_kernel': 3,
        },
    },
    'tramac': {  # Tramac/Fast-SCNN-pytorch
        'fast_scnn': {
            'auxiliary_heads': ['aux_ltd'],
            'stem_padding': 0,
            'depthwise_relu': True,
            'ppm_kernel': 1,
            'fusion_bias': True,
            'align_corners': True,
            'bn_momentum': 0.1,
        },
    },
    'stdc_seg': {  # the authors' MichaelFan01/STDC-Seg
        **dict.fromkeys(('stdc1', 'stdc2'), DEFAULTS),
        **dict.fromkeys(('stdc1_seg', 'stdc2_seg'), _STDC_SEG),
    },
    'ddrnet': dict.fromkeys(  # the authors' ydhongHIT/DDRNet
        ('ddrnet23_slim', 'ddrnet23', 'ddrnet39', 'ddrnet23_slim_seg', 'ddrnet23_seg', 'ddrnet39_seg'), {'stem_bias': True}
    ),
    'zoo': {  # the MindSpore model zoo's research/cv/DDRNet: padding and resizing of MindSpore's defaults
        'ddrnet23': {'same_padding': True, 'half_pixel': False, 'last_bn_momentum': 0.9},
    },
    'davidtvs': {  # davidtvs/PyTorch-ENet
        'enet': {
            'initial_bias': False,
            'initial_pool': 3,
            'norm_eps': 1e-5,
            'conv_bias': False,
            'slopes': 'one',
            'branch_activation': 'regular',
            'columns_first': True,
            'asymmetric_norm': True,
            'asymmetric_bias': [False, False],
            'narrow_by_input': True,
            'upsample_kernel': 2,
            'last_kernel': 3,
        },
    },
    'smp': {  # segmentation-models-pytorch 0.6
        'unet': {'auxiliary': False, 'backbone': 'resnet34', 'upsampling': 'nearest', 'head': '3x3'},
        'pspnet': {
            'auxiliary': False,
            'stem': '7x7',
            'stages': 2,
            'pyramid_kernel': 1,
            'input_last': True,
            'norm_one_bin': False,
            'classifier_kernel': 3,
            'pyramid_align_corners': True,
            'align_corners': True,
            'dropout': 0.2,
        },
        'upernet': {
            'auxiliary': False,
            'stem': '7x7',
            'channels': 256,
            'layer_norm': True,
            'align_corners': True,
            'dropout': 0.0,
        },
        'deeplabv3plus': {
            'auxiliary': False,
            'contract_dilation': False,
            'rates': [12, 24, 36],
            'convolution': 'bare',
            'refine': True,
            'decoder_convolutions': 1,
            'align_corners': True,
            'aspp_dropout': 0.5,
            'dropout': 0.0,
        },
    },
    'yassouali': {  # yassouali/pytorch-segmentation
        'segnet': {'last_convolutions': 2},
        'unet': {'auxiliary': False, 'block': 'narrow', 'late_pool': True, 'align_corners': True},
        'duc_hdc': {'auxiliary': False, 'decoder': True, 'logits_norm': True, 'aspp_dropout': 0.5},
        'gcn': {**_YASSOUALI_GCN, 'transposed': False},
        'enet': {
            'pool_first': True,
            'norm_eps': 1e-5,
            'conv_bias': False,
            'slopes': 'initial',
            'branch_activation': 'all',
            'asymmetric_norm': True,
            'asymmetric_bias': [True, True],
            'narrow_by_input': True,
            'last_kernel': 3,
        },
        'pspnet': {'stem': 'deep', 'dilate_second': True, 'pyramid_align_corners': True},
        'upernet': {
            'auxiliary': False,
            'stem': '7x7',
            'output_stride': 16,
            'contract_dilation': False,
            'channels': 256,
            'bins': [1, 2, 4, 6],
            'fpn': 'shared',
            'classifier_kernel': 3,
            'inner_align_corners': True,
        },
        'fcn': {'backbone': 'vgg16'},  # FCN8
        'deeplabv3plus': {**_YASSOUALI_DEEPLABV3PLUS, 'contract_dilation': False},
    },
    'yassouali_resnet': {  # his UNetResnet and SegResNet
        'unet': {
            'auxiliary': False,
            'backbone': 'resnet50',
            'stem': 'deep',
            'output_stride': 8,
            'block': 'linear',
            'upsampling': 'wide',
            'align_corners': True,
        },
        'segnet': {'backbone': 'resnet50'},
    },
    'yassouali_transposed': {  # his GCN with learned upsampling
        'gcn': _YASSOUALI_GCN,
    },
    'yassouali_xception': {
        'deeplabv3plus': {
            **_YASSOUALI_DEEPLABV3PLUS,
            'backbone': 'xception',
            'convolution': 'dense',
            'shared_relu': True,
        },
    },
    'deephm': {  # DeepHM/deeplabv3plus_DPDDP, which keeps an older version of yassouali's networks
        'deeplabv3plus': {**_YASSOUALI_DEEPLABV3PLUS, 'contract_dilation': False},
        'segnet': {'last_convolutions': 2, 'shared': True},
    },
    'encoding': dict.fromkeys(('resnet50', 'resnet101', 'resnet152'), {'stem': 'deep'}),  # zhanghang1989/PyTorch-Encoding
    'torchvision': {
        **dict.fromkeys((*_RESNETS, 'vgg16_bn'), DEFAULTS),
        'deeplabv3': {'output_stride': 8, 'refine': True},
        'fcn': {'stem': '7x7', 'convolutions': 1, 'concat_input': False},
    },
}

HEAD_ARGUMENTS = ('auxiliary_heads', 'auxiliary_align_corners', 'detail_channels')  # no effect without auxiliary heads


def preset_arguments(preset: str, arch: str) -> dict[str, Any]:
    """The arguments of a preset's network, a copy; UserError for a preset that there is not, or not for this ``arch``."""
    arguments = PRESETS.get(preset, {}).get(arch)
    if arguments is None:
        arch, preset = one_line(arch, 40), one_line(preset, 40)
        known = [name for name, networks in PRESETS.items() if arch in networks]
        others = f'; {preset} is of {", ".join(PRESETS[preset])}' if preset in PRESETS else ''
        raise UserError(f'no preset {preset!r} of {arch}: it has {", ".join(known) or "none"}{others}')
    return deepcopy(dict(arguments))


def without_heads(arguments: Arguments) -> dict[str, Any]:
    """The arguments that have an effect on a network without auxiliary heads."""
    return {key: value for key, value in arguments.items() if key not in HEAD_ARGUMENTS}
