"""The configuration: flat YAML outside, typed groups inside.

A recipe is one flat YAML file. Its keys are the MindSpore model zoo's where the zoo has one (``base_lr``, ``amp_level``,
...) and mmsegmentation's otherwise (``ratio_range``, ``cat_max_ratio``, ...). ``base:`` names one or several files or
recipes, whose keys are taken first. ``published:`` says what others scored with the file's settings, and is no setting
(``settings/published_scores.py``). In code the keys live in typed groups: ``config.optimizer.base_lr``.
"""

import math
import re
from pathlib import Path
from typing import Annotated, Any, Iterable, Literal, Mapping, NamedTuple, Optional, Union, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)

from twinseg.common.errors import UserError, did_you_mean, reason_of, similar
from twinseg.common.files import home_expanded, read_bounded
from twinseg.common.plugins import PLUGINS
from twinseg.common.settings import foreign_keys, published_scores, yaml_text, zoo_keys
from twinseg.common.settings.limits import MAX_CLASS_IDS, MAX_CLASSES, MAX_PIXELS, MAX_SIDE
from twinseg.common.settings.messages import MAX_NUMBER, Said, first_problem, refuse, shown
from twinseg.common.settings.presets import preset_arguments, without_heads
from twinseg.common.settings.recipes import RECIPES, find, find_base

IMAGENET_MEAN = [123.675, 116.28, 103.53]  # mean of RGB in 0..255, as torchvision and mmsegmentation use
IMAGENET_STD = [58.395, 57.12, 57.375]
DETAIL_KERNEL = (0.6, 0.3, 0.1)  # weights of boundaries at strides 1, 2 and 4 in STDC's detail target (loss/detail_loss.py)
MAX_BYTES = 1 << 20  # largest configuration file
MAX_FILES = 100  # files that a configuration may be composed of
MAX_BATCH = 1 << 16  # images: an ImageNet batch of published records has 32,768
MAX_WORKERS = 1024  # processes and threads: more than a host has cores
MAX_STEPS = 100_000_000  # steps, whose learning rates are computed at once; epochs and samples of toy_street, too
MAX_SEED = (1 << 32) - 1  # numpy's and MindSpore's largest
MAX_SECONDS = 10_000_000  # four months
MAX_FACTOR = 100.0  # largest factor of a resize or a colour: beyond it nothing of the image is left
MAX_SCALE = 8.0  # largest scale of an image in evaluation: publishers use up to 2.25
MAX_SCALES = 100  # factors of a random resize: HRNet draws among 17
MAX_ARGUMENT = 1 << 16  # whole numbers in model_args: channels, rates, bins

IMAGE_FOLDERS = ('imagenet', 'image_folder')  # data sets of whole images, for classifiers; the others are for segmentation
DEVICES = {'cpu': 'CPU', 'gpu': 'GPU', 'ascend': 'Ascend'}  # names on the command line -> in the model zoo's files
TaskName = Literal['segmentation', 'classification']
WHOLE = re.compile(r'-?[0-9]{1,10}')
TRANSPARENT = 'transparent'  # in a label_map: pixels of no opacity
LABEL_COLOUR = re.compile('(25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])(,(25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])){2}')  # key of a label_map


def _is_trusted(info: ValidationInfo) -> bool:
    """Whether a run was trained with the value, so that what is only unreasonable about it is a fact."""
    return info.field_name in ((info.context or {}).get('trusted') or ())


def _ordered(value: list[float], info: ValidationInfo) -> list[float]:
    if value[0] > value[1] and not _is_trusted(info):
        refuse(f'expected the lowest value first, such as {value[::-1]}, found {value}')
    return value


def _not_too_large(sides: list[int]) -> list[int]:
    if sides[0] * sides[1] > MAX_PIXELS:
        refuse(f'expected at most {MAX_PIXELS} pixels, such as [8192, 8192], found {sides}')
    return sides


def _plain_keys(table: Any) -> Any:
    """Ids as numbers: JSON, in which checkpoints and reports keep a configuration, makes strings of keys. Colours without
    blanks."""
    return {_label_key(key): value for key, value in table.items()} if isinstance(table, dict) else table


def _label_key(key: Any) -> int | str:
    """A key of a label_map: an id, a colour or the word for transparent pixels."""
    text = str(key).replace(' ', '') if isinstance(key, str) else ''
    if type(key) is int:
        return key
    if WHOLE.fullmatch(text):
        return int(text)
    if text != TRANSPARENT and not LABEL_COLOUR.fullmatch(text):
        refuse(f"expected ids, colours such as '0,0,0' or the word {TRANSPARENT}, found {shown(key)} as a key")
    return text


def _arguments(value: Any) -> Any:
    """Refuses what neither JSON nor YAML brings back, and numbers that no network has."""
    if isinstance(value, dict):
        for key, part in value.items():
            if not isinstance(key, str):
                refuse(f'expected names as keys, found {shown(key)}')
            _arguments(part)
    elif isinstance(value, list):
        for part in value:
            _arguments(part)
    elif isinstance(value, int) and abs(value) > MAX_ARGUMENT or isinstance(value, float) and not abs(value) < float('inf'):
        refuse(f'expected numbers of at most {MAX_ARGUMENT}, found {shown(value)}')
    elif not isinstance(value, (str, int, float, type(None))):
        refuse(f'expected text, numbers, lists and tables, found {shown(value)}')
    return value


def _device(name: str) -> str:
    if name.lower() not in DEVICES:
        refuse(f'expected one of {", ".join(DEVICES.values())}, found {shown(name)}')
    return name


def _at_home(path: str, info: ValidationInfo) -> str:
    if not _is_trusted(info):
        try:
            home_expanded(path)
        except UserError as error:
            refuse(str(error))
    return path


