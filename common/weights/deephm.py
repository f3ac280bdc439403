"""DeepHM/deeplabv3plus_DPDDP."""
from common.weights.table import Table

TABLES: tuple[Table, ...] = ()
