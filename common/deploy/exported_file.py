"""Exported files as networks: predictors on images, and their scores; ONNX needs no framework."""

from pathlib import Path
from typing import Mapping, Optional

import cv2
import numpy as np

from twinseg.common import tasks
from twinseg.common.backend import Predictor
from twinseg.common.config import Config
from twinseg.common.data.base import OnProgress
from twinseg.common.data.thread_loader import make_loader
from twinseg.common.deploy.engines import open_engine
from twinseg.common.deploy.metadata import ExportMetadata
from twinseg.common.errors import UserError
from twinseg.common.facts import Facts, check, of_config
from twinseg.common.images.interpolation import Size, class_ids, resize_bilinear
from twinseg.common.inference import views
from twinseg.common.inference.evaluate import evaluate
from twinseg.common.tasks.base import PLAIN, SMALLEST, EvalOptions, Evaluation, TrainedNetwork, names_and_colours


class ExportedNetwork(Predictor):
    """An exported file behind uint8 images (see ``common.backend.Predictor``).

    ``size`` is the only size (H, W) that the file takes, None for any: other images are scaled to it bilinearly. ``engine`` is
    one of ``engines.ENGINES``.
    """

    def __init__(self, path: Path, engine: Optional[str] = None, threads: int = 0):
        self.path, self.engine = path, open_engine(path, engine, threads)
        self.metadata = ExportMetadata.read(self.engine.metadata, path)
        raw = self.metadata.input == 'uint8'
        self.batch, height, width = (self.engine.shape[axis] for axis in ((0, 1, 2) if raw else (0, 2, 3)))
        self.size: Optional[Size] = (height, width) if height and width else None
        self._mean, self._std = (
            np.array(values, np.float32).reshape(1, 3, 1, 1) for values in (self.metadata.mean, self.metadata.std)
        )

    @property
    def input_type(self) -> str:
        """The type of the numbers that the file takes: uint8, float32, or float16 where somebody has converted it."""
        return 'float16' if getattr(self.engine, 'half', False) else self.metadata.input

    def pixels(self, images: np.ndarray) -> np.ndarray:
        """uint8 (N, 3, H, W) RGB -> uint8 (N, h, w, 3) of the file's size."""
        channels_last = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
        if self.size is None or images.shape[2:] == self.size:
            return channels_last
        return np.stack([cv2.resize(image, self.size[::-1]) for image in channels_last])

    def inputs(self, pixels: np.ndarray) -> np.ndarray:
        """Images from ``pixels`` -> the file's inputs, but for the number of images: float32 (N, 3, h, w), normalised, or
        uint8, not changed."""
        if self.metadata.input == 'uint8':
            return pixels
        return np.ascontiguousarray((pixels.transpose(0, 3, 1, 2) - self._mean) / self._std)

    def _inputs_of(self, images: np.ndarray) -> np.ndarray:
        """uint8 (N, 3, H, W) RGB -> the file's inputs, but for the number of images."""
        if self.metadata.input == 'uint8' or self.size not in (None, images.shape[2:]):
            return self.inputs(self.pixels(images))
        normalised = images - self._mean  # the same numbers, without turning the axes there and back
        normalised /= self._std
        return normalised

    def run(self, inputs: np.ndarray) -> np.ndarray:
        """The file's output for any number of ``inputs``; the last batch is filled up by repeating."""
        step = self.batch or len(inputs)
        outputs = []
        for start in range(0, len(inputs), step):
            part = full = inputs[start : start + step]
            if len(part) < step:
                full = np.empty((step, *part.shape[1:]), part.dtype)
                full[: len(part)], full[len(part) :] = part, part[-1]
            outputs.append(self._checked(self.engine(full), step)[: len(part)])
        return np.concatenate(outputs)

    def _checked(self, output: np.ndarray, count: int) -> np.ndarray:
        """The output for ``count`` images; UserError where it is not what the file says of itself."""
        known = self.metadata
        segments, logits = known.align_corners is not None, known.output == 'logits'
        wanted = (count, *([known.num_classes] if logits else []), *([None, None] if segments else []))
        fits = len(output.shape) == len(wanted) and all(size in (side, None) for size, side in zip(wanted, output.shape))
        if not fits or not output.size or output.dtype.kind not in ('f' if logits else 'iu'):
            shape = ' x '.join('any' if size is None else str(size) for size in wanted)
            raise UserError(
                f'{self.path}: its output is {output.dtype} of {" x ".join(map(str, output.shape)) or "no size"}, but it says '
                f'that it gives {known.output} ({shape}) for {known.num_classes} classes; export it again'
            )
        if not logits and not 0 <= output.min() <= output.max() < known.num_classes:
            raise UserError(
                f'{self.path}: its output has the class ids {output.min()} to {output.max()} for {known.num_classes} classes'
            )
        return output.astype(np.float32) if output.dtype == np.float16 else output

    def logits(self, images: np.ndarray, size: Optional[Size] = None) -> np.ndarray:
        """uint8 (N, 3, H, W) RGB -> float32 logits (N, C, h, w), at the head's size or resized bilinearly to ``size``; of a
        classifier (N, C)."""
        if self.metadata.output != 'logits':
            raise UserError(f'{self.path}: its output is class ids, but logits are needed here; export it without --argmax')
        logits = self.run(self._inputs_of(images))
        return logits if size is None else resize_bilinear(logits, size, bool(self.metadata.align_corners))

    def class_ids(self, images: np.ndarray, size: Optional[Size] = None) -> np.ndarray:
        """uint8 (N, 3, H, W) RGB -> uint8 class ids (N, h, w); ``size`` defaults to the images'."""
        return self.ids(self.run(self._inputs_of(images)), size or (images.shape[2], images.shape[3]))

    def ids(self, outputs: np.ndarray, size: Size) -> np.ndarray:
        """Outputs for several images -> uint8 class ids (N, h, w): logits are resized bilinearly, class ids to the nearest."""
        if self.metadata.output == 'logits':
            return class_ids(outputs, size, bool(self.metadata.align_corners))
        return np.stack([cv2.resize(ids.astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST) for ids in outputs])

    @property
    def facts(self) -> Facts:
        """What the file says of its network."""
        return self.metadata.facts

    def trained(self, options: EvalOptions = PLAIN) -> TrainedNetwork:
        """The network as prediction sees it; images go as they are into a file for one size, which scales them. UserError for
        an option that is not for it."""
        known = self.metadata
        tasks.of(known.task).check_options(options, str(self.path))
        self.check_scales({'--ms-flip': options.ms_flip, '--scales': bool(options.scales)})
        classes, palette = names_and_colours(known.classes, known.palette, known.num_classes)
        window = self.size or known.input_size
        eval_size = None if self.size else known.eval_size
        return TrainedNetwork(
            known.task,
            views.shown(self, eval_size, options, window, known.augment),
            known.augment,
            window,
            classes,
            palette,
            smallest=SMALLEST if self.size is None else 1,
            white_level=known.white_level,
            one_size=self.size is not None and not options.slide or eval_size is not None,
        )

    def check_scales(self, options: Mapping[str, bool]) -> None:
        """UserError for an option, by name, that shows the network images of several sizes, where the file takes one only."""
        for name, given in options.items():
            if given and self.size is not None:
                raise UserError(
                    f'{name}: {self.path} was made for images of {self.size[0]}x{self.size[1]} only; '
                    'export it again with --dynamic'
                )


