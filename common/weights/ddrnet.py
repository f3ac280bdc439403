"""The authors' ydhongHIT/DDRNet, and the MindSpore model zoo's DDRNet-23."""
from common.weights.table import Table

TABLES: tuple[Table, ...] = ()
