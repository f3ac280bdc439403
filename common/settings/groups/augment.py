"""Keys of what is done to an image: augmentation in training, sizes and views in evaluation."""

from typing import Annotated, Literal, Optional

from pydantic import AfterValidator, Field, ValidationInfo, model_validator

from twinseg.common.settings.kinds import Fraction, Group, NonNegative, Positive, Sides, is_trusted
from twinseg.common.settings.messages import Said, refuse, shown

IMAGENET_MEAN = [123.675, 116.28, 103.53]  # mean of RGB in 0..255, as torchvision and mmsegmentation use
IMAGENET_STD = [58.395, 57.12, 57.375]
MAX_FACTOR = 100.0  # largest factor of a resize or a colour: beyond it nothing of the image is left
MAX_SCALE = 8.0  # largest scale of an image in evaluation: publishers use up to 2.25
MAX_SCALES = 100  # factors of a random resize: HRNet draws among 17


def _ordered(value: list[float], info: ValidationInfo) -> list[float]:
    if value[0] > value[1] and not is_trusted(info):
        refuse(f'expected the lowest value first, such as {value[::-1]}, found {value}')
    return value


Average = Literal['probabilities', 'logits', 'exponentials']
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
        'HRNet, PaddleSeg); it replaces ratio_range',
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
    padding: Literal['ignore', 'black', 'background'] = Field(
        'ignore',
        description="what is beyond the image's edges, in a crop larger than it and in the corners of a rotation: ignore: the "
        'mean colour, ignored; black: black, ignored (HRNet); background: black, of class 0 (yassouali, DeepHM)',
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
        "in this order, as Pillow's ImageEnhance does (STDC-Seg); it replaces photometric_distortion",
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
