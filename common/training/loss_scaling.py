"""The scale of the loss in half precision: the same rule for both backends."""

from typing import Callable

from twinseg.common import config
from twinseg.common.checkpoint import LossScale
from twinseg.common.errors import UserError

FIRST_DYNAMIC = 2.0**16  # where torch.amp.GradScaler starts; one that is too large halves with each of the first steps


def check_overflow_is_seen(settings: config.Precision, overflows: Callable[[], bool]) -> None:
    """UserError for a dynamic scale on a device that saturates, unless it ``overflows``: its largest number replaces
    infinity there, so that the scale would double for ever."""
    if settings.is_dynamic_loss_scale and settings.amp_level != 'O0' and not overflows():
        raise UserError(
            f'is_dynamic_loss_scale: this Ascend saturates ({settings.amp_level}): an overflow gives the largest number, not '
            'infinity, and no step notices; use a static loss_scale such as 1024, or O0'
        )


class LossScaler:
    """The factor of the loss that keeps small gradients above zero in half precision.

    A dynamic scale halves after a step with overflow, but not below 1, and doubles after ``scale_window`` steps in a row
    without one; a static scale stays. In both cases the trainer skips a step with overflow.
    """

    def __init__(self, settings: config.Precision):
        self.dynamic, self.window = settings.is_dynamic_loss_scale, settings.scale_window
        first = settings.loss_scale or (FIRST_DYNAMIC if self.dynamic else 1.0)
        self.scale, self.good_steps = float(first), 0

    def update(self, finite: bool) -> None:
        """Counts a step, with ``finite`` gradients or with an overflow."""
        if not self.dynamic:
            return
        self.good_steps = self.good_steps + 1 if finite else 0
        if not finite:
            self.scale = max(self.scale / 2, 1.0)
        elif self.good_steps >= self.window:
            self.scale, self.good_steps = self.scale * 2, 0

    def state(self) -> LossScale:
        return LossScale(scale=self.scale, good_steps=self.good_steps)

    def load_state(self, state: LossScale) -> None:
        self.scale, self.good_steps = state.scale, state.good_steps
