"""Keys of the optimizer and of its learning rate."""

from typing import Annotated, Literal, Optional

from pydantic import Field, model_validator

from twinseg.common.settings.kinds import Count, Fraction, Group, NonNegative, Positive, Steps
from twinseg.common.settings.messages import refuse


class Optimizer(Group):
    optimizer: Literal['sgd', 'momentum', 'adam', 'adamw', 'rmsprop', 'lamb'] = Field(
        'momentum',
        description='optimization algorithm. sgd and momentum are the same, SGD with momentum; adam adds the weight decay '
        'to the gradient, adamw and lamb to the update',
    )
    base_lr: Annotated[float, Field(gt=0)] = Field(0.01, description='learning rate at the end of the warm-up (lr)')
    lr_batch_size: Count = Field(
        0,
        description='global batch size that base_lr, min_lr and warmup_lr are given for: they are multiplied by the actual '
        'one divided by it; 0: they are taken as they are; classifiers: 256 by default',
    )
    momentum: Fraction = Field(0.9, description='momentum of sgd, momentum and rmsprop')
    use_nesterov: bool = Field(False, description='sgd, momentum: whether the momentum is that of Nesterov')
    beta: Annotated[list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=2, max_length=2)] = Field(
        [0.9, 0.999], description='adam, adamw, lamb: decay of the running means of the gradient and of its square (betas)'
    )
    decay: Fraction = Field(0.9, description='rmsprop: decay of the running mean of the squared gradient (alpha)')
    eps: Annotated[float, Field(gt=0)] = Field(
        1e-8, description='adam, adamw, rmsprop, lamb: number added to the denominator, which keeps it from being 0'
    )
    weight_decay: NonNegative = Field(0.0, description='factor of the weight decay (L2 penalty)')
    norm_bias_decay: bool = Field(
        True, description='whether the parameters of norms and all biases decay, too; classifiers: false by default'
    )
    lr_mult: dict[str, NonNegative] = Field(
        {},
        description='beginning of parameter names, or with * for any text a pattern of whole names, such as backbone.*.bn.* -> '
        'factor of their learning rate (paramwise_cfg), 0: they keep their values; the longest one that fits wins',
    )
    freeze: list[str] = Field(
        [],
        description='beginnings of parameter names, or patterns as in lr_mult, such as [backbone.]: these parameters and the '
        'running statistics of their batch norms, which normalise by them, keep their values (frozen_stages, norm_eval)',
    )
    clip_global_norm: bool = Field(
        False, description='whether gradients are scaled down to the L2 norm clip_global_norm_value, taken over all parameters'
    )
    clip_global_norm_value: Annotated[float, Field(gt=0)] = Field(
        5.0, description='with clip_global_norm: largest L2 norm of all gradients together (clip_grad: max_norm)'
    )
    accumulation_step: Positive = Field(
        1, description='batches whose gradients are averaged for one optimizer step (accumulative_counts)'
    )
    with_ema: bool = Field(
        False,
        description='whether an exponential moving average of the weights is made, which evaluation scores',
    )
    ema_decay: Fraction = Field(
        0.9999,
        description='with_ema: decay of the average per step; (1 + step) / (10 + step) in the first steps, where that is less',
    )


class Schedule(Group):
    lr_scheduler: Literal['poly_lr', 'cosine_lr', 'constant_lr', 'multistep_lr', 'exp_lr'] = Field(
        'poly_lr', description='curve of the learning rate after the warm-up'
    )
    epochs: Optional[Steps] = Field(None, description='length of the training in epochs; give this or max_iters')
    max_iters: Optional[Steps] = Field(None, description='length of the training in optimizer steps; give this or epochs')
    power: Annotated[float, Field(gt=0)] = Field(0.9, description='poly_lr: exponent of the share of the training that is left')
    min_lr: NonNegative = Field(
        0.0, description='learning rate at the end of poly_lr and cosine_lr (eta_min); multistep_lr and exp_lr stay above it'
    )
    reach_min_lr: bool = Field(
        False,
        description='poly_lr, cosine_lr: the last step of the training has min_lr (mmengine); false: the step after it would',
    )
    lr_adjust: Positive = Field(30, description='multistep_lr: epochs between two falls of the learning rate')
    lr_gamma: Annotated[float, Field(gt=0, le=1)] = Field(
        0.97, description='factor of the learning rate: in multistep_lr at every fall, in exp_lr for every epoch'
    )
    warmup_length: NonNegative = Field(
        0.0, description='epochs of warm-up; base_lr is reached at the first step after it (the model zoo, timm)'
    )
    warmup_iters: Count = Field(
        0, description='steps of warm-up; base_lr is reached at the last of them (LinearLR); give this or warmup_length'
    )
    warmup_lr: NonNegative = Field(0.0, description='learning rate at the first step of the warm-up')
    warmup: Literal['linear', 'exponential'] = Field(
        'linear', description='curve of the warm-up; exponential (STDC-Seg) needs a warmup_lr above 0'
    )
    start_epoch: Count = Field(0, description='epochs of the schedule that are skipped at the start')

    @model_validator(mode='after')
    def _one_length(self):
        if self.epochs is not None and self.max_iters is not None:
            refuse('give epochs or max_iters, not both', 'epochs')
        if self.warmup_length and self.warmup_iters:
            refuse('give warmup_length (epochs) or warmup_iters (steps), not both', 'warmup_length')
        return self
