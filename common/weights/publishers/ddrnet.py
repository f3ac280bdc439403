"""The authors' ydhongHIT/DDRNet, and the MindSpore model zoo's DDRNet-23 (research/cv/DDRNet)."""

from twinseg.common.weights.publishers.table import Arrays, Table

CHANNELS = {'ddrnet23_slim': 32, 'ddrnet23': 64, 'ddrnet39': 64}  # channels of the stem
STAGES = {'ddrnet23_slim': ('3', '4'), 'ddrnet23': ('3', '4'), 'ddrnet39': ('3_1', '3_2', '4')}  # stages in both branches
CONV_BN = {'0': 'conv', '1': 'bn'}
BLOCK = {
    **{f'conv{index}': f'conv{index}.conv' for index in (1, 2, 3)},
    **{f'bn{index}': f'conv{index}.bn' for index in (1, 2, 3)},
    **{f'downsample.{index}': f'downsample.{part}' for index, part in CONV_BN.items()},
}
NORM_FIRST = {'0': 'bn', '2': 'conv'}
HEAD = {'bn1': 'conv.bn', 'conv1': 'conv.conv', 'bn2': 'bn', 'conv2': 'classifier'}
OPTIMIZER = (  # names that MindSpore's training saves beside the network
    'accum',
    'moments',
    'moment1',
    'moment2',
    'stats',
    'beta1_power',
    'beta2_power',
    'global_step',
    'learning_rate',
    'momentum',
    'weight_decay',
    'loss_scale',
    'scale_sense',
    'current_iterator_step',
    'last_overflow_iterator_step',
    'epoch_num',
    'step_num',
)


def _two(theirs: str, ours: str) -> dict[str, str]:
    """Two convolutions with norm in one list, a relu between."""
    return {
        f'{theirs}.{3 * index + layer}': f'{ours}.{index}.{part}'
        for index in (0, 1)
        for layer, part in enumerate(('conv', 'bn'))
    }


def _backbone(arch: str) -> dict[str, str]:
    layers = {
        'layer1.{block}': 'layer1.{block}',
        'layer2.{block}': 'layer2.{block}',
        'layer5.0': 'last_low',
        'layer5_.0': 'last_high',
    }
    rules = _two('conv1', 'backbone.stem')
    for index, stage in enumerate(STAGES[arch]):
        layers |= {f'layer{stage}.{{block}}': f'low.{index}.{{block}}', f'layer{stage}_.{{block}}': f'high.{index}.{{block}}'}
        rules |= {f'compression{stage}.{theirs}': f'backbone.compression.{index}.{part}' for theirs, part in CONV_BN.items()}
        rules |= _two(f'down{stage}', f'backbone.down.{index}')
    return {
        **rules,
        **{f'{theirs}.{name}': f'backbone.{ours}.{part}' for theirs, ours in layers.items() for name, part in BLOCK.items()},
    }


def _classifier_rules(arch: str) -> dict[str, str]:
    return {
        **_backbone(arch),
        **_two('down5', 'down'),
        'last_layer.0': 'conv_last.conv',
        'last_layer.1': 'conv_last.bn',
        'linear': 'linear',
    }


def _classifier(arch: str) -> Table:
    return Table(
        source='ddrnet',
        arch=arch,
        marks=('conv1.0.bias', f'layer{STAGES[arch][0]}.0.conv1.weight', 'down5.0.weight'),
        condition=lambda published: len(published['conv1.0.bias']) == CHANNELS[arch],
        classes='linear.weight',
        rules=_classifier_rules(arch),
    )


def _segmentation(arch: str) -> Table:
    return Table(
        source='ddrnet',
        arch=f'{arch}_seg',
        marks=('conv1.0.bias', f'layer{STAGES[arch][0]}.0.conv1.weight', 'spp.scale0.2.weight'),
        condition=lambda published: len(published['conv1.0.bias']) == CHANNELS[arch],
        classes='final_layer.conv2.weight',
        heads=('aux',),
        rules={
            **_backbone(arch),
            **{
                f'spp.{name}.{theirs}': f'spp.{ours}.{part}'
                for theirs, part in NORM_FIRST.items()
                for name, ours in (
                    ('scale0', 'scales.0'),
                    ('compression', 'compression'),
                    ('shortcut', 'shortcut'),
                    *((f'process{index}', f'processes.{index - 1}') for index in (1, 2, 3, 4)),
                )
            },
            **{
                f'spp.scale{index}.{layer}': f'spp.scales.{index}.{part}'
                for index in (1, 2, 3, 4)
                for layer, part in ((1, 'bn'), (3, 'conv'))
            },
            **{f'final_layer.{theirs}': f'head.{ours}' for theirs, ours in HEAD.items()},
            **{f'seghead_extra.{theirs}': f'aux.{ours}' for theirs, ours in HEAD.items()},
        },
        unused=('loss',),  # class weights that training code keeps beside the network
    )


def _of_mindspore(published: Arrays) -> bool:
    """No biases in the stem, and no counters of batches: MindSpore has none."""
    return 'conv1.0.bias' not in published and not any(name.endswith('num_batches_tracked') for name in published)


ZOO = Table(
    source='zoo',
    arch='ddrnet23',
    marks=('conv1.1.running_mean', 'layer3_.0.bn1.weight', 'down5.1.weight'),
    condition=_of_mindspore,
    classes='linear.weight',
    rules=_classifier_rules('ddrnet23'),
    unused=OPTIMIZER,
)

TABLES = (*(_segmentation(arch) for arch in CHANNELS), *(_classifier(arch) for arch in CHANNELS), ZOO)
