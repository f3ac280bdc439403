"""DeepHM/deeplabv3plus_DPDDP."""

from dataclasses import replace

from twinseg.common.weights.publishers import yassouali
from twinseg.common.weights.publishers.table import Table

# Names and shapes are yassouali's, so a file is taken for one of his unless the source is named; the network is the same.
DEEPLABV3PLUS = replace(yassouali.DEEPLABV3PLUS, source='deephm')
SEGNET = Table(
    source='deephm',
    arch='segnet',
    marks=('stage1_encoder.0.weight', 'stage2_decoder.6.weight', 'stage5_decoder.6.weight'),
    condition=yassouali.segnet_is_shared,
    classes='stage5_decoder.6.weight',
    rules={
        **yassouali.SEGNET_ENCODER,
        **{
            f'stage{5 - stage}_decoder.{3 * number + layer}': f'decoder.{stage}.0.{part}'
            for stage, number in ((3, 2), (2, 2), (1, 1))
            for layer, part in enumerate(('conv', 'bn'))
        },
        'stage5_decoder.3': 'last',
        'stage5_decoder.6': 'classifier',
    },
    unused=tuple(yassouali.SEGNET_ALIASES),  # other names of the encoder's tensors
)

TABLES = (
    DEEPLABV3PLUS,
    SEGNET,
)
