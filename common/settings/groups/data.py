"""Keys of the data set: where it is, how its files are read, batches."""

import re
from typing import Annotated, Any, Literal, Optional, Union

from pydantic import AfterValidator, BeforeValidator, Field, WrapValidator

from twinseg.common.settings.kinds import (
    MAX_WORKERS,
    Colour,
    Count,
    Group,
    PathText,
    Seconds,
    Sides,
    Steps,
    or_of_a_plugin,
)
from twinseg.common.settings.messages import Said, refuse, shown

IMAGE_FOLDERS = ('imagenet', 'image_folder')  # data sets of whole images, for classifiers; the others are for segmentation
MAX_BATCH = 1 << 16  # images: an ImageNet batch of published records has 32,768
WHOLE = re.compile(r'-?[0-9]{1,10}')
TRANSPARENT = 'transparent'  # in a label_map: pixels of no opacity
LABEL_COLOUR = re.compile('(25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])(,(25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])){2}')  # key of a label_map


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


def _distinct(names: str | list[str]) -> str | list[str]:
    """One name without a list around it."""
    if isinstance(names, str):
        return names
    if not names or not all(names):
        refuse(f'expected the name of a split, or a list such as [train, val], found {shown(names)}')
    if len(set(names)) < len(names):
        refuse(f'expected each split once, found {shown(next(name for name in names if names.count(name) > 1))} twice')
    return names if len(names) > 1 else names[0]


Workers = Annotated[int, Field(ge=0, le=MAX_WORKERS)]
Batch = Annotated[int, Field(gt=0, le=MAX_BATCH)]
SplitNames = Annotated[
    Union[str, list[str]], AfterValidator(_distinct), Said('the name of a split, or a list such as [train, val]')
]
LabelMap = Annotated[
    dict[Union[int, str], int],
    BeforeValidator(_plain_keys),
    Said("a table of ids, such as {0: 255, 1: 0, 2: 1}, or of colours, such as {'0,0,0': 255}"),
]


class Data(Group):
    set: Annotated[
        Literal['toy_street', 'cityscapes', 'camvid', 'camvid32', 'camvid11of32', 'voc', 'custom', 'imagenet', 'image_folder'],
        WrapValidator(or_of_a_plugin),
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
        description='seconds that a step waits for its images before the run saves and ends; num_parallel_workers: 0 waits on',
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
        description='custom: end of the names of the image files, in upper or lower case (img_suffix), such as .jpg or '
        '_leftImg8bit.png; '
        'by default that of any image',
    )
    label_suffix: Optional[str] = Field(
        None,
        description='custom: end of the names of the label files, instead of image_suffix (seg_map_suffix), such as .png or '
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
        "as '0,0,0', and the word transparent may be used as an id",
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
