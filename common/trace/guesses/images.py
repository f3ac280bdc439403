"""How images reach the network."""

from typing import Optional

import numpy as np

from twinseg.common.trace.difference import difference
from twinseg.common.trace.guesses.guess import Guess, vanishes


def scale(mine: np.ndarray, theirs: np.ndarray, before: float) -> Optional[Guess]:
    """Channels stretched and shifted, by few numbers: another mean and standard deviation of images."""
    if mine.ndim != 4 or mine.shape[1] > 4 or mine.shape[2] * mine.shape[3] < 16:
        return None
    for order in ('RGB', 'BGR') if mine.shape[1] == 3 else ('RGB',):
        x = np.asarray(mine[:, ::-1] if order == 'BGR' else mine, np.float64)
        fits = [np.polyfit(x[:, c].ravel(), theirs[:, c].ravel().astype(np.float64), 1) for c in range(x.shape[1])]
        y = np.stack([x[:, c] * fits[c][0] + fits[c][1] for c in range(x.shape[1])], 1)
        remains = difference(theirs, y).relative
        if vanishes(remains, before):
            factors, shifts = (', '.join(f'{fit[i]:.4g}' for fit in fits) for i in (0, 1))
            bgr = ', and in the order BGR' if order == 'BGR' else ''
            return Guess(
                'scale',
                f'with images multiplied by {factors} and {shifts} added{bgr} (another mean or std)',
                'as they are',
                remains,
            )
    return None
