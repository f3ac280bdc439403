"""The configuration: flat YAML outside, typed groups inside.

A recipe is one flat YAML file. Its keys are the MindSpore model zoo's where the zoo has one (``base_lr``, ``amp_level``,
...) and mmsegmentation's otherwise (``ratio_range``, ``cat_max_ratio``, ...). ``base:`` names a file, relative to this
one, or a recipe, whose keys are taken first. In code the keys live in typed groups: ``config.optimizer.base_lr``.
"""

import difflib
import re
from pathlib import Path
from typing import Annotated, Any, Iterable, Literal, Mapping, Optional, Union

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from twinseg.common.errors import UserError
from twinseg.common.presets import preset_arguments

RECIPES = Path(__file__).parent / 'configs'
IMAGENET_MEAN = [123.675, 116.28, 103.53]  # of RGB in 0..255, as torchvision and mmsegmentation use
IMAGENET_STD = [58.395, 57.12, 57.375]
MAX_BYTES = 1 << 20  # of a configuration file

Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
Size = Annotated[list[Positive], Field(min_length=2, max_length=2)]  # height, width
Colour = Annotated[list[Annotated[int, Field(ge=0, le=255)]], Field(min_length=3, max_length=3)]
Range = Annotated[list[float], Field(min_length=2, max_length=2)]  # lowest, highest
Channels = Annotated[list[float], Field(min_length=3, max_length=3)]


class Group(BaseModel):
    model_config = ConfigDict(extra='forbid', strict=True, frozen=True, protected_namespaces=())


class Model(Group):
    arch: str = Field('fast_scnn', description='network, a name of `twinseg list --models`')
    num_classes: Optional[Positive] = Field(None, description="classes; by default the data set's")
    backbone: Optional[str] = Field(None, description='of networks that take one: resnet18 to resnet152, vgg16_bn, ...')
    preset: Optional[str] = Field(
        None,
        description="a publisher's settings of the network: davidtvs, yassouali, smp, ...; they become model_args when the "
        'configuration is read, below those given',
    )
    model_args: dict[str, Any] = Field({}, description="further arguments of the network's builder")
    pretrained: Optional[str] = Field(None, description='weights to start from: ours or a published checkpoint')
    reset_classifier: bool = Field(False, description='with pretrained: classifiers for other classes are drawn anew')
    drop_path_rate: Fraction = Field(
        0.0,
        description='classifiers: share of the samples that skip the last block, from 0 in the first one (stochastic depth)',
    )
    drop_path_on: Literal['branch', 'shortcut'] = Field(
        'branch', description="what is dropped: a block's branch (timm) or its shortcut (the model zoo)"
    )

    @model_validator(mode='before')
    @classmethod
    def _expand_preset(cls, keys: Any) -> Any:
        """Arguments in place of the preset's name, so that what a checkpoint says of its network outlives the preset."""
        if not isinstance(keys, dict) or keys.get('preset') is None:
            return keys
        arch, preset, given = keys.get('arch', cls.model_fields['arch'].default), keys['preset'], keys.get('model_args', {})
        if not isinstance(arch, str) or not isinstance(preset, str) or not isinstance(given, dict):
            return keys  # the wrong type is reported by the field
        try:
            arguments = preset_arguments(preset, arch)
        except UserError as error:
            raise ValueError(f'preset: {error}') from None
        backbone = keys.get('backbone') or arguments.get('backbone')
        arguments.pop('backbone', None)
        others = {key: value for key, value in keys.items() if key not in ('preset', 'backbone')}
        return {**others, **({'backbone': backbone} if backbone else {}), 'model_args': {**arguments, **given}}

    def arguments(self) -> dict[str, Any]:
        """Of the network's builder, but for the number of classes."""
        given: dict[str, Any] = {'backbone': self.backbone} if self.backbone else {}
        if self.drop_path_rate:
            given |= {'drop_path_rate': self.drop_path_rate, 'drop_path_on': self.drop_path_on}
        return {**given, **self.model_args}