def _distinct(names: str | list[str]) -> str | list[str]:
    """One name without a list around it."""
    if isinstance(names, str):
        return names
    if not names or not all(names):
        refuse(f'expected the name of a split, or a list such as [train, val], found {shown(names)}')
    if len(set(names)) < len(names):
        refuse(f'expected each split once, found {shown(next(name for name in names if names.count(name) > 1))} twice')
    return names if len(names) > 1 else names[0]


def _or_of_a_plugin(value: Any, check: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
    """A name that a plugin has registered is as good as one of the suite's."""
    registered = PLUGINS.datasets if info.field_name == 'set' else PLUGINS.losses
    return value if isinstance(value, str) and value in registered else check(value)


Positive = Annotated[int, Field(gt=0, le=MAX_NUMBER)]
Batch = Annotated[int, Field(gt=0, le=MAX_BATCH)]
Steps = Annotated[int, Field(gt=0, le=MAX_STEPS)]
Classes = Annotated[int, Field(gt=0, le=MAX_CLASSES)]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
Workers = Annotated[int, Field(ge=0, le=MAX_WORKERS)]
Threads = Annotated[int, Field(gt=0, le=MAX_WORKERS)]
Seconds = Annotated[int, Field(gt=0, le=MAX_SECONDS)]
Count = Annotated[int, Field(ge=0, le=MAX_NUMBER)]
Fraction = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
Sides = Annotated[
    list[Annotated[int, Field(gt=0, le=MAX_SIDE)]],
    Field(min_length=2, max_length=2),
    AfterValidator(_not_too_large),
    Said(f'[height, width] in pixels, such as [512, 1024], each from 1 to {MAX_SIDE}'),
]
Colour = Annotated[
    list[Annotated[int, Field(ge=0, le=255)]],
    Field(min_length=3, max_length=3),
    Said('[red, green, blue], each from 0 to 255'),
]
Range = Annotated[  # lowest, highest
    list[Annotated[float, Field(ge=0, le=MAX_FACTOR)]],
    Field(min_length=2, max_length=2),
    AfterValidator(_ordered),
    Said(f'[lowest, highest], each from 0 to {MAX_FACTOR:g}'),
]
PositiveRange = Annotated[
    list[Annotated[float, Field(gt=0, le=MAX_FACTOR)]],
    Field(min_length=2, max_length=2),
    AfterValidator(_ordered),
    Said(f'[lowest, highest], each above 0 and at most {MAX_FACTOR:g}'),
]
ShareRange = Annotated[
    list[Annotated[float, Field(gt=0, le=1)]],
    Field(min_length=2, max_length=2),
    AfterValidator(_ordered),
    Said('[lowest, highest], each above 0 and at most 1'),
]
Average = Literal['probabilities', 'logits', 'exponentials']
EvaluationScales = Annotated[
    list[Annotated[float, Field(gt=0, le=MAX_SCALE)]],
    Field(min_length=1, max_length=MAX_SCALES),
    Said(f'a list of one to {MAX_SCALES} numbers above 0 and at most {MAX_SCALE:g}, such as [0.75, 1.0, 1.25]'),
]
Scales = Annotated[
    list[Annotated[float, Field(gt=0, le=MAX_FACTOR)]],
    Field(min_length=1, max_length=MAX_SCALES),
    Said(f'a list of one to {MAX_SCALES} factors, each above 0 and at most {MAX_FACTOR:g}, such as [0.5, 0.75, 1.0]'),
]
Means = Annotated[
    list[Annotated[float, Field(ge=0, le=255)]],
    Field(min_length=3, max_length=3),
    Said('[red, green, blue], each from 0 to 255'),
]
Deviations = Annotated[
    list[Annotated[float, Field(gt=0)]], Field(min_length=3, max_length=3), Said('[red, green, blue], each above 0')
]
Arguments = Annotated[dict[str, Any], AfterValidator(_arguments), Said('a table of names and values, such as {dropout: 0.5}')]
PathText = Annotated[str, AfterValidator(_at_home)]
Device = Annotated[str, AfterValidator(_device)]
SplitNames = Annotated[
    Union[str, list[str]], AfterValidator(_distinct), Said('the name of a split, or a list such as [train, val]')
]
LabelMap = Annotated[
    dict[Union[int, str], int],
    BeforeValidator(_plain_keys),
    Said("a table of ids, such as {0: 255, 1: 0, 2: 1}, or of colours, such as {'0,0,0': 255}"),
]


class Group(BaseModel):
    model_config = ConfigDict(extra='forbid', strict=True, frozen=True, allow_inf_nan=False, protected_namespaces=())


class Model(Group):
    arch: str = Field('fast_scnn', description='name of the network, one of `twinseg list --models`')
    num_classes: Optional[Classes] = Field(None, description="number of classes; by default the data set's")
    backbone: Optional[str] = Field(
        None, description='feature extractor of the networks that can have several: resnet18 to resnet152, vgg16_bn, ...'
    )
    preset: Optional[str] = Field(
        None,
        description="a publisher's settings of the network: davidtvs, yassouali, smp, ...; they become model_args when the "
        'configuration is read, below those given',
    )
    model_args: Arguments = Field({}, description="further arguments of the network's builder, by name")
    pretrained: Optional[PathText] = Field(
        None,
        description='weights to start from (load_from, init_cfg): a name of `twinseg list --weights`, fetched where missing, '
        'or a file, a checkpoint of TwinSeg or a published one',
    )
    reset_classifier: bool = Field(
        False, description='with pretrained: a classification layer made for other classes keeps its random initial weights'
    )
    weights_of: Optional[str] = Field(
        None,
        description='with pretrained: which weights, where the file has several: ema, last, or the name of the dict or module; '
        'by default the averaged ones, where there are these and the last',
    )
    drop_path_rate: Fraction = Field(
        0.0,
        description='classifiers: probability that a sample skips the last block (stochastic depth); it rises linearly from'
        ' 0 at the first block',
    )
    drop_path_on: Literal['branch', 'shortcut'] = Field(
        'branch',
        description='which path of a residual block drop_path_rate drops: the branch with the convolutions (timm) or the '
        'shortcut (the model zoo)',
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
            refuse(str(error), 'preset')
        if given.get('auxiliary') is False:
            arguments = without_heads(arguments)
        backbone = keys.get('backbone') or arguments.get('backbone')
        arguments.pop('backbone', None)
        others = {key: value for key, value in keys.items() if key not in ('preset', 'backbone')}
        return {**others, **({'backbone': backbone} if backbone else {}), 'model_args': {**arguments, **given}}

    def arguments(self) -> dict[str, Any]:
        """Arguments of the network's builder, but for the number of classes."""
        given: dict[str, Any] = {'backbone': self.backbone} if self.backbone else {}
        if self.drop_path_rate:
            given |= {'drop_path_rate': self.drop_path_rate, 'drop_path_on': self.drop_path_on}
        return {**given, **self.model_args}


class Data(Group):
    set: Annotated[
        Literal['toy_street', 'cityscapes', 'camvid', 'camvid32', 'camvid11of32', 'voc', 'custom', 'imagenet', 'image_folder'],
        WrapValidator(_or_of_a_plugin),
    ] = Field(
        'toy_street',
        description='data set. camvid32 merges the 32 classes of the release into 11, camvid11of32 has 11 of them and ignores '
        'the others. imagenet and image_folder hold {split}/<class>/<image> in folders or tars and train classifiers; the '
        'others train segmentation. `twinseg list --datasets` shows the folders that each expects',
    )
    data_url: Optional[PathText] = Field(
        None, description='folder of the data set (data_root); by default $TWINSEG_DATA/<set>, then $TWINSEG_DATA'
    )
    train_split: SplitNames = Field(
        'train', description='name of the split that is trained on, or a list of several, which are joined: [train, val]'
    )
    val_split: Optional[str] = Field(
        'val',
        description='name of the split that is evaluated on; null: training does without one, and the last checkpoint is its '
        'result',
    )
    batch_size: Batch = Field(8, description='training images per device and step')
    eval_batch_size: Batch = Field(1, description='images per device that evaluation runs through the network at once')
    num_parallel_workers: Workers = Field(
        2,
        description='processes (PyTorch) or threads (MindSpore) per device that load and augment images; 0: none beside the'
        ' training itself',
    )
    data_timeout: Seconds = Field(
        1800,
        description='seconds that a step waits for its images before the run ends, saved; num_parallel_workers: 0 waits on',
    )
    sampling: Literal['shuffle', 'class_balanced'] = Field(
        'shuffle',
        description='images of an epoch. shuffle: each image once, in random order; class_balanced: as many images, each '
        'class being shown equally often',
    )
    drop_last: bool = Field(
        True,
        description='whether the last batch of an epoch is left out where images do not fill it; false: it is smaller',
    )
    repeat: Steps = Field(1, description="times that an epoch shows every image (mmsegmentation's RepeatDataset)")
    on_error: Literal['raise', 'skip'] = Field(
        'raise', description='reaction to a broken image or label: end the run, or train on the next readable sample instead'
    )
    max_errors: Count = Field(10, description='with on_error: skip: number of broken samples above which the run ends')
    train_samples: Steps = Field(64, description='toy_street: number of training images')
    val_samples: Steps = Field(16, description='toy_street: number of validation images')
    image_size: Sides = Field(
        [256, 512],
        description='[height, width] in pixels, or one number for a square. toy_street: size of the images; classifiers: '
        'size of the input, by default [224, 224]',
    )
    class_file: Optional[PathText] = Field(
        None,
        description='image folders: file that numbers the classes, as JSON {"folder": number} or {"number": ["folder", '
        '"name"]}, or one folder a line; by default they are numbered in the order of their names',
    )
    exif_rotate: Optional[bool] = Field(
        None,
        description='whether image and label files are each turned as their EXIF orientation says; by default yes, but for '
        'imagenet (timm does not). Prediction always shows a network the upright picture',
    )
    white_level: Optional[Annotated[float, Field(gt=0)]] = Field(
        None,
        description='sample value that becomes 255 in image files of more than 8 bits: 65535, 4095 (12 bits), 1.0, ...; by '
        'default 65535 in 16-bit files, and files whose brightest sample is below 16384 are refused, as those of unknown range '
        'are',
    )
    image_dir: Optional[str] = Field(
        None, description='custom: folder of the images below data_url; {split} in it is replaced by the name of the split'
    )
    label_dir: Optional[str] = Field(
        None, description='custom: folder of the label files below data_url; {split} in it is replaced by the name of the split'
    )
    image_suffix: Optional[str] = Field(
        None,
        description='custom: end of the names of the image files, in any case (img_suffix), such as .jpg or _leftImg8bit.png; '
        'by default that of any image',
    )
    label_suffix: Optional[str] = Field(
        None,
        description='custom: end of the names of the label files, in place of image_suffix (seg_map_suffix), such as .png or '
        '_mask.png; by default that of any image. It tells labels from images where both are in one folder',
    )
    split_list: Optional[str] = Field(
        None,
        description='custom: text file below data_url that names the images of a split, one a line, with or without their '
        'suffix, and after a tab or a comma their labels; {split} in it is replaced by the name of the split',
    )
    val_fraction: Optional[Annotated[float, Field(gt=0, lt=1)]] = Field(
        None,
        description='custom: share of the images of image_dir, or of split_list, that is validated on; the others are trained '
        'on. Image folders: share of each class of train_split, or of the folder of the classes. The choice depends on the '
        'names of the images and on split_seed alone',
    )
    split_seed: Count = Field(0, description='number that chooses the images of val_fraction')
    classes: Optional[list[str]] = Field(None, description='custom: names of the classes, in the order of the train ids')
    palette: Optional[list[Colour]] = Field(
        None,
        description='custom: RGB colour of each class, 0 to 255, by which RGB masks are read, too; by default masks hold ids, '
        "and classes are drawn in Pascal VOC's series of colours",
    )
    label_map: Optional[LabelMap] = Field(
        None,
        description='custom: id in the label file -> train id, 255: ignored; by default ids are train ids already. A colour, '
        "as '0,0,0', and the word transparent may stand for an id",
    )
    label_pixels: Literal['auto', 'ids', 'colors'] = Field(
        'auto',
        description='custom: what the pixels of label files hold: ids, or the colours of palette and label_map; auto: RGB '
        'files colours where any are given, grey and palette files ids',
    )
    unknown_colors: Literal['error', 'ignore', 'nearest'] = Field(
        'error',
        description='custom: reaction to a colour in a label file that palette and label_map lack: end, ignore its pixels, or '
        'take them for the class of the nearest colour (for masks in JPEG)',
    )

    @property
    def train_splits(self) -> tuple[str, ...]:
        """Names of the splits that are trained on."""
        return (self.train_split,) if isinstance(self.train_split, str) else tuple(self.train_split)

    @property
    def split_names(self) -> tuple[str, ...]:
        """Names of the splits that are trained on, and of the one that is evaluated on where there is one."""
        return (*self.train_splits, *([] if self.val_split is None else [self.val_split]))


class Augment(Group):
    base_size: Optional[Sides] = Field(
        None,
        description='[height, width] in pixels that ratio_range multiplies (scale of RandomResize, width first there); by '
        'default the size of the image file',
    )
    ratio_range: PositiveRange = Field(
        [0.5, 2.0], description='lowest and highest factor of the random resize before the crop (ratio_range of RandomResize)'
    )
    scale_set: Optional[Scales] = Field(
        None,
        description='factors of the random resize, one of which is drawn for each image, such as [0.5, 0.75, 1.0] (STDC-Seg, '
        'HRNet, PaddleSeg); it takes the place of ratio_range',
    )
    small_image: Literal['pad', 'enlarge'] = Field(
        'pad',
        description='treatment of a scaled image that is smaller than the crop. pad: with the mean colour, which is ignored; '
        'enlarge: it is resized once more until it covers the crop (STDC-Seg)',
    )
    antialias: bool = Field(
        False,
        description="whether a training image is resized with Pillow's bilinear filter, which averages all pixels that a "
        "smaller one covers, instead of OpenCV's, which reads four",
    )
    crop_size: Sides = Field([512, 1024], description='[height, width] in pixels of the random crop that is trained on')
    cat_max_ratio: Fraction = Field(
        0.75,
        description='largest share of one class in a crop: up to 10 crops are tried (cat_max_ratio of RandomCrop); 1 '
        'accepts every crop',
    )
    flip_prob: Fraction = Field(0.5, description='probability of a horizontal flip')
    rotate: Annotated[float, Field(ge=0, le=180)] = Field(
        0.0, description='largest angle in degrees of a random rotation to either side; empty corners are filled and ignored'
    )
    rotate_before_crop: bool = Field(
        False,
        description='rotate: whether the whole scaled image is turned, in its size, before it is cropped (yassouali, DeepHM); '
        'else the crop is',
    )
    padding: Literal['ignore', 'background'] = Field(
        'ignore',
        description="what is beyond the image's edges, in a crop larger than it and in the corners of a rotation: ignore: the "
        'mean colour, ignored; background: black, of class 0 (yassouali, DeepHM)',
    )
    blur_sigma: Annotated[float, Field(ge=0, le=10)] = Field(
        0.0,
        description='largest standard deviation in pixels of a Gaussian blur, random for each crop, in a kernel of 3.3 of '
        'them, made odd (yassouali: 1.0, which does not change 6 of 10 crops); 0: no blur',
    )
    label_stride: Annotated[int, Field(ge=1, le=32)] = Field(
        1,
        description='training: side of the squares of pixels of which a label keeps the top left one; the loss is computed at '
        "that size (8: e-lab's ENet encoder)",
    )
    cutout_prob: Fraction = Field(0.0, description='probability that a random box of the crop is erased and ignored (cutout)')
    cutout_ratio: ShareRange = Field(
        [0.1, 0.4], description="smallest and largest side of the box that cutout erases, as a share of the crop's side"
    )
    class_mix: Fraction = Field(
        0.0, description='probability that half of the classes of another sample are pasted over the crop (ClassMix)'
    )
    eval_size: Optional[Sides] = Field(
        None,
        description='[height, width] in pixels into which evaluation scales the images, proportions kept (scale of Resize '
        'in the test pipeline, width first there); scores are counted at the size of the file',
    )
    eval_scales: EvaluationScales = Field(
        [1.0], description='scales of the image, after eval_size, that evaluation averages; --ms-flip: 0.5 to 1.75 and mirrored'
    )
    eval_flip: bool = Field(False, description='whether evaluation averages the mirrored image, too')
    eval_average: Average = Field(
        'probabilities',
        description='what evaluation averages over scales and the mirrored image: probabilities (mmsegmentation), logits '
        '(yassouali) or exponentials (HRNet: logits over the mirrored image, their exponentials over scales)',
    )
    slide_window: Optional[Sides] = Field(
        None, description='--slide: [height, width] in pixels of the windows; by default crop_size'
    )
    slide_stride: Optional[Sides] = Field(
        None,
        description='--slide: [height, width] in pixels from a window to the next (stride of test_cfg); by default two thirds '
        'of the window',
    )
    eval_resized: Optional[Sides] = Field(
        None,
        description='protocol of davidtvs: [height, width] in pixels to which evaluation resizes images (proportions not kept, '
        "Pillow's bilinear filter) and labels (nearest pixel), which are scored at this size; by default at the file's",
    )
    eval_center_crop: Optional[Sides] = Field(
        None,
        description='protocol of yassouali and DeepHM: [height, width] in pixels of the centre that evaluation cuts out of '
        'images and labels (nearest pixel) after these were resized until they just cover it; scores are counted there',
    )
    more_eval_sizes: list[Sides] = Field(
        [],
        description='further sizes as eval_size is one, at which a training scores its weights, too; the best weights of each '
        'are kept as best_<height>x<width>',
    )
    scale: ShareRange = Field(
        [0.08, 1.0], description="classifiers: smallest and largest share of the image's area in a random crop"
    )
    ratio: PositiveRange = Field([3 / 4, 4 / 3], description='classifiers: lowest and highest width / height of a random crop')
    interpolation: Literal['nearest', 'bilinear', 'bicubic', 'lanczos', 'random'] = Field(
        'bicubic',
        description="classifiers: Pillow's antialiased filter for resizing; random: bilinear or bicubic in training, "
        'bicubic in evaluation',
    )
    color_jitter: NonNegative = Field(
        0.4,
        description='classifiers: strength of the random changes of brightness, contrast and saturation; without effect '
        'where auto_augment is set',
    )
    auto_augment: Optional[str] = Field(
        None, description="classifiers: RandAugment policy in timm's spelling, such as rand-m9-mstd0.5-inc1"
    )
    re_prob: Fraction = Field(0.0, description='classifiers: probability of random erasing')
    re_mode: Literal['const', 'rand', 'pixel'] = Field(
        'pixel',
        description='classifiers: filling of the erased boxes: the mean colour, one random colour, or noise in every pixel',
    )
    re_count: Positive = Field(1, description='classifiers: largest number of boxes that random erasing erases in an image')
    mix_up: NonNegative = Field(
        0.0, description='classifiers: alpha of mixup, its Beta(alpha, alpha) distribution; 0: no mixup'
    )
    cutmix: NonNegative = Field(
        0.0, description='classifiers: alpha of cutmix, its Beta(alpha, alpha) distribution; 0: no cutmix'
    )
    mixup_prob: Fraction = Field(
        1.0, description='classifiers: probability that a batch, pair or image (mixup_mode) is mixed by mixup or cutmix'
    )
    switch_prob: Fraction = Field(
        0.5, description='classifiers: probability that cutmix mixes instead of mixup, where both are on'
    )
    mixup_mode: Literal['batch', 'pair', 'elem'] = Field(
        'batch', description='classifiers: what shares one random mixing ratio: the batch, a pair of images, or a single image'
    )
    mixup_off_epoch: NonNegative = Field(
        0.0, description='classifiers: epoch from which on nothing is mixed; 0: mixing never ends'
    )
    crop_pct: Annotated[float, Field(gt=0, le=1)] = Field(
        0.875, description='classifiers: side of the centre crop of evaluation as a share of the side of the resized image'
    )
    square_resize: bool = Field(
        False,
        description='classifiers: whether evaluation resizes to a square (the model zoo) instead of keeping the proportions'
        ' (timm)',
    )
    photometric_distortion: bool = Field(
        True,
        description='whether brightness, contrast, saturation and hue change, each with probability 1/2 '
        '(PhotoMetricDistortion)',
    )
    brightness_delta: Annotated[float, Field(ge=0, le=255)] = Field(
        32.0, description='photometric_distortion: largest value added to or taken from the pixels, of 0 to 255'
    )
    contrast_range: Range = Field([0.5, 1.5], description='photometric_distortion: lowest and highest factor of the contrast')
    saturation_range: Range = Field(
        [0.5, 1.5], description='photometric_distortion: lowest and highest factor of the saturation'
    )
    hue_delta: Annotated[float, Field(ge=0, le=180)] = Field(
        18.0, description='photometric_distortion: largest shift of the hue in units of 2 degrees, as OpenCV counts (0 to 179)'
    )
    color_factors: Optional[Range] = Field(
        None,
        description='lowest and highest factor of brightness, contrast and saturation, by which the whole image always changes '
        "in this order, as Pillow's ImageEnhance does (STDC-Seg); it takes the place of photometric_distortion",
    )
    mean: Means = Field(
        IMAGENET_MEAN,
        description="mean of red, green and blue, 0 to 255, that is subtracted from the pixels; by default ImageNet's",
    )
    std: Deviations = Field(
        IMAGENET_STD,
        description='standard deviation of red, green and blue, 0 to 255, by which the pixels are divided after that; by '
        "default ImageNet's",
    )

    @model_validator(mode='after')
    def _one_choice_of_scales(self):
        if self.scale_set is not None and self.ratio_range != type(self).model_fields['ratio_range'].default:
            refuse('give scale_set or ratio_range, not both', 'scale_set')
        return self

    @model_validator(mode='after')
    def _of_pixels_up_to_255(self, info: ValidationInfo):
        trusted = (info.context or {}).get('trusted') or ()
        small_mean, small_std = 0 < max(self.mean) <= 1, max(self.std) < 1 or max(self.mean) <= 1 and max(self.std) <= 1
        small = [key for key, is_small in (('mean', small_mean), ('std', small_std)) if is_small and key not in trusted]
        if small:
            values = {key: getattr(self, key) for key in small}
            scaled = {key: [round(255 * channel, 4) for channel in value] for key, value in values.items()}
            refuse(
                f'{values[small[0]]} is for pixels of 0 to 1, while those here are 0 to 255; multiply by 255: '
                + ', '.join(f'{key}: {value}' for key, value in scaled.items()),
                small[0],
            )
        return self

    @model_validator(mode='after')
    def _one_protocol(self):
        if self.eval_resized and self.eval_center_crop:
            refuse('give eval_resized or eval_center_crop, not both', 'eval_resized')
        return self

    @property
    def protocol(self) -> str:
        """What scores are counted on, in words: full (labels of their own size), resized 360x480, center_crop 480x480."""
        sizes = {'resized': self.eval_resized, 'center_crop': self.eval_center_crop}
        return next((f'{name} {size[0]}x{size[1]}' for name, size in sizes.items() if size), 'full')

    @model_validator(mode='after')
    def _turned_in_one_step(self):
        for key, default in (('antialias', False), ('small_image', 'pad')):
            if self.rotate_before_crop and getattr(self, key) != default:
                refuse(f'{shown(getattr(self, key))} has no effect with rotate_before_crop; leave one of them out', key)
        return self


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
    beta: Annotated[list[Fraction], Field(min_length=2, max_length=2)] = Field(
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


SuiteLoss = Literal[
    'cross_entropy', 'sigmoid_cross_entropy', 'ohem', 'ohem_pixel_sampler', 'stdc_ohem', 'focal', 'dice', 'lovasz'
]
LossName = Annotated[SuiteLoss, WrapValidator(_or_of_a_plugin)]


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
        if isinstance(weights, list) and not _is_trusted(info) and not (weights and all(weights)):
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


class Precision(Group):
    amp_level: Literal['O0', 'O1', 'O2', 'O3'] = Field(
        'O0',
        description='precision. O0: float32; O1: convolutions and linear layers in half precision, and what follows them takes '
        'what they give; O2: the network in half precision, batch norm computed in float32; O3: batch norm in half precision, '
        'too. Weights stay float32',
    )
    dtype: Literal['float16', 'bfloat16'] = Field('float16', description='type of half precision that O1, O2 and O3 compute in')
    tf32: bool = Field(
        False,
        description="whether an accelerator may multiply float32 numbers with 10 bits (NVIDIA's TF32, Ascend's HF32): faster, "
        'but logits differ from those of a CPU by up to a tenth of the largest instead of 1e-5',
    )
    keep_bn_fp32: bool = Field(True, description='O2: whether batch norm computes in float32')
    loss_scale: Optional[Annotated[float, Field(gt=0)]] = Field(
        None,
        description='factor of the loss that keeps small gradients in the range of float16, of dynamic scaling the first one; '
        'by default 1, of dynamic scaling 65536 (torch.amp.GradScaler)',
    )
    is_dynamic_loss_scale: bool = Field(
        False,
        description='whether the scale is halved after a step that overflows and doubled after scale_window steps that do not; '
        'not on an Ascend that saturates (910A), where no overflow is seen',
    )
    scale_window: Positive = Field(
        1000, description='is_dynamic_loss_scale: steps without overflow after which the scale is doubled'
    )


class Runtime(Group):
    backend: Optional[Literal['pytorch', 'mindspore']] = Field(
        None, description='framework; by default the first that is installed, PyTorch before MindSpore'
    )
    device_target: Optional[Device] = Field(None, description='device: CPU, GPU or Ascend; by default the best one present')
    recipe: Optional[str] = Field(
        None, description='name of the recipe that the configuration was read from; TwinSeg fills it in'
    )
    seed: Seed = Field(0, description='start of all random numbers: initial weights, order, augmentation, dropout')
    work_dir: Optional[PathText] = Field(
        None, description='folder that a run writes its checkpoints and logs to; by default runs/<configuration>-<backend>'
    )
    threads: Optional[Threads] = Field(
        None, description="CPU threads of the framework per process; by default the framework's choice"
    )
    log_interval: Positive = Field(10, description='steps between lines of metrics.jsonl')
    val_interval: Count = Field(0, description='steps between evaluations; 0: one evaluation an epoch')
    checkpoint_interval: Count = Field(0, description='steps between checkpoints; 0: save_every says how many epochs')
    save_every: Positive = Field(1, description='epochs between checkpoints')
    max_keep_ckpts: Positive = Field(3, description='number of newest checkpoints that are kept, besides the best one')
    patience: Count = Field(
        0, description='evaluations without a better score after which the training ends; 0: it goes on to its last step'
    )
    max_hours: Optional[Annotated[float, Field(gt=0)]] = Field(
        None,
        description='hours after which a process that trains saves its step and ends with status 75, to be resumed, as at '
        'SIGTERM',
    )
    tracker: Literal['none', 'wandb', 'mlflow', 'swanlab'] = Field(
        'none', description='experiment tracker that gets figures and configuration, beside TensorBoard (twinseg[track])'
    )
    tensorboard_images: Count = Field(
        3, description='validation images that TensorBoard shows at every evaluation: image, truth, prediction, errors'
    )
    nan_policy: Literal['stop', 'rollback'] = Field(
        'stop',
        description='reaction to a loss or weights that are no longer finite: end the run, or return to the last checkpoint'
        ' and leave out the batches that followed it',
    )
    max_rollbacks: Count = Field(3, description='nan_policy rollback: number of returns after which the run ends')
    collective_timeout: Optional[Seconds] = Field(
        None,
        description="seconds that a process waits for the others; by default 1800 in PyTorch, the framework's choice in "
        'MindSpore',
    )
    sync_bn: Union[bool, Literal['heads']] = Field(
        True,
        description='several processes: whether batch norm uses the statistics of the global batch (SyncBN) or of the batch'
        ' of each process; running statistics are averaged either way. heads: of the global batch outside the backbone alone '
        '(STDC-Seg)',
    )
    launcher: Optional[Literal['dp']] = Field(
        None,
        description="dp: PyTorch's DataParallel, one process for all GPUs of a host, batch norm over the images of each "
        'GPU; by default torchrun or msrun start one process per device',
    )
    graph_mode: Literal[0, 1] = Field(
        0,
        description='MindSpore, numbered as its context modes. 0: training steps are compiled, and evaluation for every '
        'image size; 1: operator by operator, slower, for debugging and images of many sizes',
    )
    torch_compile: bool = Field(
        False,
        description='PyTorch: whether torch.compile compiles the network for training, which takes a minute or more and, on'
        ' a CPU, a C++ compiler; evaluation is not compiled',
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
    'scale_set',
    'small_image',
    'antialias',
    'crop_size',
    'cat_max_ratio',
    'rotate',
    'rotate_before_crop',
    'padding',
    'blur_sigma',
    'label_stride',
    'cutout_prob',
    'cutout_ratio',
    'class_mix',
    'eval_size',
    'eval_scales',
    'eval_flip',
    'eval_average',
    'slide_window',
    'slide_stride',
    'eval_resized',
    'eval_center_crop',
    'more_eval_sizes',
    'sampling',
    'photometric_distortion',
    'brightness_delta',
    'contrast_range',
    'saturation_range',
    'hue_delta',
    'color_factors',
    'class_weight',
    'class_weight_of',
    'avg_non_ignore',
    'ohem_thresh',
    'ohem_min_kept',
    'losses',
    'logits_weight',
    'auxiliary_weights',
    'detail_weights',
    'detail_target',
    'image_dir',
    'label_dir',
    'label_map',
    'label_pixels',
    'unknown_colors',
    'palette',
)
OTHER_TASKS: dict[TaskName, tuple[str, ...]] = {'segmentation': CLASSIFICATION, 'classification': SEGMENTATION}
TASK_TEXTS: dict[TaskName, str] = {'segmentation': 'segmentation', 'classification': 'image classification'}
CLASSIFICATION_DEFAULTS = {'image_size': [224, 224], 'lr_batch_size': 256, 'norm_bias_decay': False}

EXCLUSIVE = (
    ('epochs', 'max_iters'),
    ('warmup_length', 'warmup_iters'),
    ('ratio_range', 'scale_set'),
    ('eval_resized', 'eval_center_crop'),
)
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
    def task(self) -> TaskName:
        """The task: segmentation, or classification of whole images."""
        return 'classification' if self.data.set in IMAGE_FOLDERS else 'segmentation'

    @model_validator(mode='after')
    def _one_task(self):
        for key in OTHER_TASKS[self.task]:
            group = getattr(self, KEYS[key])
            if getattr(group, key) != type(group).model_fields[key].default:
                refuse(
                    f'{shown(getattr(group, key))} has no effect with set: {self.data.set}, which is for '
                    f'{TASK_TEXTS[self.task]}; leave it out',
                    key,
                )
        if self.task == 'classification' and self.loss.loss != 'cross_entropy':
            refuse(f'{self.loss.loss} is for segmentation; image classification has cross_entropy', 'loss')
        return self

    @model_validator(mode='after')
    def _whole_steps(self):
        if not self.data.drop_last and self.optimizer.accumulation_step > 1:
            refuse(
                f'false with accumulation_step: {self.optimizer.accumulation_step}: a step would hold batches of unequal '
                'size; leave one of them out',
                'drop_last',
            )
        return self

    @model_validator(mode='after')
    def _detail_target_of_sgd(self):
        if self.loss.detail_target == 'decaying' and self.optimizer.optimizer not in ('sgd', 'momentum'):
            refuse(f'decaying follows optimizer: sgd, not {self.optimizer.optimizer}; choose constant', 'detail_target')
        return self

    @model_validator(mode='after')
    def _class_counts(self):
        weights, classes = self.loss.class_weight, self.model.num_classes or len(self.data.classes or ())
        if self.task == 'segmentation' and classes > MAX_CLASS_IDS:
            key = 'num_classes' if self.model.num_classes else 'classes'
            refuse(f'{classes} classes; a segmentation has at most {MAX_CLASS_IDS}: ids are bytes, and 255 is ignored', key)
        if isinstance(weights, list) and classes and len(weights) != classes:
            refuse(f'{len(weights)} weights for {classes} classes; give one for each', 'class_weight')
        return self

    def flat(self) -> dict[str, Any]:
        """The keys that were set, as one flat mapping: what ``from_flat`` takes."""
        return {key: value for group in GROUPS for key, value in getattr(self, group).model_dump(exclude_unset=True).items()}

    def replace(self, **keys: Any) -> 'Config':
        """A copy with some flat keys changed."""
        return _typed(_overlay(_given(self.flat(), 'configuration', trusted=True), _given(keys, 'configuration')))


class Given(NamedTuple):
    """A key's value, and where it comes from."""

    value: Any
    origin: str  # file or option, and the key as it is written there
    trusted: bool = False  # whether a run was trained with it


def load(name: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Reads a recipe.

    ``name`` is a path, or a recipe below ``common/configs`` with or without its folder and suffix, or mmsegmentation's name of
    the same configuration. ``overrides`` are ``key=value`` strings, value in YAML; ``group.key=value`` is taken too.
    Raises UserError for an unknown key (naming the nearest one) or a wrong value, and says where it is given.
    """
    path = find(name)
    keys = _overlay(_read(path, (), []), _overrides(overrides))
    if path.resolve().is_relative_to(RECIPES.resolve()):
        title = str(path.resolve().relative_to(RECIPES.resolve()).with_suffix(''))
        keys = {'recipe': Given(title, str(path)), **keys}
    return _typed(keys, str(path))


def override(config: Config, overrides: Iterable[str]) -> Config:
    """A configuration with ``key=value`` strings applied, as ``load`` takes them."""
    return _typed(_overlay(_given(config.flat(), 'configuration', trusted=True), _overrides(overrides)))


def parse_override(text: str) -> tuple[str, Any]:
    """``group.key=value`` or ``key=value`` -> the flat key and the value, read as YAML."""
    key, sign, value = text.partition('=')
    if not sign or not key.strip():
        raise UserError(f'--set {shown(text)}: expected key=value')
    key = key.strip()
    group, dot, rest = key.partition('.')
    if dot and group in GROUPS:
        if KEYS.get(rest) != group:
            raise UserError(f'--set {key}: ' + _unknown(rest, GROUPS[group].model_fields))
        key = rest
    if yaml.reader.Reader.NON_PRINTABLE.search(value):  # YAML knows no such characters; names of files may have them
        return key, value
    return key, yaml_text.parse(value, f'--set {key}')


def from_flat(keys: Mapping[str, Any], where: str = 'configuration', trusted: bool = False) -> Config:
    """Typed groups from flat keys; UserError naming the key and what is wrong with it.

    Takes the model zoo's spellings, too. With the data set of a classifier some defaults are others. ``trusted``: a run was
    trained with the keys, so that what is merely unreasonable (a range with the highest value first) is accepted.
    """
    return _typed(_given(keys, where, trusted), where)


def _overrides(overrides: Iterable[str]) -> dict[str, Given]:
    return _given(dict(map(parse_override, overrides)), '--set')


def _given(keys: Mapping[str, Any], where: str, trusted: bool = False) -> dict[str, Given]:
    """Flat keys in the suite's spelling, with their origin; UserError for an unknown one."""
    ours = zoo_keys.translated(keys, where)
    for key in ours:
        if key not in KEYS:
            raise UserError(f'{where}: ' + _unknown(key, KEYS))
    written = {zoo_keys.KEYS.get(key, key): key for key in keys}
    joint = ' ' if where == '--set' else ': '
    return {key: Given(value, f'{where}{joint}{written.get(key, key)}', trusted) for key, value in ours.items()}


def _typed(keys: Mapping[str, Given], where: str = 'configuration') -> Config:
    """Typed groups; UserError naming the key and where it was given."""
    values = {key: given.value for key, given in keys.items()}
    arch = values.get('arch')
    if (
        isinstance(arch, str) and arch in zoo_keys.ARCHS
    ):  # expanded last, so that another arch laid over it leaves none of its keys
        values = {**zoo_keys.ARCHS[values.pop('arch')], **values}
    if values.get('set') in IMAGE_FOLDERS:
        values = {**CLASSIFICATION_DEFAULTS, **values}
    groups: dict[str, dict[str, Any]] = {group: {} for group in GROUPS}
    for key, value in values.items():
        groups[KEYS[key]][key] = value
    context = {'trusted': {key for key, given in keys.items() if given.trusted}}
    typed: dict[str, Group] = {}
    kind: type[BaseModel] = Config
    try:
        for group, kind in GROUPS.items():
            typed[group] = kind.model_validate(groups[group], context=context)
        kind = Config
        return Config.model_validate(typed, context=context)
    except ValidationError as error:
        problem = first_problem(error, kind)
        given = keys.get(problem.key or '')
        origin = given.origin if given else f'{where}: {problem.key}' if problem.key else where
        raise UserError(f'{origin}: {problem.text}') from None


def dump(config: Config) -> str:
    """The configuration as flat YAML, grouped by comments; ``load`` reads it back to an equal one."""
    lines = []
    for group in GROUPS:
        keys = getattr(config, group).model_dump()
        lines += [f'# {group}', *(f'{key}: {yaml_text.written(value)}' for key, value in keys.items()), '']
    return '\n'.join(lines)


def _read(path: Path, above: tuple[Path, ...], read: list[Path]) -> dict[str, Given]:
    """The flat keys of a file over those of its ``base``; ``above``: the files that lead to it, ``read``: all read so far."""
    real = path.resolve()
    if real in above:
        raise UserError(f'{above[-1]}: base: leads back to {"the file itself" if real == above[-1] else path}')
    read.append(path)
    if len(read) > MAX_FILES:
        raise UserError(f'{path}: base: more than {MAX_FILES} files')
    try:
        text = read_bounded(path, MAX_BYTES).decode('utf-8-sig')
    except (OSError, UnicodeDecodeError) as error:
        reason = 'no UTF-8; save it as UTF-8' if isinstance(error, UnicodeDecodeError) else reason_of(error)
        raise UserError(f'{path}: not readable as YAML: {reason}') from None
    keys = yaml_text.parse(text, str(path))
    if keys is None:
        keys = {}
    if not isinstance(keys, dict) or not all(isinstance(key, str) for key in keys):
        raise UserError(f'{path}: expected flat "key: value" lines')
    if published_scores.KEY in keys:  # of this file alone: a base's scores are not those of what is built on it
        published_scores.parse(keys.pop(published_scores.KEY), f'{path}: {published_scores.KEY}')
    below: dict[str, Given] = {}
    for name in _bases(keys.pop('base', None), path):
        below = _overlay(below, _read(find_base(name, (path.parent, real.parent), str(path)), (*above, real), read))
    of_a_run = path.name == 'config.yaml' and (path.parent / 'metrics.jsonl').is_file()
    return _overlay(below, _given(keys, str(path), trusted=of_a_run))


def _bases(base: Any, path: Path) -> list[str]:
    """The names in ``base``: one, or a list of which later ones win."""
    names = [] if base is None else base if isinstance(base, list) else [base]
    for name in names:
        if not isinstance(name, str) or not name.strip():
            raise UserError(
                f'{path}: base: expected the name of a recipe or a file, or a list of such names, found {shown(name)}'
            )
    return names


def _overlay(below: Mapping[str, Given], above: Mapping[str, Given]) -> dict[str, Given]:
    """Keys of ``above`` win; one of a pair that excludes each other replaces the other."""
    replaced = {
        other for pair in EXCLUSIVE for key, other in (pair, pair[::-1]) if key in above and above[key].value is not None
    }
    return {**{key: given for key, given in below.items() if key not in replaced}, **above}


def _unknown(key: str, known: Iterable[str]) -> str:
    answer = foreign_keys.answer(key)
    if answer is not None:
        return f'unknown key {shown(key)}: {answer}'
    near = similar(key.lower(), known, most=1)
    return f'unknown key {shown(key)}{did_you_mean(near, "`twinseg list --keys` names all keys")}'