def evaluate_exported(
    network: ExportedNetwork, config: Config, options: EvalOptions = PLAIN, progress: Optional[OnProgress] = None
) -> Evaluation:
    """Evaluates an exported file as ``evaluate_run`` evaluates its checkpoint; no framework is needed for ONNX.

    ``config`` (``ExportMetadata.configuration``) gives the data. A file for one size sees images scaled to it, which the
    conditions say; the scores are the checkpoint's where the images have that size. Other scales need a file for any size;
    windows have the file's size.
    """
    check(network.facts, of_config(config))
    size = network.size
    scales = options.of(config.augment).scales != (1.0,)
    network.check_scales({'--ms-flip': options.ms_flip, '--real-size': options.real_size, '--scales or eval_scales': scales})
    if size is not None:
        config = config.replace(eval_size=None)  # the file's size decides
    shown = views.as_published(network, config, options, window=size)
    evaluation = evaluate(shown, network.facts, config, make_loader, options, progress=progress)
    conditions = {
        'model': str(network.path),
        'step': network.metadata.step,
        'arch': network.metadata.arch,
        'engine': network.engine.name,
        **evaluation.conditions,
        'input_size': 'any' if size is None else f'{size[0]}x{size[1]}, images are scaled to it',
    }
    return Evaluation(evaluation.task, evaluation.scores, evaluation.matrix, conditions)