class Data(Group):
    set: Literal['toy_street', 'cityscapes', 'camvid', 'camvid32', 'voc', 'custom', 'imagenet', 'image_folder'] = Field(
        'toy_street',
        description='imagenet, image_folder: {split}/<class>/<image>, in folders or tars, for classifiers; '
        'the others are for segmentation',
    )
    data_url: Optional[str] = Field(None, description='folder of the data set; by default found below $TWINSEG_DATA')
    train_split: str = 'train'
    val_split: str = 'val'
    batch_size: Positive = Field(8, description='images per device and step')
    eval_batch_size: Positive = 1
    num_parallel_workers: Count = 2
    sampling: Literal['shuffle', 'class_balanced'] = Field(
        'shuffle',
        description='order of an epoch: every image once, or, '
        'class_balanced, every class equally often, by images that show it',
    )
    repeat: Positive = Field(1, description="times that an epoch shows every image (mmsegmentation's RepeatDataset)")
    on_error: Literal['raise', 'skip'] = Field('raise', description='what to do with a broken image or label')
    max_errors: Count = Field(10, description='broken samples after which on_error: skip stops all the same')
    train_samples: Positive = Field(64, description='toy_street: images drawn for training')
    val_samples: Positive = Field(16, description='toy_street: images drawn for validation')
    image_size: Size = Field(
        [256, 512],
        description='toy_street: size drawn; classifiers: size of the input, 224 by default; one number for both sides will do',
    )
    class_file: Optional[str] = Field(
        None,
        description='image folders: file that gives the classes their numbers, by default '
        'the order of their names: JSON {"name": number} or {"number": ["folder", "name"]}, or a '
        'line for each',
    )
    exif_rotate: bool = Field(False, description='image folders: turn images as their EXIF data says (timm does not)')
    image_dir: Optional[str] = Field(None, description='custom: folder of images below data_url; {split} is replaced')
    label_dir: Optional[str] = Field(None, description='custom: folder of label PNGs below data_url; {split} is replaced')
    image_suffix: str = '.jpg'
    label_suffix: str = '.png'
    classes: Optional[list[str]] = Field(None, description='custom: names in the order of the train ids')
    palette: Optional[list[Colour]] = Field(None, description='custom: RGB per class')
    label_map: Optional[dict[int, int]] = Field(None, description='custom: id in the file -> train id (255: ignored)')


class Augment(Group):
    base_size: Optional[Size] = Field(
        None,
        description='image size that ratio_range multiplies (mmsegmentation: scale, '
        'there width first); by default the size of the file',
    )
    ratio_range: Range = [0.5, 2.0]
    crop_size: Size = [512, 1024]
    cat_max_ratio: Fraction = Field(0.75, description='largest share of one class in a crop (10 tries), 1 to switch off')
    flip_prob: Fraction = 0.5
    rotate: NonNegative = Field(0.0, description='largest angle in degrees, to either side; corners are padded')
    cutout_prob: Fraction = Field(0.0, description='probability that a box is cut out of the image')
    cutout_ratio: Range = Field([0.1, 0.4], description="smallest and largest side of that box, as a share of the crop's")
    class_mix: Fraction = Field(
        0.0, description='probability that half of the classes of another sample are pasted over the image (ClassMix)'
    )
    eval_size: Optional[Size] = Field(
        None,
        description='evaluation: images are scaled to fit into it, proportions kept '
        '(mmsegmentation: Resize of the test pipeline, there width first); labels and scores '
        'keep the size of the file',
    )
    scale: Range = Field([0.08, 1.0], description="classifiers: share of the image's area that a random crop takes")
    ratio: Range = Field([3 / 4, 4 / 3], description='classifiers: width to height of a random crop')
    interpolation: Literal['nearest', 'bilinear', 'bicubic', 'lanczos', 'random'] = Field(
        'bicubic', description="classifiers: Pillow's antialiased resizing; random: bilinear or bicubic, bicubic in evaluation"
    )
    color_jitter: NonNegative = Field(
        0.4, description='classifiers: strength of brightness, contrast and saturation; auto_augment replaces it'
    )
    auto_augment: Optional[str] = Field(None, description='classifiers: RandAugment, such as rand-m9-mstd0.5-inc1')
    re_prob: Fraction = Field(0.0, description='classifiers: probability of random erasing')
    re_mode: Literal['const', 'rand', 'pixel'] = Field(
        'pixel', description='erased to the mean colour, to one random colour or to noise'
    )
    re_count: Positive = Field(1, description='largest number of erased boxes')
    mix_up: NonNegative = Field(0.0, description="classifiers: mixup's alpha")
    cutmix: NonNegative = Field(0.0, description="classifiers: cutmix's alpha")
    mixup_prob: Fraction = Field(1.0, description='probability that a batch (mixup_mode elem, pair: a sample) is mixed')
    switch_prob: Fraction = Field(0.5, description='probability of cutmix where both are on')
    mixup_mode: Literal['batch', 'pair', 'elem'] = 'batch'
    mixup_off_epoch: NonNegative = Field(0.0, description='epoch from which nothing is mixed; 0: never')
    crop_pct: Annotated[float, Field(gt=0, le=1)] = Field(
        0.875, description='classifiers: share of the resized image that evaluation looks at'
    )
    square_resize: bool = Field(
        False,
        description='classifiers: evaluation resizes to a square (the model zoo) instead of keeping the proportions (timm)',
    )
    photometric_distortion: bool = True
    brightness_delta: NonNegative = 32.0
    contrast_range: Range = [0.5, 1.5]
    saturation_range: Range = [0.5, 1.5]
    hue_delta: NonNegative = 18.0
    mean: Channels = IMAGENET_MEAN
    std: Channels = IMAGENET_STD


