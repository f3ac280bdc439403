"""davidtvs/PyTorch-ENet."""

from twinseg.common.weights.publishers.table import Table

CONV_NORM = ('conv', 'bn', 'activation')
STAGES = {  # names of the publisher's blocks, in order
    'stage1': [f'regular1_{number}' for number in range(1, 5)],
    'stage2': [
        'regular2_1',
        'dilated2_2',
        'asymmetric2_3',
        'dilated2_4',
        'regular2_5',
        'dilated2_6',
        'asymmetric2_7',
        'dilated2_8',
    ],
    'stage3': [
        'regular3_0',
        'dilated3_1',
        'asymmetric3_2',
        'dilated3_3',
        'regular3_4',
        'dilated3_5',
        'asymmetric3_6',
        'dilated3_7',
    ],
    'stage4': ['regular4_1', 'regular4_2'],
    'stage5': ['regular5_1'],
}
BLOCKS = {
    'downsample1_0': 'down1',
    'downsample2_0': 'down2',
    **{theirs: f'{stage}.{number}' for stage, names in STAGES.items() for number, theirs in enumerate(names)},
}


def _layers(theirs: str, ours: str, first: int = 0) -> dict[str, str]:
    return {f'{theirs}.{first + index}': f'{ours}.{part}' for index, part in enumerate(CONV_NORM)}


def _block(theirs: str, ours: str) -> dict[str, str]:
    return {
        **_layers(f'{theirs}.ext_conv1', f'{ours}.reduce'),
        **_layers(f'{theirs}.ext_conv2', f'{ours}.middle.0'),
        **_layers(f'{theirs}.ext_conv2', f'{ours}.middle.1', first=3),
        **_layers(f'{theirs}.ext_conv3', f'{ours}.expand'),
        f'{theirs}.out_activation': f'{ours}.activation',
    }


def _upsample(theirs: str, ours: str) -> dict[str, str]:
    return {
        **_layers(f'{theirs}.main_conv1', f'{ours}.shortcut'),
        **_layers(f'{theirs}.ext_conv1', f'{ours}.reduce'),
        f'{theirs}.ext_tconv1': f'{ours}.transposed',
        f'{theirs}.ext_tconv1_bnorm': f'{ours}.bn',
        **_layers(f'{theirs}.ext_conv2', f'{ours}.expand'),
    }


TABLES: tuple[Table, ...] = (
    Table(
        source='davidtvs',
        arch='enet',
        marks=('initial_block.main_branch.weight', 'asymmetric3_6.ext_conv2.3.weight', 'upsample5_0.ext_tconv1.weight'),
        classes='transposed_conv.weight',
        classes_axis=1,
        rules={
            'initial_block.main_branch': 'initial.conv',
            'initial_block.batch_norm': 'initial.bn',
            'initial_block.out_activation': 'initial.activation',
            **{rule: name for theirs, ours in BLOCKS.items() for rule, name in _block(theirs, ours).items()},
            **_upsample('upsample4_0', 'up4'),
            **_upsample('upsample5_0', 'up5'),
            'transposed_conv': 'classifier',
        },
    ),
)
