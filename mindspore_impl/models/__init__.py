"""The networks by name; a builder takes ``num_classes``, ``auxiliary`` and the network's own arguments."""

from twinseg.common.backend import Models
from twinseg.mindspore_impl.models.ddrnet import (
    ddrnet23,
    ddrnet23_seg,
    ddrnet23_slim,
    ddrnet23_slim_seg,
    ddrnet39,
    ddrnet39_seg,
)
from twinseg.mindspore_impl.models.deeplabv3plus import DeepLabV3, DeepLabV3Plus
from twinseg.mindspore_impl.models.duc_hdc import DUCHDC
from twinseg.mindspore_impl.models.enet import ENet
from twinseg.mindspore_impl.models.fast_scnn import FastSCNN
from twinseg.mindspore_impl.models.fcn import fcn
from twinseg.mindspore_impl.models.gcn import GCN
from twinseg.mindspore_impl.models.pspnet import PSPNet
from twinseg.mindspore_impl.models.resnet import resnet18, resnet34, resnet50, resnet101, resnet152
from twinseg.mindspore_impl.models.segnet import segnet
from twinseg.mindspore_impl.models.stdc import stdc1, stdc1_seg, stdc2, stdc2_seg
from twinseg.mindspore_impl.models.unet import UNet
from twinseg.mindspore_impl.models.upernet import UperNet
from twinseg.mindspore_impl.models.vgg import vgg16_bn

MODELS: Models = {
    'enet': ENet,
    'fast_scnn': FastSCNN,
    'segnet': segnet,
    'stdc1': stdc1,
    'stdc2': stdc2,
    'stdc1_seg': stdc1_seg,
    'stdc2_seg': stdc2_seg,
    'resnet18': resnet18,
    'resnet34': resnet34,
    'resnet50': resnet50,
    'resnet101': resnet101,
    'resnet152': resnet152,
    'vgg16_bn': vgg16_bn,
    'ddrnet23_slim': ddrnet23_slim,
    'ddrnet23': ddrnet23,
    'ddrnet39': ddrnet39,
    'ddrnet23_slim_seg': ddrnet23_slim_seg,
    'ddrnet23_seg': ddrnet23_seg,
    'ddrnet39_seg': ddrnet39_seg,
    'fcn': fcn,
    'pspnet': PSPNet,
    'upernet': UperNet,
    'deeplabv3': DeepLabV3,
    'deeplabv3plus': DeepLabV3Plus,
    'unet': UNet,
    'gcn': GCN,
    'duc_hdc': DUCHDC,
}