class Optimizer(Group):
    optimizer: Literal['sgd', 'momentum', 'adam', 'adamw', 'rmsprop', 'lamb'] = Field(
        'momentum', description='sgd is momentum; adam adds the weight decay to the gradient'
    )
    base_lr: Annotated[float, Field(gt=0)] = 0.01
    lr_batch_size: Count = Field(
        0,
        description='global batch that the learning rates are given for: they are scaled to the '
        'one in use; 0: taken as they are. Classifiers: 256 by default. `twinseg recipe` compares',
    )
    momentum: Fraction = 0.9
    use_nesterov: bool = False
    beta: Annotated[list[Fraction], Field(min_length=2, max_length=2)] = [0.9, 0.999]
    decay: Fraction = Field(0.9, description='rmsprop: of the mean square')
    eps: Annotated[float, Field(gt=0)] = 1e-8
    weight_decay: NonNegative = 0.0
    norm_bias_decay: bool = Field(
        True, description='decay the parameters of norms and all biases too; classifiers: false by default'
    )
    lr_mult: dict[str, NonNegative] = Field({}, description='start of parameter names -> factor of their learning rate')
    clip_global_norm: bool = False
    clip_global_norm_value: Annotated[float, Field(gt=0)] = 5.0
    accumulation_step: Positive = Field(1, description='batches whose gradients are averaged in one step')
    with_ema: bool = False
    ema_decay: Fraction = Field(0.9999, description='at the end; less in the first steps, (1 + step) / (10 + step)')


class Schedule(Group):
    lr_scheduler: Literal['poly_lr', 'cosine_lr', 'constant_lr', 'multistep_lr', 'exp_lr'] = 'poly_lr'
    epochs: Optional[Positive] = None
    max_iters: Optional[Positive] = Field(None, description='steps; give this or epochs')
    power: Annotated[float, Field(gt=0)] = 0.9
    min_lr: NonNegative = 0.0
    reach_min_lr: bool = Field(
        False, description='poly_lr, cosine_lr: the last step has min_lr (mmengine); false: the step after it would have it'
    )
    lr_adjust: Positive = Field(30, description='multistep_lr: epochs between the steps')
    lr_gamma: Annotated[float, Field(gt=0, le=1)] = Field(0.97, description='factor of multistep_lr a step, of exp_lr an epoch')
    warmup_length: NonNegative = Field(
        0.0, description='epochs of warm-up; base_lr is reached at the first step after it (the model zoo, timm)'
    )
    warmup_iters: Count = Field(
        0, description='steps of warm-up; base_lr is reached at the last of them (mmsegmentation); give this or warmup_length'
    )
    warmup_lr: NonNegative = Field(0.0, description='learning rate at the first step of the warm-up')
    warmup: Literal['linear', 'exponential'] = 'linear'
    start_epoch: Count = Field(0, description='epochs of the schedule to leave out at the start')

    @model_validator(mode='after')
    def _one_length(self):
        if self.epochs is not None and self.max_iters is not None:
            raise ValueError('give epochs or max_iters, not both')
        if self.warmup_length and self.warmup_iters:
            raise ValueError('give warmup_length (epochs) or warmup_iters (steps), not both')
        return self


