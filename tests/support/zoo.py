"""The networks that every test of the matrix runs through: a new network adds its settings here, and no test."""

from typing import Any, Mapping, NamedTuple

from twinseg.common.settings.presets import preset_arguments

SMALL = (33, 49)  # size of the images for networks that compute long


class Case(NamedTuple):
    """A network with arguments that keep it small enough for tests; one case for each structure that publishers give it."""

    arch: str
    arguments: Mapping[str, Any]
    parameters: tuple[int, int]  # trainable, with and without auxiliary heads
    size: tuple[int, int] = (65, 97)  # of images: sides that no stride divides, where the network takes them
    export_size: tuple[int, int] = (64, 96)
    batch_of_one: bool = True  # whether it trains on a single image (a norm over one value a channel cannot)


def published(preset: str, arch: str, **settings: Any) -> dict[str, Any]:
    """The arguments of a publisher's network, some of them smaller for tests."""
    return {**preset_arguments(preset, arch), **settings}


NETWORKS = {
    'fast_scnn': Case('fast_scnn', {}, (1_456_617, 1_399_939), batch_of_one=False),
    'fast_scnn of Tramac': Case('fast_scnn', published('tramac', 'fast_scnn'), (1_157_174, 1_138_051), batch_of_one=False),
    'enet': Case('enet', {}, (364_311, 364_311)),
    'enet encoder': Case('enet', {'encoder_only': True}, (340_607, 340_607)),
    'enet of davidtvs': Case('enet', published('davidtvs', 'enet', num_classes=20), (351_804, 351_804), size=(129, 193)),
    'enet of yassouali': Case('enet', published('yassouali', 'enet'), (358_344, 358_344), size=(129, 193)),
    'segnet': Case('segnet', {}, (29_453_971, 29_453_971), size=(65, 65)),
    'segnet of yassouali': Case('segnet', published('yassouali', 'segnet'), (29_491_027, 29_491_027), size=SMALL),
    'segnet of DeepHM': Case('segnet', published('deephm', 'segnet'), (16_320_659, 16_320_659), size=SMALL),
    'segnet resnet50': Case('segnet', published('yassouali_resnet', 'segnet'), (53_563_155, 53_563_155), size=SMALL),
    'stdc1': Case('stdc1', {}, (8_441_504, 8_441_504)),  # the authors' 8.4436 M count a norm that is never used
    'stdc2': Case('stdc2', {}, (12_471_968, 12_471_968)),
    'stdc1_seg': Case('stdc1_seg', {}, (8_573_019, 8_275_123), batch_of_one=False),
    'stdc2_seg': Case('stdc2_seg', {}, (12_603_483, 12_305_587), batch_of_one=False),
    'stdc1_seg of its authors': Case(
        'stdc1_seg', published('stdc_seg', 'stdc1_seg'), (8_572_896, 8_275_104), batch_of_one=False
    ),
    'resnet18': Case('resnet18', {}, (11_689_512, 11_689_512)),
    'resnet50 v1c': Case('resnet50', published('mmseg', 'resnet50'), (25_576_264, 25_576_264)),
    'ddrnet23_slim': Case('ddrnet23_slim', {}, (7_574_600, 7_574_600)),
    'ddrnet23_slim of its authors': Case('ddrnet23_slim', published('ddrnet', 'ddrnet23_slim'), (7_574_664, 7_574_664)),
    'ddrnet23 of the MindSpore zoo': Case('ddrnet23', published('zoo', 'ddrnet23'), (28_216_488, 28_216_488)),
    'ddrnet39': Case('ddrnet39', {}, (40_130_216, 40_130_216)),
    'ddrnet23_slim_seg': Case('ddrnet23_slim_seg', {}, (5_734_278, 5_695_923), batch_of_one=False),
    'ddrnet23_slim_seg of its authors': Case(
        'ddrnet23_slim_seg', published('ddrnet', 'ddrnet23_slim_seg'), (5_734_342, 5_695_987), batch_of_one=False
    ),
    'ddrnet23_seg': Case('ddrnet23_seg', {}, (20_299_238, 20_148_819), batch_of_one=False),
    'ddrnet39_seg': Case('ddrnet39_seg', {}, (32_660_710, 32_360_147), batch_of_one=False),
    'vgg16_bn': Case('vgg16_bn', {'num_classes': 10, 'channels': 256}, (21_214_282, 21_214_282)),  # published 138.37 M
    'deeplabv3plus': Case('deeplabv3plus', {'backbone': 'resnet18'}, (16_756_486, 16_607_667), batch_of_one=False),
    'deeplabv3plus of mmsegmentation': Case(
        'deeplabv3plus',
        # with ResNet-50 and its 512 and 48 channels 43.59 M
        published('mmseg', 'deeplabv3plus', backbone='resnet18', channels=128, low_level_channels=12),
        (12_468_962, 12_320_143),
        batch_of_one=False,
    ),
    'deeplabv3plus of yassouali': Case(
        'deeplabv3plus',
        published('yassouali', 'deeplabv3plus', backbone='resnet18'),  # with ResNet-50 40.35 M
        (16_607_667, 16_607_667),
        batch_of_one=False,
    ),
    'deeplabv3plus of smp': Case(
        'deeplabv3plus',
        published('smp', 'deeplabv3plus', backbone='resnet18'),  # with ResNet-50 26.68 M
        (12_333_923, 12_333_923),
        batch_of_one=False,
    ),
    'deeplabv3plus xception': Case('deeplabv3plus', {'backbone': 'xception'}, (42_245_060, 41_048_755), batch_of_one=False),
    'deeplabv3plus xception of yassouali': Case(
        'deeplabv3plus', published('yassouali_xception', 'deeplabv3plus'), (54_704_803, 54_704_803), batch_of_one=False
    ),
    'deeplabv3': Case('deeplabv3', {'backbone': 'resnet18'}, (15_462_054, 15_313_235), batch_of_one=False),
    'deeplabv3 of torchvision': Case(
        'deeplabv3',
        published('torchvision', 'deeplabv3', backbone='resnet18'),  # with ResNet-50 and 21 classes 42.00 M
        (16_052_390, 15_903_571),
        batch_of_one=False,
    ),
    'pspnet': Case(
        'pspnet',
        {'backbone': 'resnet18', 'channels': 128, 'auxiliary_channels': 64},
        (12_790_086, 12_641_267),
        batch_of_one=False,
    ),
    'pspnet of yassouali': Case(
        'pspnet',
        published('yassouali', 'pspnet', auxiliary_channels=128, backbone='resnet18', channels=128),
        (13_068_134, 12_770_515),
        batch_of_one=False,
    ),
    'pspnet of smp': Case(
        'pspnet',
        published('smp', 'pspnet', backbone='resnet18', auxiliary=True),  # two stages have no auxiliary head
        (919_347, 919_347),
    ),
    'upernet': Case(
        'upernet',
        {'backbone': 'resnet18', 'channels': 64, 'auxiliary_channels': 64},
        (12_207_494, 12_058_675),
        batch_of_one=False,
    ),
    'upernet of yassouali': Case(
        'upernet',
        published('yassouali', 'upernet', backbone='resnet18', channels=64),
        (16_412_307, 16_412_307),
        batch_of_one=False,
    ),
    'upernet of smp': Case(
        'upernet', published('smp', 'upernet', backbone='resnet18', channels=64), (12_041_363, 12_041_363), batch_of_one=False
    ),
    'fcn': Case('fcn', {'backbone': 'resnet18', 'channels': 128, 'auxiliary_channels': 64}, (12_822_342, 12_673_523)),
    'fcn of torchvision': Case(
        'fcn',
        published('torchvision', 'fcn', auxiliary_channels=64, backbone='resnet18', channels=128),
        (11_917_862, 11_769_043),
    ),
    'fcn of 2015': Case('fcn', published('yassouali', 'fcn', channels=64), (16_340_409, 16_340_409)),
    'unet': Case('unet', {}, (31_113_894, 31_038_803)),
    'unet of mmsegmentation': Case('unet', published('mmseg', 'unet'), (29_062_886, 28_987_795)),
    'unet of yassouali': Case('unet', published('yassouali', 'unet'), (26_356_339, 26_356_339)),
    'unet of yassouali behind a ResNet': Case(
        'unet',
        published('yassouali_resnet', 'unet', backbone='resnet18'),  # with ResNet-50 30.00 M
        (13_712_336, 13_712_336),
    ),
    'unet of smp': Case(
        'unet',
        published('smp', 'unet', backbone='resnet18'),  # with ResNet-34 24.44 M
        (14_330_819, 14_330_819),
    ),
    'gcn': Case('gcn', {'backbone': 'resnet18'}, (11_842_785, 11_842_785)),
    'gcn of yassouali': Case(
        'gcn',
        published('yassouali', 'gcn', backbone='resnet18'),  # with ResNet-50 and its unused norms 25.21 M
        (11_669_068, 11_669_068),
    ),
    'duc_hdc': Case('duc_hdc', {'backbone': 'resnet34'}, (28_220_416, 28_220_416), batch_of_one=False),
    'duc_hdc of yassouali': Case(
        'duc_hdc',
        published('yassouali', 'duc_hdc', backbone='resnet18'),  # with ResNet-101 69.18 M
        (19_369_635, 19_369_635),
        batch_of_one=False,
    ),
}
CLASSIFIERS = (
    'stdc1',
    'stdc2',
    'resnet18',
    'resnet50 v1c',
    'vgg16_bn',
    'ddrnet23_slim',
    'ddrnet23_slim of its authors',
    'ddrnet23 of the MindSpore zoo',
    'ddrnet39',
)
OVERFIT = [name for name, case in NETWORKS.items() if name == case.arch and name not in CLASSIFIERS]  # one of each network
QUICK = (  # one of each kind: what takes long is tried with these in every run of the tests
    'stdc1',
    'resnet18',
    'ddrnet23_slim',
    *(name for name in OVERFIT if name not in ('stdc2_seg', 'ddrnet23_seg', 'ddrnet39_seg')),
)
STEPPED = (  # training/test_golden_steps.py takes steps with these, and compares the twins after two
    'fast_scnn',
    'enet',
    'stdc1_seg',
    'ddrnet23_slim_seg',
    'upernet',
    'unet',
)
