#!/usr/bin/env python
"""Images a second that one core augments for a classifier, and where the time goes; beside timm's transforms where installed.

python scripts/benchmark_input_pipeline.py [IMAGE...]     (by default noise in the shape of a photograph, 500x375)

Both decode the same JPEG bytes and apply the recipe of ddrnet23_imagenet_gpu (224x224) up to a uint8 array, in turns.
"""

import io
import statistics
import sys
import time
from collections import defaultdict

import cv2
import numpy as np
from PIL import Image, ImageOps

from twinseg.common import config
from twinseg.common.data import classification_transforms
from twinseg.common.data.reading import read_image
from twinseg.common.data.sampling import sample_rng
from twinseg.common.data.segmentation_transforms import channels_first

SIDE, ROUNDS, IMAGES = 224, 8, 40


def photographs(paths: list[str]) -> list[bytes]:
    """JPEG files, quality 90, 500x375."""
    if paths:
        pictures = [Image.open(path).convert('RGB').resize((500, 375), Image.Resampling.BICUBIC) for path in paths]
    else:
        rng = np.random.default_rng(0)
        noise = [rng.integers(0, 256, (24, 32, 3), np.uint8) for _ in range(8)]
        pictures = [Image.fromarray(cv2.resize(pixels, (500, 375), interpolation=cv2.INTER_CUBIC)) for pixels in noise]
    files = []
    for picture in pictures:
        file = io.BytesIO()
        picture.save(file, 'JPEG', quality=90)
        files.append(file.getvalue())
    return files


def ours(file: bytes, augment: config.Augment, number: int) -> np.ndarray:
    image = read_image(io.BytesIO(file), 'image')
    return channels_first(classification_transforms.train_image(image, augment, (SIDE, SIDE), sample_rng(0, 0, number)))


def timms(augment: config.Augment):
    """timm's training transform with the same recipe, up to the array that its loader hands on; None without timm."""
    try:
        from timm.data import create_transform
    except ImportError as error:
        print(f'without timm: {error}')
        return None
    posterize = ImageOps.posterize  # timm asks it for 0 bits, which Pillow 13 refuses
    ImageOps.posterize = lambda picture, bits: posterize(picture, max(bits, 1))
    transform = create_transform(
        SIDE, is_training=True, auto_augment=augment.auto_augment, interpolation='bicubic', re_prob=0.0, use_prefetcher=True
    )  # timm's loader erases later, on the device
    return lambda file, _, number: np.asarray(transform(Image.open(io.BytesIO(file)).convert('RGB')))


def stages(files: list[bytes], augment: config.Augment) -> dict[str, float]:
    """Mean milliseconds of each stage of ours."""
    times: dict[str, float] = defaultdict(float)
    operations = classification_transforms.rand_augment(augment.auto_augment, tuple(map(round, augment.mean)))
    count = 4 * IMAGES
    for number in range(count):
        rng, mark = sample_rng(0, 1, number), time.perf_counter()

        def lap(stage: str) -> None:
            nonlocal mark
            now = time.perf_counter()
            times[stage] += 1000 * (now - mark) / count
            mark = now

        image = read_image(io.BytesIO(files[number % len(files)]), 'image')
        lap('decode')
        top, left, height, width = classification_transforms.crop_box(*image.shape[:2], augment, rng)
        picture = Image.fromarray(image).crop((left, top, left + width, top + height))
        picture = picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        lap('crop and resize')
        pixels = np.array(operations(picture, rng, (Image.Resampling.BICUBIC,)))
        lap('RandAugment')
        classification_transforms.erase(pixels, augment, rng)
        lap('random erasing')
        channels_first(pixels)
        lap('channels first')
    return times


def main() -> None:
    cv2.setNumThreads(0)
    augment = config.load('ddrnet/ddrnet23_imagenet_gpu').augment
    files = photographs(sys.argv[1:])
    pipelines = {'TwinSeg': ours, 'timm': timms(augment)}
    rates = defaultdict(list)
    for turn in range(ROUNDS):
        for name, pipeline in pipelines.items():
            if pipeline:
                began = time.process_time()
                for number in range(IMAGES):
                    pipeline(files[number % len(files)], augment, turn * IMAGES + number)
                rates[name].append(IMAGES / (time.process_time() - began))
    for name, values in rates.items():
        print(f'{name}: {statistics.median(values):.0f} images a second of one core ({min(values):.0f} to {max(values):.0f})')
    if rates['timm']:
        print(f'ratio: {statistics.median(a / b for a, b in zip(*rates.values())):.2f}')
    for stage, milliseconds in stages(files, augment).items():
        print(f'  {stage}: {milliseconds:.2f} ms')


if __name__ == '__main__':
    main()