class Loss(Group):
    loss: Literal['cross_entropy', 'sigmoid_cross_entropy', 'ohem', 'ohem_pixel_sampler', 'stdc_ohem'] = 'cross_entropy'
    class_weight: Union[None, Literal['median_frequency', 'enet'], list[NonNegative]] = Field(
        None,
        description="one weight per class; median_frequency, enet: counted on the training labels, as SegNet's or ENet's "
        'paper does',
    )
    label_smoothing: Fraction = 0.0
    avg_non_ignore: bool = Field(True, description='average over the pixels that are not ignored; mmsegmentation: false')
    ohem_thresh: Fraction = 0.7
    ohem_min_kept: Count = Field(100000, description='ohem, stdc_ohem: pixels per batch; ohem_pixel_sampler: per image')
    auxiliary_weights: dict[str, NonNegative] = Field({}, description='auxiliary output -> weight of its loss')
    detail_weights: Annotated[list[NonNegative], Field(min_length=2, max_length=2)] = Field(
        [1.0, 1.0], description='STDC detail loss: weights of binary cross-entropy and dice'
    )


class Precision(Group):
    amp_level: Literal['O0', 'O1', 'O2', 'O3'] = 'O0'
    dtype: Literal['float16', 'bfloat16'] = Field('float16', description='half precision of O1 to O3')
    keep_bn_fp32: bool = True
    loss_scale: Annotated[float, Field(gt=0)] = Field(1.0, description='static scale, or the first one of dynamic scaling')
    is_dynamic_loss_scale: bool = False
    scale_window: Positive = Field(1000, description='good steps after which a dynamic scale doubles')


class Runtime(Group):
    backend: Optional[Literal['pytorch', 'mindspore']] = None
    device_target: Optional[str] = Field(None, description='CPU, GPU or Ascend; by default the best present')
    recipe: Optional[str] = Field(None, description='recipe that the configuration comes from; filled in when it is read')
    seed: Count = 0
    work_dir: Optional[str] = None
    threads: Optional[Positive] = Field(None, description='CPU threads of the framework')
    log_interval: Positive = Field(10, description='steps between lines of metrics.jsonl')
    val_interval: Count = Field(0, description='steps between evaluations; 0: once an epoch')
    checkpoint_interval: Count = Field(0, description='steps between checkpoints; 0: every save_every epochs')
    save_every: Positive = Field(1, description='epochs between checkpoints')
    max_keep_ckpts: Positive = 3
    nan_policy: Literal['stop', 'rollback'] = Field(
        'stop',
        description='when loss or weights are no longer finite: end, or go '
        'back to the last checkpoint and on behind the batches since',
    )
    max_rollbacks: Count = Field(3, description='of nan_policy: rollback; then the run ends')
    collective_timeout: Optional[Positive] = Field(
        None,
        description="seconds that a process waits for the others; by default 1800 in PyTorch, the framework's own in MindSpore",
    )
    sync_bn: bool = Field(
        True,
        description='several processes: batch norm over all of them, or over each by itself; the '
        'running statistics are means over all',
    )
    launcher: Optional[Literal['dp']] = Field(
        None,
        description='dp: PyTorch, one process for all GPUs of a host '
        '(DataParallel; batch norm of each GPU by itself); otherwise torchrun or msrun '
        'start a process for each device',
    )
    graph_mode: Literal[0, 1] = Field(
        0,
        description='MindSpore: 0 compiles training steps, and evaluation for every size of '
        'image, 1 runs operator by operator: slower, for debugging and for images of many sizes',
    )
    torch_compile: bool = Field(
        False,
        description='PyTorch: compiles the network in training (torch.compile), which takes a '
        'minute or more and, on a CPU, a C++ compiler; evaluation runs as without',
    )


