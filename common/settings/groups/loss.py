"""Keys of the loss."""

import math
from typing import Annotated, Any, Literal, Union, get_args

from pydantic import BeforeValidator, Field, ValidationInfo, WrapValidator, field_validator

from twinseg.common.errors import did_you_mean, similar
from twinseg.common.plugins import PLUGINS
from twinseg.common.settings.kinds import Count, Fraction, Group, NonNegative, is_trusted, or_of_a_plugin
from twinseg.common.settings.messages import Said, refuse, shown

DETAIL_KERNEL = (0.6, 0.3, 0.1)  # weights of boundaries at strides 1, 2 and 4 in STDC's detail target (loss/detail_loss.py)


SuiteLoss = Literal[
    'cross_entropy', 'sigmoid_cross_entropy', 'ohem', 'ohem_pixel_sampler', 'stdc_ohem', 'focal', 'dice', 'lovasz'
]
LossName = Annotated[SuiteLoss, WrapValidator(or_of_a_plugin)]


def _losses(value: Any) -> Any:
    """Refuses what is neither a loss nor a table of losses and weights above 0."""
    names = (*get_args(SuiteLoss), *PLUGINS.losses)
    table = value if isinstance(value, dict) else {value: 1.0} if isinstance(value, str) else {}
    for name in table:
        if name not in names:
            near = did_you_mean(similar(str(name), names), f'there are {", ".join(names)}')
            refuse(f'there is no loss {shown(name)}{near}')
    if not table or not all(type(weight) in (int, float) and 0 < weight < math.inf for weight in table.values()):
        refuse(f'expected a loss, or weights above 0, such as {{cross_entropy: 1.0, dice: 3.0}}, found {shown(value)}')
    return value


Losses = Annotated[Union[LossName, dict[LossName, float]], BeforeValidator(_losses), Said('a loss, or weights of several')]


class Loss(Group):
    loss: Losses = Field(
        'cross_entropy',
        description='loss of each output, or the weights of several that are added: {cross_entropy: 1.0, dice: 3.0}. '
        'sigmoid_cross_entropy: use_sigmoid; online hard example mining: ohem is '
        "mmsegmentation's OhemCrossEntropy, ohem_pixel_sampler its OHEMPixelSampler, stdc_ohem STDC-Seg's; focal: "
        'cross-entropy times (1 - probability of the right class) ** focal_gamma; dice: DiceLoss of a softmax, by image; '
        'lovasz: Lovasz-softmax of the whole batch, the mean over the classes in it; classifiers have cross_entropy',
    )
    losses: dict[str, Losses] = Field(
        {}, description='name of an output, logits or an auxiliary one -> its loss, where that is another: {aux: cross_entropy}'
    )
    class_weight: Annotated[
        Union[None, Literal['median_frequency', 'enet'], list[NonNegative]],
        Said('median_frequency, enet, or a list of one number above 0 for each class'),
    ] = Field(
        None,
        description='one weight per class, or how to count them on the training labels: median_frequency as in the paper of'
        ' SegNet, enet as in that of ENet',
    )
    class_weight_of: Literal['labelled', 'all'] = Field(
        'labelled',
        description='pixels that the shares of the classes are taken of where class_weight counts them: the labelled ones, or '
        'all, ignored ones included',
    )
    label_smoothing: Fraction = Field(0.0, description='share of the target that is spread evenly over all classes')
    avg_non_ignore: bool = Field(
        True,
        description="whether ignored pixels are left out of the average's divisor, too (avg_non_ignore, which is false by "
        'default in mmsegmentation); in dice: whether what is predicted there is left out, instead of being wrong',
    )
    focal_gamma: NonNegative = Field(2.0, description='focal: power of (1 - probability of the right class); 0: cross-entropy')
    ohem_thresh: Fraction = Field(
        0.7, description="ohem losses: probability of the true class below which a pixel is hard and counts (OHEM's thresh)"
    )
    ohem_min_kept: Count = Field(
        100000,
        description='smallest number of pixels that count (min_kept): per batch in ohem and stdc_ohem, per image in '
        'ohem_pixel_sampler',
    )
    logits_weight: Annotated[float, Field(gt=0)] = Field(1.0, description='weight of the loss of the main output, the logits')
    auxiliary_weights: dict[str, NonNegative] = Field(
        {}, description="name of an auxiliary output -> weight of its loss (an auxiliary head's loss_weight)"
    )
    detail_weights: Annotated[list[NonNegative], Field(min_length=2, max_length=2)] = Field(
        [1.0, 1.0], description="STDC's detail loss: weights of binary cross-entropy and dice"
    )
    detail_target: Literal['constant', 'decaying'] = Field(
        'constant',
        description="STDC's detail loss: weights of the boundaries at strides 1, 2 and 4. constant: those of the start, as in "
        "mmsegmentation; decaying: weight decay shrinks them from step to step, as in STDC-Seg's SGD, until stride 1 alone "
        'counts',
    )

    @field_validator('class_weight')
    @classmethod
    def _none_is_zero(cls, weights: Any, info: ValidationInfo) -> Any:
        if isinstance(weights, list) and not is_trusted(info) and not (weights and all(weights)):
            refuse(
                f'expected weights above 0, found 0 for class {weights.index(0)}, which would never be learnt; '
                'label_map leaves pixels out (255: ignored)'
                if weights
                else 'expected one weight above 0 for each class, found []'
            )
        return weights

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each output that has a loss."""
        return {'logits': self.logits_weight, **self.auxiliary_weights}

    @property
    def by_output(self) -> dict[str, dict[LossName, float]]:
        """The losses of each of these and their weights, but for STDC's detail, which has one of its own."""
        given = {name: self.losses.get(name, self.loss) for name in self.weights if name != 'detail'}
        return {name: loss if isinstance(loss, dict) else {loss: 1.0} for name, loss in given.items()}
