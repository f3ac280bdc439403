"""The arithmetic with which logits of several views of an image are averaged, on a host; backends have it for their devices."""

from typing import Any, Callable, Protocol

import cv2
import numpy as np

from twinseg.common.images.interpolation import Size, largest

Logits = Callable[[np.ndarray, Size], Any]  # see ``Averaging.logits``


class Averaging(Protocol):
    """Logits (N, C, H, W), float32, and what is done to them where a predictor computes them: arrays are the framework's."""

    logits: Logits  # uint8 (N, 3, H, W) RGB and a size -> the logits at it

    def zeros(self, shape: tuple[int, ...], like: Any) -> Any:
        """An array of zeros, float32, where ``like`` lies."""

    def add(self, x: Any, y: Any) -> Any:
        """x + y; ``x`` may be written over."""

    def log_add_exp(self, x: Any, y: Any) -> Any:
        """log(exp(x) + exp(y)), also where the exponentials are too large for float32."""

    def softmax(self, logits: Any) -> Any:
        """Class probabilities."""

    def mirrored(self, x: Any) -> Any:
        """Left and right exchanged."""

    def resized(self, x: Any, size: Size) -> Any:
        """Resized bilinearly to ``size``."""

    def class_ids(self, x: Any) -> np.ndarray:
        """uint8 (N, H, W): the channel of the largest number."""

    def on_host(self, x: Any) -> np.ndarray:
        """The same numbers as a NumPy array."""


class HostAveraging:
    """``Averaging`` in NumPy."""

    def __init__(self, logits: Logits):
        self.logits = logits

    def zeros(self, shape: tuple[int, ...], like: np.ndarray) -> np.ndarray:
        return np.zeros(shape, np.float32)

    def add(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        x += y
        return x

    def log_add_exp(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        result: np.ndarray = np.logaddexp(x, y)
        return result

    def softmax(self, logits: np.ndarray) -> np.ndarray:
        power = logits - logits.max(1, keepdims=True)
        np.exp(power, out=power)
        power /= power.sum(1, keepdims=True)
        return power

    def mirrored(self, x: np.ndarray) -> np.ndarray:
        return x[..., ::-1]

    def resized(self, x: np.ndarray, size: Size) -> np.ndarray:
        return np.stack([np.stack([cv2.resize(plane, size[::-1]) for plane in planes]) for planes in x])

    def class_ids(self, x: np.ndarray) -> np.ndarray:
        ids = np.zeros((len(x), *x.shape[2:]), np.uint8)
        for planes, result in zip(x, ids):
            largest(planes, result)
        return ids

    def on_host(self, x: np.ndarray) -> np.ndarray:
        return x
