"""What ``trace`` compares: a network in a backend, an exported file in an engine, a folder of recorded tensors."""

from typing import Callable, Mapping, Optional, Protocol, Sequence

import numpy as np

from twinseg.common.activations import Layer, Watcher
from twinseg.common.backend import Backend, Network
from twinseg.common.config import Config

Statistics = tuple[Sequence[float], Sequence[float]]  # mean and std of the images, in uint8 units


class Source(Protocol):
    """One side: something that computes, or what was recorded of it."""

    label: str
    precision: str  # a key of EPSILON
    runs: bool  # False: recorded values, which nothing changes
    has_double: bool  # whether ``double`` gives something

    def prepare(self, images: np.ndarray) -> np.ndarray:
        """uint8 (N, 3, H, W) RGB -> the network's input, float32."""

    def run(self, inputs: np.ndarray, watcher: Watcher) -> None:
        """Computes while ``watcher`` looks on."""

    def layers(self) -> Mapping[str, Layer]:
        """The layers by name, as far as they are known."""

    def double(self) -> Optional['Source']:
        """The same in float64, where there is such a thing."""


class NetworkSource:
    """A network in a backend."""

    runs = True

    def __init__(
        self,
        label: str,
        backend: Backend,
        network: Network,
        statistics: Statistics,
        *,
        precision: str = 'float32',
        auxiliary: bool = False,
    ) -> None:
        self.label, self.backend, self.network, self.precision, self.auxiliary = label, backend, network, precision, auxiliary
        self.mean, self.std = (np.array(values, np.float32).reshape(1, -1, 1, 1) for values in statistics)
        self.config: Optional[Config] = None  # of its training
        self.rebuild: Optional[Callable[[], Network]] = None  # makes the network again, with other weights
        self.written_by_user = False
        self.knows_statistics = True
        self.unloaded: list[str] = []  # tensors of a user's network that its file of weights does not have
        self.has_double = backend.name == 'pytorch' and precision == 'float32'

    def prepare(self, images: np.ndarray) -> np.ndarray:
        """uint8 (N, 3, H, W) RGB -> the network's input, float32."""
        return (images.astype(np.float32) - self.mean) / self.std

    def run(self, inputs: np.ndarray, watcher: Watcher) -> None:
        """Computes while ``watcher`` looks on."""
        self.backend.watch(self.network, inputs, watcher, auxiliary=self.auxiliary)

    def layers(self) -> Mapping[str, Layer]:
        """The layers by name."""
        return self.backend.layers(self.network)

    def double(self) -> Optional['NetworkSource']:
        """The same in float64, where the backend has it."""
        if not self.has_double:
            return None
        network = self.backend.copy_of(self.network, double=True)
        statistics = self.mean.ravel().tolist(), self.std.ravel().tolist()
        return NetworkSource(self.label, self.backend, network, statistics, auxiliary=self.auxiliary)
