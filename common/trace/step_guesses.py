"""What may differ in a training step, told from the first step that moves tensors differently: every guess is a hyperparameter
with which the recorded step gives the other side's tensors."""

from dataclasses import dataclass
from typing import Callable, Optional, Sequence

import numpy as np

from twinseg.common.checkpoint import State
from twinseg.common.config import Optimizer
from twinseg.common.training.parameter_groups import parameter_groups

FITS = 0.02  # share of a difference that may remain unexplained
ADAM = ('adam', 'adamw')


@dataclass(frozen=True)
class Step:
    """One training step of both sides, from equal tensors."""

    number: int  # from 0
    before: State
    mine: State  # after it
    theirs: State
    optimizer: Optimizer  # the first side's
    rate: float  # its learning rate

    def slots(self, kind: str) -> list[str]:
        """The parameters with a slot of that kind."""
        return [name.removeprefix(f'optimizer.{kind}.') for name in self.mine if name.startswith(f'optimizer.{kind}.')]

    def vector(self, state: State, prefix: str, names: Sequence[str]) -> np.ndarray:
        """The tensors ``prefix + name`` as one vector, zeros where there is none yet."""
        shapes = self.mine
        values = [state.get(f'{prefix}{name}', np.zeros_like(shapes[f'{prefix}{name}'])) for name in names]
        return np.concatenate([value.ravel().astype(np.float64) for value in values])

    def of_one_axis(self, names: Sequence[str]) -> np.ndarray:
        """For every element of the parameters, whether it is of a norm or a bias."""
        return np.concatenate(
            [np.full(self.mine[f'model.{name}'].size, float(self.mine[f'model.{name}'].ndim == 1)) for name in names]
        )

    def of_groups(self, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """For every element of the parameters: whether it decays, and its learning rate."""
        axes = {name: self.mine[f'model.{name}'].ndim for name in names}
        settings = self.optimizer.model_copy(update={'weight_decay': 1.0})
        groups = {name: group for group in parameter_groups(axes, settings) for name in group.names}
        sizes = [self.mine[f'model.{name}'].size for name in names]
        decays = np.repeat([groups[name].weight_decay for name in names], sizes)
        return decays, np.repeat([groups[name].lr_mult * self.rate for name in names], sizes)


def guess_of(step: Step, differing: set[str]) -> Optional[str]:
    """What the second side trains with; ``differing``: names of the tensors that moved differently. None where nothing explains
    it."""
    return next((said for rule in _RULES if (said := rule(step, differing)) is not None), None)


def fit(left: np.ndarray, *right: np.ndarray) -> Optional[np.ndarray]:
    """The factors with which the vectors of ``right`` add up to ``left``, by least squares; None where they do not."""
    matrix = np.stack(right, 1)
    if not left.any() or not matrix.any(0).all():
        return None
    factors = np.linalg.lstsq(matrix, left, rcond=None)[0]
    return factors if np.linalg.norm(left - matrix @ factors) <= FITS * np.linalg.norm(left) else None


def _statistics(step: Step, names: set[str]) -> Optional[str]:
    """Running statistics alone: r' = r + m (batch - r)."""
    moved = [name for name in names if name.startswith('model.') and 'running' in name]
    others = [name for name in names if name not in moved]
    if not moved or any(name.startswith('optimizer.') for name in others) or step.number and others:
        return None
    before, mine, theirs = (step.vector(state, '', moved) for state in (step.before, step.mine, step.theirs))
    ratio = fit(theirs - before, mine - before)
    return None if ratio is None else f'a momentum of batch norm {ratio[0]:.3g} times as large'


def _kind(step: Step, names: set[str]) -> Optional[str]:
    """Slots that the other side does not have."""
    kinds = {name.split('.')[1] for name in names if name.startswith('optimizer.') and name not in step.theirs}
    theirs = {name.split('.')[1] for name in step.theirs if name.startswith('optimizer.')}
    if not kinds:
        return None
    return f'another optimizer: it has {_listed(theirs) or "no slots"} for every parameter, not {_listed(kinds)}'


def _listed(kinds: set[str]) -> str:
    return ' and '.join(sorted(kinds))


def _gradient(step: Step, parameters: Sequence[str]) -> Optional[np.ndarray]:
    """The first side's gradient, with the weight decay that is added to it: from its slots."""
    settings = step.optimizer
    kind, share = ('exp_avg', settings.beta[0]) if settings.optimizer in (*ADAM, 'lamb') else ('momentum', settings.momentum)
    if settings.optimizer == 'rmsprop' or not step.slots(kind):
        return None
    before, after = (step.vector(state, f'optimizer.{kind}.', parameters) for state in (step.before, step.mine))
    rest = after - share * before
    return rest / (1 - share) if kind == 'exp_avg' else rest


def _slots(step: Step, names: set[str]) -> Optional[str]:
    """The first moment or momentum, and the mean of the squares: m' = b m + (1 - b) g, for SGD m' = b m + g."""
    kinds = {name.split('.')[1] for name in names if name.startswith('optimizer.') and name in step.theirs}
    settings, adam = step.optimizer, step.optimizer.optimizer in (*ADAM, 'lamb')
    first, parameters = ('exp_avg' if adam else 'momentum'), step.slots('exp_avg' if adam else 'momentum')
    if not kinds or not parameters:
        return _squares(step, kinds, None)
    gradient = _gradient(step, parameters)
    if first not in kinds or gradient is None:
        return _squares(step, kinds, gradient)
    before, mine, theirs = (
        step.vector(state, f'optimizer.{first}.', parameters) for state in (step.before, step.mine, step.theirs)
    )
    change, weight = theirs - mine, 1 - settings.beta[0] if adam else 1.0
    values, (decays, _) = step.vector(step.before, 'model.', parameters), step.of_groups(parameters)
    added = settings.weight_decay if settings.optimizer not in ('adamw', 'lamb') else 0.0
    for mask, where in ((decays, ''), (step.of_one_axis(parameters), ' of norms and biases'), (np.ones_like(decays), '')):
        if (factor := fit(change, values * mask)) is not None:
            return _decay(settings, factor[0] / weight, where)
    if adam and 'exp_avg_sq' not in kinds and (factor := fit(change, before - gradient)) is not None:
        return f'a first beta of {settings.beta[0] + factor[0]:.4g} instead of {settings.beta[0]:g}'
    if not adam and step.number and (factor := fit(change, before)) is not None:
        return f'a momentum {_more(factor[0])} by {abs(factor[0]):.3g}'
    loss = gradient - added * values * decays  # the gradient of the loss alone
    if (factor := fit(change, loss)) is not None:
        return f'gradients {1 + factor[0] / weight:.3g} times as large (another clipping, scale or mean of the loss)'
    return None


def _decay(settings: Optimizer, change: float, where: str) -> str:
    if settings.optimizer in ('adamw', 'lamb'):
        return f'a weight decay of {change:.3g}{where} that is added to the gradient (Adam), not to the update (AdamW)'
    if settings.optimizer == 'adam' and np.isclose(-change, settings.weight_decay, rtol=FITS):
        return f'no weight decay{where} in the gradient (AdamW adds it to the update)'
    return f'a weight decay{where} {_more(change)} by {abs(change):.3g}'


def _squares(step: Step, kinds: set[str], gradient: Optional[np.ndarray]) -> Optional[str]:
    """The mean of squares alone: v' = b v + (1 - b) g^2."""
    kind = next((kind for kind in ('exp_avg_sq', 'square_avg') if kind in kinds), None)
    if kind is None:
        return None
    share, name = (
        (step.optimizer.beta[1], 'second beta') if kind == 'exp_avg_sq' else (step.optimizer.decay, 'decay of squares')
    )
    parameters = step.slots(kind)
    before, mine, theirs = (
        step.vector(state, f'optimizer.{kind}.', parameters) for state in (step.before, step.mine, step.theirs)
    )
    square = (mine - share * before) / (1 - share) if gradient is None else gradient**2
    factor = fit(theirs - mine, before - square)
    return None if factor is None else f'a {name} of {share + factor[0]:.6g} instead of {share:g}'


def _adam_update(step: Step, names: set[str]) -> Optional[str]:
    """Equal slots, other parameters: p' = p - lr (u + w p), u = m / (sqrt(v) + epsilon) with both corrected for bias."""
    settings = step.optimizer
    if settings.optimizer not in ADAM or any(name.startswith('optimizer.') for name in names):
        return None
    parameters = step.slots('exp_avg')
    before, mine, theirs = (step.vector(state, 'model.', parameters) for state in (step.before, step.mine, step.theirs))
    m, v = (step.vector(step.mine, f'optimizer.{kind}.', parameters) for kind in ('exp_avg', 'exp_avg_sq'))
    corrections = [1 - beta ** (step.number + 1) for beta in settings.beta]
    decays, rates = step.of_groups(parameters)
    first, root = m / corrections[0], np.sqrt(v / corrections[1])
    decay = settings.weight_decay if settings.optimizer == 'adamw' else 0.0

    def update(eps: float) -> np.ndarray:
        return -rates * first / (root + eps)

    if (factor := fit(theirs - mine, -rates * before * decays)) is not None:
        return f'a weight decay of the update {_more(factor[0])} by {abs(factor[0]):.3g}'
    moved = theirs - before + rates * decay * before * decays  # without the decay
    if (factor := fit(moved, update(settings.eps))) is not None:
        return f'a learning rate {factor[0]:.3g} times as large'
    uncorrected = -rates * m / (np.sqrt(v) + settings.eps)
    if (factor := fit(moved, uncorrected)) is not None and np.isclose(factor[0], 1, rtol=FITS):
        return 'moments that are not corrected for bias'
    usable = np.abs(moved) > 1e-3 * np.abs(moved).max(initial=0)
    fitted = np.abs(rates[usable] * first[usable] / moved[usable]) - root[usable]
    eps = float(np.median(fitted)) if fitted.size else 0.0
    if eps > 0 and (factor := fit(moved, update(eps))) is not None and np.isclose(factor[0], 1, rtol=FITS):
        return f'an epsilon of {eps:.3g} instead of {settings.eps:g}'
    return None


def _parameters(step: Step, names: set[str]) -> Optional[str]:
    """Equal slots, other parameters: the learning rate, or Nesterov's momentum."""
    weights = [name for name in names if name.startswith('model.') and 'running' not in name]
    if not weights or any(name.startswith('optimizer.') for name in names):
        return None
    before, mine, theirs = (step.vector(state, '', weights) for state in (step.before, step.mine, step.theirs))
    ratio = fit(theirs - before, mine - before)
    if ratio is None:
        return None
    settings, said = step.optimizer, f'a learning rate {ratio[0]:.3g} times as large'
    if settings.optimizer not in ('sgd', 'momentum'):
        return said
    momentum = ratio[0] * (1 + settings.momentum) - 1
    if settings.use_nesterov and 0 <= momentum < 1:
        return f'{said}, or a Nesterov momentum of {momentum:.3g}'
    turned = not settings.use_nesterov and np.isclose(ratio[0], 1 + settings.momentum, rtol=FITS)
    return f"{said}, or Nesterov's momentum" if turned else said


def _more(change: float) -> str:
    return 'larger' if change > 0 else 'smaller'


_RULES: Sequence[Callable[[Step, set[str]], Optional[str]]] = (_statistics, _kind, _slots, _adam_update, _parameters)
