"""``twinseg trace`` from its words to its answer."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping, Optional

import cv2
import numpy as np

from twinseg.common import config as configuration
from twinseg.common import tasks
from twinseg.common.config import Config
from twinseg.common.data.base import OnProgress
from twinseg.common.data.open import open_validation
from twinseg.common.data.reading import read_image
from twinseg.common.errors import UserError
from twinseg.common.files import home_expanded
from twinseg.common.images.interpolation import Size
from twinseg.common.trace.backward import trace_backward
from twinseg.common.trace.compare import trace
from twinseg.common.trace.onnx_source import OnnxSource, name_alike
from twinseg.common.trace.opening import OpenOptions, open_source
from twinseg.common.trace.quantised import rank_layers
from twinseg.common.trace.result import Trace
from twinseg.common.trace.sources import NetworkSource, Source
from twinseg.common.trace.steps import trace_steps
from twinseg.common.trace.user_networks import RenamedSource, pair, read_names

DEFAULT_SIZE = (128, 192)  # size of noise and images where no file says another: enough for an output stride of 32


@dataclass(frozen=True)
class InputRequest:
    """The images of a trace."""

    files: tuple[str, ...] = ()
    data: Optional[str] = None  # a recipe: its validation images
    settings: tuple[str, ...] = ()  # keys of the recipe
    images: int = 1  # number of them
    size: Optional[Size] = None
    seed: int = 0

    def configuration(self) -> Config:
        """The recipe of ``data``."""
        assert self.data is not None
        return configuration.load(self.data, self.settings)

    def read(self, size: Optional[Size]) -> tuple[np.ndarray, list[np.ndarray]]:
        """uint8 (N, 3, H, W) RGB, and the images before they were resized, (H, W, 3). ``size``: the only one that a side
        takes."""
        if self.size and size and self.size != size:
            raise UserError(f'--size {self.size[0]}x{self.size[1]}: the exported file takes {size[0]}x{size[1]} only')
        wanted = self.size or size
        if self.files and self.data:
            raise UserError(f'--data {self.data}: give images or a recipe, not both')
        if self.files:
            pictures = [read_image(home_expanded(file)) for file in self.files]
        elif self.data:
            config = self.configuration()
            dataset = open_validation(config.data)
            wanted = wanted or tasks.of(config.task).input_size(config)
            pictures = [dataset.read(index)[0] for index in range(min(self.images, len(dataset)))]
        else:
            noise = np.random.default_rng(self.seed).integers(0, 256, (self.images, 3, *(wanted or DEFAULT_SIZE)), np.uint8)
            return noise, []
        wanted = wanted or (pictures[0].shape[0], pictures[0].shape[1])
        resized = [cv2.resize(picture, wanted[::-1]) if picture.shape[:2] != wanted else picture for picture in pictures]
        return np.ascontiguousarray(np.stack(resized).transpose(0, 3, 1, 2)), pictures


@dataclass(frozen=True)
class Request:
    """What is asked for."""

    first: str
    second: str
    inputs: InputRequest
    options: OpenOptions
    names: Optional[Path] = None  # YAML: module of the first -> module of the second
    backward: bool = False
    steps: int = 0
    rank: bool = True
    scored: Optional[int] = None  # layers of an int8 file whose score in float32 is computed; None: all
    space: Optional[int] = None  # bytes
    outputs: Optional[Path] = None  # file that gets the ONNX side with its inner tensors as outputs


def run(request: Request, progress: Optional[OnProgress] = None) -> Trace:
    """Opens both sides, reads the input and compares. ``progress`` counts the layers that are scored. UserError for what
    cannot be compared."""
    first, second = (open_source(text, request.options) for text in (request.first, request.second))
    if not first.runs and not second.runs:
        raise UserError(f'{request.first} and {request.second}: one of the two must be something that runs')
    _share_statistics(first, second)
    if request.scored is not None and not (request.inputs.data and request.rank and _quantised(first, second)):
        raise UserError('--scored: has an effect on a float32 ONNX and its int8 one with --data, ranked')
    if isinstance(first, OnnxSource) and isinstance(second, OnnxSource):
        name_alike(first, second)
    elif isinstance(first, OnnxSource) or isinstance(second, OnnxSource):
        for source in (first, second):
            if isinstance(source, NetworkSource):
                source.auxiliary = False  # an exported file has the logits alone
    sizes = [size for source in (first, second) if (size := getattr(source, 'size', None))]
    images, originals = request.inputs.read(sizes[0] if sizes else None)
    batches = [batch for source in (first, second) if (batch := getattr(source, 'batch', None))]
    traced = images[: min(batches)] if batches else images  # a file for one image: the others are for the ranking
    from_files = bool(request.inputs.files or request.inputs.data)
    second, matched = _matched(first, second, request, traced)
    result = trace(
        first,
        second,
        traced,
        limit=request.space,
        rank=request.rank,
        recorded_input=not from_files,
        originals=originals[: len(traced)],
    )
    result.conditions.update(matched)
    if request.outputs is not None:
        files = [source for source in (first, second) if isinstance(source, OnnxSource)]
        if not files:
            raise UserError('--outputs: neither side is an ONNX file')
        files[-1].write_with_outputs(request.outputs)
    if (pair := _quantised(first, second)) is not None:
        config = request.inputs.configuration() if request.inputs.data else None
        result.sections.extend(rank_layers(*pair, images, config if request.rank else None, request.scored, progress))
    if request.backward or request.steps:
        one, other, names = _networks(first, second)
        if request.backward:
            result.sections.append(trace_backward(one, other, names, traced))
        if request.steps:
            result.sections.append(trace_steps(one, other, request.steps))
    return result


def _quantised(first: Source, second: Source) -> Optional[tuple[OnnxSource, OnnxSource]]:
    """Both sides where the second one is a file in int8, and the first one a file that is not."""
    if not isinstance(first, OnnxSource) or not isinstance(second, OnnxSource):
        return None
    return (first, second) if first.precision != 'int8' and second.precision == 'int8' else None


def _share_statistics(first: Source, second: Source) -> None:
    """A side that does not say how images are normalised takes them as the other side does."""
    for side, other in ((first, second), (second, first)):
        if not getattr(side, 'knows_statistics', True) and getattr(other, 'knows_statistics', False):
            side.mean, side.std = other.mean, other.std  # type: ignore[attr-defined]


def _networks(first: Source, second: Source) -> tuple[NetworkSource, NetworkSource, Mapping[str, str]]:
    """Both networks and the names of the second one's modules in the first; UserError where one side is no network."""
    names: Mapping[str, str] = {}
    network = second
    if isinstance(second, RenamedSource):
        network, names = second.source, second.names
    if not isinstance(first, NetworkSource) or not isinstance(network, NetworkSource):
        raise UserError('--backward and --steps: are for two networks that run in a backend')
    return first, network, names


def _matched(first: Source, second: Source, request: Request, images: np.ndarray) -> tuple[Source, dict[str, Any]]:
    """The second side under the first one's names, where a user wrote one of two networks; how many layers were matched how."""
    networks = isinstance(first, NetworkSource) and isinstance(second, NetworkSource)
    if request.names is not None and not networks:
        raise UserError('--names: has an effect on two networks that run in a backend only')
    if request.options.weights is not None and not any(getattr(side, 'written_by_user', False) for side in (first, second)):
        raise UserError('--weights: has an effect on your own networks (FILE.py:CLASS) only')
    if not networks:
        return second, {}
    assert isinstance(first, NetworkSource) and isinstance(second, NetworkSource)
    if not request.names and not (first.written_by_user or second.written_by_user):
        return second, {}
    carry = second.written_by_user and (request.options.weights is None or bool(second.unloaded))
    paired, how = pair(first, second, read_names(request.names), carry, images)
    return paired, {'layers matched': how, 'weights': f'those of {first.label}' if carry else 'of each side'}
