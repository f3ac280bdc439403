"""The recipe that ``twinseg prepare custom`` writes beside the labels: a training of minutes, to be changed by hand."""

import hashlib
import statistics
from pathlib import Path
from typing import Any, Mapping, Sequence

from twinseg.common.data.annotations.base import BYTES, AnnotatedImage
from twinseg.common.data.annotations.classes import Classes
from twinseg.common.files import write_text
from twinseg.common.settings import yaml_text

WRITTEN = 'written by twinseg prepare custom'  # how a file says that it may be replaced
BASE = 'fastscnn/fast_scnn_camvid-360x480'
LONG_SIDE = 768  # pixels of the longer side at which the recipe trains and evaluates larger images
CROP = 384  # largest side of its crops
STRIDE = 32  # pixels of which the crops' sides are multiples
STEPS, WARM_UP, INTERVAL, BATCH = 600, 50, 100, 4  # its training takes 16 minutes on two cores


def recipe_text(
    folder: Path,
    classes: Classes,
    splits: Mapping[str, Sequence[str]],
    images: Sequence[AnnotatedImage],
) -> str:
    """The recipe as YAML."""
    height, width = (round(statistics.median(sides)) for sides in zip(*(sorted(image.size) for image in images)))
    factor = min(LONG_SIDE / width, 1)
    base_size = [max(round(height * factor), 1), round(width * factor)]
    crop = min(max(-(-base_size[0] // STRIDE) * STRIDE, 2 * STRIDE), CROP)
    data: dict[str, Any] = {
        'set': 'custom',
        'data_url': str(folder),
        'image_dir': 'images',
        'label_dir': 'labels',
        'split_list': '{split}.txt',
        'classes': classes.names,
        'palette': classes.palette,
        'batch_size': max(min(BATCH, len(splits['train'])), 2),
    }
    sizes_of = {'base_size': base_size, 'eval_size': base_size, 'crop_size': [crop, crop]}
    schedule = {
        'max_iters': STEPS,
        'warmup_iters': WARM_UP,
        'ema_decay': 0.99,
        'class_weight': 'enet',
        'val_interval': INTERVAL,
        'checkpoint_interval': INTERVAL,
    }
    return '\n'.join(
        [
            f'base: {BASE}',
            'model_args: {bn_momentum: 0.1}  # quick statistics for few steps; of Fast-SCNN: another base may not have it',
            '# data',
            *_lines(data),
            f'# augment: images are scaled to {base_size[1]} pixels on their longer side, and cut',
            *_lines(sizes_of),
            '# schedule: in optimizer steps, with a quick average for so few; loss: weights for objects that are rare',
            *_lines(schedule),
            '',
        ]
    )


def _lines(keys: Mapping[str, Any]) -> list[str]:
    """YAML, a line for each key."""
    return [f'{key}: {yaml_text.written(value)}' for key, value in keys.items()]


def write_recipe(path: Path, text: str) -> str:
    """Writes the recipe, unless a user changed the one that is there; what to say of it."""
    head = '# {} ({}); a recipe that is changed by hand is kept\n'
    new = head.format(WRITTEN, _short_digest(text)) + text
    if path.is_file():
        first, _, rest = path.read_text(encoding='utf-8', errors='replace').partition('\n')
        if _short_digest(rest) not in first:
            beside = path.with_name(f'{path.stem}.new.yaml')
            if rest != text:
                write_text(beside, new)
                return f' (changed by hand and kept; what it would be now: {beside})'
            return ''
    write_text(path, new)
    return ''


def _short_digest(text: str) -> str:
    return hashlib.sha256(text.encode(*BYTES)).hexdigest()[:12]
