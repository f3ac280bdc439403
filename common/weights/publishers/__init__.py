"""Whose checkpoints are known: a module per publisher with a table of names per network."""

from twinseg.common.weights.publishers import (
    davidtvs,
    ddrnet,
    deephm,
    encoding,
    mmseg,
    smp,
    stdc_seg,
    torchvision,
    tramac,
    yassouali,
)
from twinseg.common.weights.publishers.table import Table

TABLES: tuple[Table, ...] = tuple(  # tables in the order in which they are tried
    table
    for publisher in (mmseg, tramac, stdc_seg, ddrnet, davidtvs, smp, yassouali, deephm, encoding, torchvision)
    for table in publisher.TABLES
)
PUBLISHERS = tuple(dict.fromkeys(table.source for table in TABLES))
