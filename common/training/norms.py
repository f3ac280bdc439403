"""The batch norms of a network whose statistics are those of all processes: one rule for both backends."""

from typing import Iterable, Literal

from twinseg.common.errors import UserError

BACKBONE = 'backbone.'  # beginning of the names of a feature extractor's parts, in every network that has one
SyncBN = bool | Literal['heads']  # ``config.Runtime.sync_bn``


def synchronised_norms(names: Iterable[str], sync: SyncBN) -> dict[str, bool]:
    """Name of a batch norm -> whether it is synchronised. UserError where ``heads`` cannot tell them from a backbone."""
    if sync != 'heads':
        return dict.fromkeys(names, sync)
    synchronised = {name: not name.startswith(BACKBONE) for name in names}
    if all(synchronised.values()) or not any(synchronised.values()):
        raise UserError('sync_bn: heads is for networks with norms in a backbone and beside it; choose true or false')
    return synchronised