GROUPS: dict[str, type[Group]] = {
    'model': Model,
    'data': Data,
    'augment': Augment,
    'optimizer': Optimizer,
    'schedule': Schedule,
    'loss': Loss,
    'precision': Precision,
    'runtime': Runtime,
}
# What belongs to one task; under the other it must keep its default, for it would be read and ignored.
CLASSIFICATION = (
    'class_file',
    'exif_rotate',
    'scale',
    'ratio',
    'interpolation',
    'color_jitter',
    'auto_augment',
    're_prob',
    're_mode',
    're_count',
    'mix_up',
    'cutmix',
    'mixup_prob',
    'switch_prob',
    'mixup_mode',
    'mixup_off_epoch',
    'crop_pct',
    'square_resize',
    'drop_path_rate',
    'drop_path_on',
)
SEGMENTATION = (
    'base_size',
    'ratio_range',
    'crop_size',
    'cat_max_ratio',
    'rotate',
    'cutout_prob',
    'cutout_ratio',
    'class_mix',
    'eval_size',
    'sampling',
    'photometric_distortion',
    'brightness_delta',
    'contrast_range',
    'saturation_range',
    'hue_delta',
    'class_weight',
    'avg_non_ignore',
    'ohem_thresh',
    'ohem_min_kept',
    'auxiliary_weights',
    'detail_weights',
    'image_dir',
    'label_dir',
    'label_map',
    'palette',
)
CLASSIFICATION_DEFAULTS = {'image_size': [224, 224], 'lr_batch_size': 256, 'norm_bias_decay': False}

# The model zoo's spellings, and what its command line takes besides.
ZOO_SETS = {'ImageNet': 'imagenet'}
ZOO_ARCHS = {'DDRNet23': {'arch': 'ddrnet23', 'preset': 'zoo', 'drop_path_on': 'shortcut'}}
ZOO_KEYS = {'learning_rate': 'base_lr', 'keep_checkpoint_max': 'max_keep_ckpts', 'train_url': 'work_dir'}
ZOO_ONLY: dict[str, tuple[Any, str]] = {  # key -> the one value that it may have, and what to do instead of others
    'in_channel': (3, 'the networks take RGB images'),
    'run_modelarts': (False, 'copy the data to the machine and give its folder as data_url'),
    'device_id': (None, 'it is the first argument of scripts/run_*.sh, which show the process this device alone'),
    'device_num': (None, 'the number of devices comes from the launcher'),
    'ddr_config': (None, 'the configuration is the first argument of twinseg'),
    'file_format': (None, 'it is an option of export'),
}
EXCLUSIVE = (('epochs', 'max_iters'), ('warmup_length', 'warmup_iters'))
KEYS: dict[str, str] = {key: group for group, kind in GROUPS.items() for key in kind.model_fields}


class Config(BaseModel):
    """All settings of a run, in groups."""

    model_config = ConfigDict(extra='forbid', frozen=True, protected_namespaces=())

    model: Model = Model()
    data: Data = Data()
    augment: Augment = Augment()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    loss: Loss = Loss()
    precision: Precision = Precision()
    runtime: Runtime = Runtime()

    @property
    def classifies(self) -> bool:
        """Whether whole images are classified, not their pixels."""
        return self.data.set in ('imagenet', 'image_folder')

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the images that the network is evaluated on, or where these have their own, trained on."""
        height, width = self.data.image_size if self.classifies else self.augment.eval_size or self.augment.crop_size
        return height, width

    @model_validator(mode='after')
    def _one_task(self):
        for key in SEGMENTATION if self.classifies else CLASSIFICATION:
            group = getattr(self, KEYS[key])
            if getattr(group, key) != type(group).model_fields[key].default:
                raise ValueError(
                    f'{key}: {getattr(group, key)!r} has no effect with set: {self.data.set}, which is for '
                    f'{"image classification" if self.classifies else "segmentation"}; leave it out'
                )
        if self.classifies and self.loss.loss != 'cross_entropy':
            raise ValueError(f'loss: {self.loss.loss} is for segmentation; image classification has cross_entropy')
        return self

    def flat(self) -> dict[str, Any]:
        """The keys that were set, as one flat mapping: what ``from_flat`` takes."""
        return {key: value for group in GROUPS for key, value in getattr(self, group).model_dump(exclude_unset=True).items()}

    def replace(self, **keys: Any) -> 'Config':
        """A copy with some flat keys changed."""
        return from_flat(_overlay(self.flat(), keys))


class _Loader(yaml.SafeLoader):
    """YAML with 1e-4 as a number (YAML 1.1 takes it for a string), without aliases and without repeated keys."""

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.YAMLError(f'line {mark.line + 1}: aliases are not allowed')
        return super().compose_node(parent, index)

    def construct_mapping(self, node, deep=False):
        keys = [child.value for child, _ in node.value]
        for child, _ in node.value:
            if keys.count(child.value) > 1:
                raise yaml.YAMLError(f'line {child.start_mark.line + 1}: the key {child.value} stands twice')
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes the strings that _Loader would take for numbers."""


