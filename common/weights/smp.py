"""segmentation-models-pytorch 0.6."""
from common.weights.table import Table

TABLES: tuple[Table, ...] = ()
