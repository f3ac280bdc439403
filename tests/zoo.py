"""The networks that every test of the matrix runs through: a new network adds its settings here, and no test."""
from typing import Any, Mapping, NamedTuple


class Case(NamedTuple):
    """A network with arguments that keep it small enough for tests; one case for each structure that publishers give it."""
    arch: str
    arguments: Mapping[str, Any]
    parameters: tuple[int, int]  # trainable, with and without auxiliary heads
    size: tuple[int, int] = (65, 97)  # of images: sides that no stride divides, where the network takes them
    batch_of_one: bool = True  # whether it trains on a single image (a norm over one value a channel cannot)


NETWORKS = {
    'fast_scnn': Case('fast_scnn', {}, (1_456_617, 1_399_939)),
    'fast_scnn of Tramac': Case('fast_scnn', {
        'auxiliary_heads': ['aux_ltd'], 'stem_padding': 0, 'depthwise_relu': True, 'ppm_kernel': 1, 'fusion_bias': True,
        'align_corners': True, 'bn_momentum': 0.1}, (1_157_174, 1_138_051)),
    'stdc1': Case('stdc1', {}, (8_441_504, 8_441_504)),  # the authors' 8.4436 M count a norm that is never used
    'stdc2': Case('stdc2', {}, (12_471_968, 12_471_968)),
    'stdc1_seg': Case('stdc1_seg', {}, (8_573_019, 8_275_123)),
    'stdc2_seg': Case('stdc2_seg', {}, (12_603_483, 12_305_587)),
    'stdc1_seg of its authors': Case('stdc1_seg', {
        'detail_channels': 1, 'class_bias': False, 'auxiliary_align_corners': True, 'dropout': 0.0}, (8_572_896, 8_275_104)),
    'resnet18': Case('resnet18', {}, (11_689_512, 11_689_512)),
    'resnet50 v1c': Case('resnet50', {'stem': 'v1c'}, (25_576_264, 25_576_264)),
    'vgg16_bn': Case('vgg16_bn', {'num_classes': 10}, (138_365_992 - 990 * 4097, 138_365_992 - 990 * 4097)),
}
CLASSIFIERS = ('stdc1', 'stdc2', 'resnet18', 'resnet50 v1c', 'vgg16_bn')
SEGMENTATION = [name for name in NETWORKS if name not in CLASSIFIERS]
