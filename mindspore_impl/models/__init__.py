"""The networks by name; a builder takes ``num_classes``, ``auxiliary`` and the network's own arguments."""
from mindspore_impl.models.fast_scnn import FastSCNN
from mindspore_impl.models.resnet import resnet18, resnet34, resnet50, resnet101, resnet152
from mindspore_impl.models.stdc import stdc1, stdc1_seg, stdc2, stdc2_seg
from mindspore_impl.models.vgg import vgg16_bn

MODELS = {
    'fast_scnn': FastSCNN,
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
}
