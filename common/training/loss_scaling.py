"""The scale of the loss in half precision: the same rule for both backends."""

from twinseg.common import config
from twinseg.common.checkpoint import LossScale


class LossScaler:
    """The factor of the loss that keeps small gradients alive in half precision.

    A dynamic scale halves, but not below 1, after a step with overflow and doubles after ``scale_window`` good steps in a
    row; a static one stays. Either way a step with overflow is not to be taken.
    """

    def __init__(self, settings: config.Precision):
        self.dynamic, self.window = settings.is_dynamic_loss_scale, settings.scale_window
        self.scale, self.good_steps = float(settings.loss_scale), 0

    def update(self, finite: bool) -> None:
        """Takes note of a step."""
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
