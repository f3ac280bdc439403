"""davidtvs/PyTorch-ENet."""
from common.weights.table import Table

TABLES: tuple[Table, ...] = ()