for _side in (_Loader, _Dumper):
    _side.add_implicit_resolver(
        'tag:yaml.org,2002:float', re.compile(r'^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$'), list('-+0123456789')
    )


def load(name: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Reads a recipe.

    ``name`` is a path, or a recipe below ``common/configs`` with or without its folder and suffix.
    ``overrides`` are ``key=value`` strings, value in YAML; ``group.key=value`` is taken too.
    Raises UserError for an unknown key (naming the nearest one) or a wrong type.
    """
    path = find(name)
    keys = _overlay(_read(path, ()), dict(map(parse_override, overrides)))
    if path.resolve().is_relative_to(RECIPES.resolve()):
        keys = {'recipe': str(path.resolve().relative_to(RECIPES.resolve()).with_suffix('')), **keys}
    return from_flat(keys, str(path))


def override(config: Config, overrides: Iterable[str]) -> Config:
    """A configuration with ``key=value`` strings applied, as ``load`` takes them."""
    return config.replace(**dict(map(parse_override, overrides)))


def find(name: str | Path) -> Path:
    """The file of a recipe."""
    path = Path(name).expanduser()
    if path.is_file():
        return path
    recipe = _recipe(str(name))
    if recipe is not None:
        return recipe
    near = nearest(Path(str(name).removesuffix('.yaml')).name, [p.stem for p in recipes()])
    raise UserError(
        f'no configuration {str(name)!r}: neither a file nor a recipe'
        + (f'; did you mean {near!r}?' if near else '; `twinseg list --configs` names them')
    )


def _recipe(name: str) -> Optional[Path]:
    """The recipe of a name, with or without its folder and suffix; None where there is none, or more than one."""
    name = name.removesuffix('.yaml')
    matching = [path for path in recipes() if name in (path.stem, str(path.relative_to(RECIPES).with_suffix('')))]
    return matching[0] if len(matching) == 1 else None


def recipes() -> list[Path]:
    """All recipes of the suite."""
    return sorted(RECIPES.glob('*/*.yaml'))


def parse_override(text: str) -> tuple[str, Any]:
    """``group.key=value`` or ``key=value`` -> the flat key and the value, read as YAML."""
    key, sign, value = text.partition('=')
    if not sign or not key.strip():
        raise UserError(f'--set {text!r}: expected key=value')
    key = key.strip()
    group, dot, rest = key.partition('.')
    if dot and group in GROUPS:
        if KEYS.get(rest) != group:
            raise UserError(f'--set {key}: ' + _unknown(rest, GROUPS[group].model_fields))
        key = rest
    try:
        return key, yaml.load(value, _Loader)
    except yaml.YAMLError as error:
        raise UserError(f'--set {key}: not YAML: {_one_line(error)}') from None


def from_flat(keys: Mapping[str, Any], where: str = 'configuration') -> Config:
    """Typed groups from flat keys; raises UserError naming the key and what is wrong with it.

    Takes the model zoo's spellings, too. With the data set of a classifier some defaults are others.
    """
    keys = _from_zoo(keys, where)
    if keys.get('arch') in ZOO_ARCHS:  # not before, so that another arch laid over it leaves nothing of it
        keys = {**ZOO_ARCHS[keys.pop('arch')], **keys}
    if keys.get('set') in ('imagenet', 'image_folder'):
        keys = {**CLASSIFICATION_DEFAULTS, **keys}
    groups: dict[str, dict[str, Any]] = {group: {} for group in GROUPS}
    for key, value in keys.items():
        if key not in KEYS:
            raise UserError(f'{where}: ' + _unknown(key, KEYS))
        groups[KEYS[key]][key] = value
    try:
        return Config(**{group: kind(**groups[group]) for group, kind in GROUPS.items()})
    except ValidationError as error:
        first = error.errors()[0]
        place = '.'.join(str(part) for part in first['loc'])
        found = f' (found {first["input"]!r})' if place and not isinstance(first['input'], dict) else ''
        message = first['msg'].removeprefix('Value error, ')
        raise UserError(f'{where}: {place + ": " if place else ""}{message}{found}') from None


def _from_zoo(keys: Mapping[str, Any], where: str = 'configuration') -> dict[str, Any]:
    """Flat keys of the model zoo in the suite's spelling; UserError for what it takes and the suite does elsewhere."""
    found: dict[str, Any] = {}
    for key, value in keys.items():
        if key in ZOO_ONLY:
            expected, advice = ZOO_ONLY[key]
            if value != expected:
                raise UserError(f'{where}: {key}: {value!r}: not a setting here: {advice}')
            continue
        if key in ZOO_KEYS and ZOO_KEYS[key] in keys:
            raise UserError(f'{where}: {key} and {ZOO_KEYS[key]} mean the same; give one of them')
        found[ZOO_KEYS.get(key, key)] = value
    if isinstance(found.get('image_size'), int):
        found['image_size'] = [found['image_size']] * 2
    if found.get('set') in ZOO_SETS:
        found['set'] = ZOO_SETS[found['set']]
    if 'lr_scheduler' in found and found['lr_scheduler'] is None:
        found['lr_scheduler'] = 'constant_lr'
    return found


def dump(config: Config) -> str:
    """The configuration as flat YAML, grouped by comments; ``load`` reads it back to an equal one."""
    lines = []
    for group in GROUPS:
        keys = getattr(config, group).model_dump()
        lines += [f'# {group}', *(f'{key}: {_inline(value)}' for key, value in keys.items()), '']
    return '\n'.join(lines)


def _inline(value: Any) -> str:
    """A value as YAML on one line."""
    return yaml.dump([value], Dumper=_Dumper, sort_keys=False, default_flow_style=True, width=1 << 20).strip()[1:-1]


def _read(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    path = path.resolve()
    if path in seen:
        raise UserError(f'{path}: base: leads back to the file itself')
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f'{path}: larger than {MAX_BYTES} bytes, not a configuration')
        keys = yaml.load(path.read_text(encoding='utf-8'), _Loader) or {}
    except (OSError, UnicodeDecodeError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f'{path}: not readable as YAML: {_one_line(error)}') from None
    if not isinstance(keys, dict) or not all(isinstance(key, str) for key in keys):
        raise UserError(f'{path}: expected flat "key: value" lines')
    base = keys.pop('base', None)
    if base is None:
        return keys
    beside = path.parent / str(base)
    below = beside if beside.is_file() else _recipe(str(base))
    if below is None:
        raise UserError(f'{path}: base: {base!r} is no file beside it and no recipe')
    return _overlay(_read(below, (*seen, path)), keys)


def _overlay(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of ``above`` win; one of a pair that excludes each other replaces the other."""
    below, above = _from_zoo(below), _from_zoo(above)
    replaced = {other for pair in EXCLUSIVE for key, other in (pair, pair[::-1]) if above.get(key) is not None}
    return {**{key: value for key, value in below.items() if key not in replaced}, **above}


def _unknown(key: str, known: Iterable[str]) -> str:
    near = nearest(key, known)
    return f'unknown key {key!r}' + (f'; did you mean {near!r}?' if near else '; `twinseg list --keys` names all keys')


def nearest(word: str, words: Iterable[str]) -> Optional[str]:
    """The most similar of some words, if one is similar at all."""
    found = difflib.get_close_matches(word, list(words), n=1, cutoff=0.5)
    return found[0] if found else None


def _one_line(error: Exception) -> str:
    return ' '.join(str(error).split())
