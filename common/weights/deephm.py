"""DeepHM/deeplabv3plus_DPDDP."""
from dataclasses import replace

from common.weights import yassouali

# Names and shapes are yassouali's, so a file is taken for one of his unless the source is named; the network is the same.
DEEPLABV3PLUS = replace(yassouali.DEEPLABV3PLUS, source='deephm')

TABLES = (
    DEEPLABV3PLUS,
)
