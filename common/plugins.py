"""What plugins add without a fork: networks, losses, data sets and callbacks, by name.

A plugin is a Python file (``--plugin FILE.py``) or an installed package with an entry point of the group ``twinseg.plugins``;
its function ``register(plugins)`` is called with this module's ``PLUGINS``. Nothing in a checkpoint or a configuration loads
one: the user names it. ``docs/extend.md`` is the guide.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from twinseg.common.errors import UserError

GROUP = 'twinseg.plugins'  # of entry points
Pair = tuple[Path, Optional[Path]]  # an image and its label image
Reader = Callable[[Path, str], Iterable[Pair]]  # folder of the data set, name of a split -> its images
Factory = Callable[[], Callable[..., Any]]  # imports a framework, and returns what is registered


@dataclass(frozen=True)
class PluginData:
    """A data set of a plugin: its ``reader``, and the meaning of the ids in its label images."""

    reader: Reader
    classes: tuple[str, ...]
    palette: Optional[Sequence[Sequence[int]]] = None  # RGB per class; None: the default palette
    label_map: Optional[Mapping[int, int]] = None  # id in the files -> train id, 255 ignored; None: they are train ids


@dataclass
class Plugins:
    """What plugins have registered."""

    networks: dict[str, dict[str, Factory]] = field(default_factory=dict)  # name -> backend -> factory
    losses: dict[str, dict[str, Factory]] = field(default_factory=dict)
    datasets: dict[str, PluginData] = field(default_factory=dict)
    callbacks: list[Any] = field(default_factory=list)  # see ``training/callbacks.py``

    def network(self, name: str, *, pytorch: Optional[Factory] = None, mindspore: Optional[Factory] = None) -> None:
        """A network, in one backend or in both. Each factory imports its framework and returns the builder, which takes
        ``num_classes``, ``auxiliary`` and what else ``model_args`` may say, and returns a ``Network`` of that backend."""
        self._add('network', self.networks, name, _factories(name, pytorch, mindspore))

    def loss(self, name: str, *, pytorch: Optional[Factory] = None, mindspore: Optional[Factory] = None) -> None:
        """A loss of an output, in one backend or in both. Each factory returns a function of logits (N, C, H, W) float32 and
        labels (N, H, W) integer, 255 ignored, that gives the mean loss of the batch, a tensor of no dimension."""
        self._add('loss', self.losses, name, _factories(name, pytorch, mindspore))

    def dataset(
        self,
        name: str,
        reader: Reader,
        classes: Sequence[str],
        *,
        palette: Optional[Sequence[Sequence[int]]] = None,
        label_map: Optional[Mapping[int, int]] = None,
    ) -> None:
        """A data set for segmentation. ``reader(folder, split)`` gives pairs of paths: an image, and its label image."""
        if not classes or palette is not None and len(palette) != len(classes):
            raise UserError(f'plugin: data set {name}: expected classes, and as many colours')
        self._add('data set', self.datasets, name, PluginData(reader, tuple(classes), palette, label_map))

    def callback(self, callback: Any) -> None:
        """A callback of every training (``twinseg.Callback``)."""
        self.callbacks.append(callback)

    def _add(self, kind: str, known: dict[str, Any], name: str, value: Any) -> None:
        if not isinstance(name, str) or not name.isidentifier():
            raise UserError(f'plugin: {kind} {name!r}: expected a name of letters, digits and _')
        if name in known:
            raise UserError(f'plugin: {kind} {name}: there is one of this name already; choose another')
        known[name] = value


PLUGINS = Plugins()


def built(known: Mapping[str, Mapping[str, Factory]], name: str, backend_name: str) -> Callable[..., Any]:
    """What a plugin has registered under a name for a backend; UserError where it is for the other one alone."""
    if backend_name not in known[name]:
        raise UserError(f'{name}: its plugin has it for {" and ".join(known[name])} alone, not for {backend_name}')
    return known[name][backend_name]()


def _factories(name: str, pytorch: Optional[Factory], mindspore: Optional[Factory]) -> dict[str, Factory]:
    given = {backend: factory for backend, factory in (('pytorch', pytorch), ('mindspore', mindspore)) if factory is not None}
    if not given:
        raise UserError(f'plugin: {name}: give it for pytorch, mindspore or both')
    return given
