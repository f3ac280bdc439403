"""yassouali/pytorch-segmentation."""
from common.weights.table import Table

TABLES: tuple[Table, ...] = ()
