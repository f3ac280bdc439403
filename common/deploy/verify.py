"""The difference between an exported file and its network, by every engine that runs the file, and the tolerance for it."""

from pathlib import Path
from typing import Callable, Sequence

import numpy as np

from twinseg.common.backend import Engine
from twinseg.common.deploy.engines import OnnxRuntime, OpenVino, open_engine
from twinseg.common.deploy.metadata import ExportMetadata
from twinseg.common.images.interpolation import resize_bilinear

TOLERANCE = 1e-4  # largest difference to the network, of its largest logit; more where the network itself jumps that far
NUDGE = 1e-5  # change of a pixel's normalised value: some ten times the rounding errors of an engine
ImageShape = tuple[int, int, int, int]  # N, 3, H, W
Reference = Callable[[np.ndarray], np.ndarray]  # normalised float32 images -> logits


def tolerance(difference: float, reference: Reference, shapes: Sequence[ImageShape]) -> float:
    """TOLERANCE, or where ``difference`` is more, twice the network's ``unsteadiness`` if that is more still."""
    if difference <= TOLERANCE:
        return TOLERANCE
    return max(TOLERANCE, 2 * unsteadiness(reference, shapes))


def unsteadiness(reference: Reference, shapes: Sequence[ImageShape], seed: int = 0) -> float:
    """Change of a network's logits, relative to the largest one, when its images change by NUDGE: large where it unpools, since
    a maximum's position jumps between values that are nearly equal."""
    largest = 0.0
    for shape in shapes:
        rng = np.random.default_rng(seed)
        images = rng.standard_normal(shape, np.float32)
        logits = reference(images)
        for _ in range(3):
            nudged = images * rng.choice(np.array([1 - NUDGE, 1 + NUDGE], np.float32), shape)
            largest = max(largest, float(np.abs(reference(nudged) - logits).max() / np.abs(logits).max()))
    return largest


def compare(path: Path, reference: Reference, shapes: Sequence[ImageShape], seed: int = 0) -> dict[str, float]:
    """Largest difference, by engine, between a file's logits and ``reference``'s, of the latter's largest magnitude; of class
    ids, by how much a chosen class falls short of the largest logit."""
    engines: list[Engine] = [OnnxRuntime(path), OpenVino(path)] if path.suffix == '.onnx' else [open_engine(path)]
    differences = dict.fromkeys((engine.name for engine in engines), 0.0)
    metadata = ExportMetadata.read(engines[0].metadata, path) if engines[0].metadata else None
    for shape in shapes:
        rng = np.random.default_rng(seed)
        images: np.ndarray = rng.standard_normal(shape, dtype=np.float32)
        given = images
        if metadata and metadata.input == 'uint8':
            given = rng.integers(0, 256, (shape[0], *shape[2:], 3), np.uint8)
            mean, std = np.array(metadata.mean, np.float32), np.array(metadata.std, np.float32)
            images = np.ascontiguousarray(((given - mean) / std).transpose(0, 3, 1, 2))
        expected = reference(images)
        largest = np.abs(expected).max()
        if metadata and metadata.output == 'class_ids' and metadata.align_corners is not None:
            expected = resize_bilinear(expected, shape[2:], metadata.align_corners)
        for engine in engines:
            output = engine(given)
            if metadata and metadata.output == 'class_ids':
                apart = _shortfall(output, expected)
            else:
                same = output.shape == expected.shape and np.isfinite(output).all()
                apart = float(np.abs(output - expected).max()) if same else float('inf')
            differences[engine.name] = max(differences[engine.name], float(apart / largest))
    return differences


def _shortfall(ids: np.ndarray, logits: np.ndarray) -> float:
    """Largest gap between the largest logit and that of a chosen class; ``ids`` (N, ...), ``logits`` (N, C, ...)."""
    ids = ids.astype(np.int64)[:, None]
    if ids.shape != (len(logits), 1, *logits.shape[2:]) or not 0 <= ids.min() <= ids.max() < logits.shape[1]:
        return float('inf')
    return float((logits.max(1, keepdims=True) - np.take_along_axis(logits, ids, 1)).max())
