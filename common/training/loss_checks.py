"""Checks of the loss settings, the same for both backends."""

from typing import Iterable, Optional

from twinseg.common.config import Loss
from twinseg.common.errors import UserError

BY_COUNT = {'cross_entropy', 'sigmoid_cross_entropy', 'focal'}  # losses whose divisor is known before the logits are
BY_IMAGE = {'dice'}  # means over images; all others, also those of plugins, may compare all pixels of a step


def _names(loss: Loss) -> set[str]:
    return {name for terms in loss.by_output.values() for name in terms}


def divides_by_count(loss: Loss) -> bool:
    """Whether a loss divides by the number or weights of the pixels that are not ignored."""
    return loss.avg_non_ignore and bool(BY_COUNT & _names(loss))


def needs_whole_batch(loss: Loss) -> bool:
    """Whether the loss of a batch is another than the mean of those of its parts, whatever they are divided by."""
    return bool(_names(loss) - BY_COUNT - BY_IMAGE)


def check(loss: Loss, outputs: Iterable[str], num_classes: Optional[int] = None) -> None:
    """UserError when a loss does not fit a network with these outputs and, where it is given, that many classes."""
    outputs = list(outputs)
    unknown = sorted(set(loss.auxiliary_weights) - (set(outputs) - {'logits'}))
    if unknown:
        known = ', '.join(name for name in outputs if name != 'logits') or 'none'
        raise UserError(f'auxiliary_weights: the network has no auxiliary output {unknown[0]!r}; it has: {known}')
    idle = [name for name in loss.losses if name not in loss.by_output]
    if idle:
        detail = 'its loss is always binary cross-entropy and dice'
        reason = detail if idle[0] == 'detail' else f'outputs with a loss are {", ".join(loss.by_output)}'
        raise UserError(f'losses: {loss.losses[idle[0]]} has no effect on {idle[0]!r}: {reason}')
    if loss.detail_target != 'constant' and 'detail' not in loss.auxiliary_weights:
        raise UserError(f'detail_target: {loss.detail_target} needs the output detail of STDC among auxiliary_weights')
    if isinstance(loss.class_weight, str):
        raise UserError(
            f'class_weight: {loss.class_weight} is counted on the training labels, by `twinseg train`; elsewhere '
            'give numbers, or class_weight=null'
        )
    if loss.class_weight and num_classes and len(loss.class_weight) != num_classes:
        raise UserError(f'class_weight: {len(loss.class_weight)} weights for {num_classes} classes')
    if loss.class_weight and _names(loss) == {'dice'}:
        raise UserError('class_weight has no effect on dice: leave it out, or add another loss')
    others = sorted(_names(loss) - {'cross_entropy'})
    if loss.label_smoothing and others:
        raise UserError(f'label_smoothing works with loss: cross_entropy, not with {others[0]}')
