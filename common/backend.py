"""The protocol that a backend fulfils, and its import, which happens only when the backend is asked for.

Each implementation has a module ``backend.py`` whose functions are the protocol below; the module is the backend.
Arrays go in and out as numpy; parameter names are the canonical ones in both (``weight``, ``bias``, ``running_mean``,
``running_var``), so a state of one loads into the other.
"""

import functools
import importlib
import importlib.metadata
import importlib.util
import inspect
import sys
from pathlib import Path
from typing import Any, Callable, Generator, Iterable, Iterator, Literal, Mapping, Optional, Protocol, Sequence, TypeVar, cast

import numpy as np

from twinseg.common.activations import Arrays, Layer, Watcher
from twinseg.common.checkpoint import LoadReport, RunMeta, State, TrainerState
from twinseg.common.config import Config, Loss
from twinseg.common.errors import BackendError, UserError, nearest, reason_of, require
from twinseg.common.host.version import FRAMEWORKS, available
from twinseg.common.images.averaging import Averaging, HostAveraging
from twinseg.common.images.interpolation import Size
from twinseg.common.parallel.processes import Group
from twinseg.common.plugins import GROUP, PLUGINS, built
from twinseg.common.settings.groups.loss import DETAIL_KERNEL

PACKAGES = {name: f'twinseg.{name}_impl.backend' for name in FRAMEWORKS}
Network = Any  # torch.nn.Module or mindspore.nn.Cell
Builder = TypeVar('Builder', bound=Callable[..., Any])
Models = Mapping[str, Callable[..., Network]]  # name of a network -> its builder
Batch = tuple[np.ndarray, np.ndarray]  # images (N, 3, H, W) and labels
Format = Literal['onnx', 'mindir', 'air']  # formats of exported files
Shape = tuple[Optional[int], ...]  # None: any size


class Predictor(Protocol):
    """Runs a network in evaluation mode on images as they come from a file."""

    def logits(self, images: np.ndarray, size: Optional[Size] = None) -> np.ndarray:
        """uint8 (N, 3, H, W) RGB -> float32 logits (N, C, h, w), at the head's size or resized bilinearly to ``size``."""

    def class_ids(self, images: np.ndarray, size: Optional[Size] = None) -> np.ndarray:
        """uint8 (N, 3, H, W) RGB -> uint8 class ids (N, h, w); ``size`` defaults to the images'."""

    @property
    def averaging(self) -> Averaging:
        """What averages the logits of several views, where the network computes them."""
        return HostAveraging(self.logits)


class StepFigures(Mapping[str, float]):
    """The figures of a training step. Where they lie on a device, they are read when one of them is first asked for: until then
    nobody waits for it."""

    def __init__(self, settle: Callable[[], None]):
        self.settle = settle  # the trainer's, which fills ``figures``
        self.figures: Optional[dict[str, float]] = None

    def __getitem__(self, name: str) -> float:
        return self._filled()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._filled())

    def __len__(self) -> int:
        return len(self._filled())

    def _filled(self) -> dict[str, float]:
        if self.figures is None:
            self.settle()
        assert self.figures is not None
        return self.figures


class Trainer(Protocol):
    """One training step and everything that it changes."""

    def lr_mult_followers(self) -> dict[str, int]:
        """Key of ``lr_mult`` -> number of the parameters that take its factor."""

    def frozen(self) -> dict[str, int]:
        """Pattern of ``freeze`` -> number of the parameters that keep their values."""

    @property
    def ahead(self) -> bool:
        """Whether figures of steps are still on the device."""

    def step(
        self, batches: list[Batch], learning_rate: float, detail_kernel: Sequence[float] = DETAIL_KERNEL
    ) -> Mapping[str, float]:
        """One optimizer step over ``accumulation_step`` batches of uint8 images (N, 3, H, W) and labels: class ids (N, H, W),
        of a classifier (N,) or soft targets (N, K) float32. Each of several processes gives its part of the global batch.
        ``detail_kernel``: weights of boundaries at strides 1, 2 and 4 (see ``schedules.detail_kernels``).

        Returns ``loss`` and its parts (means over the batches), ``loss_scale``, ``overflow`` (1.0: the step was skipped)
        and ``grad_norm`` (global L2 norm after unscaling, before clipping). On a device that decides by itself what a step
        does they are read when they are asked for, which waits for it.
        """

    def settle(self) -> None:
        """Waits for the figures of all steps, reads them at once, and counts those steps."""

    def state(self) -> tuple[State, TrainerState]:
        """Copies of all that a later step depends on: tensors named ``model.*``, ``optimizer.<slot>.*`` (slots ``momentum``,
        ``square_avg``, ``exp_avg``, ``exp_avg_sq``) and ``ema.*``, and what is not a tensor."""

    def load_state(self, tensors: Mapping[str, np.ndarray], meta: TrainerState) -> None:
        """Takes back what ``state`` of either backend gave."""

    def predictor(self, ema: bool = False) -> Predictor:
        """A predictor that shares the current weights, or the averaged ones."""


class Engine(Protocol):
    """A program that runs an exported file on the host."""

    name: str
    shape: Shape  # shape of its input: (N, 3, H, W), or for uint8 images (N, H, W, 3)
    metadata: dict[str, str]

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """float32 (N, 3, H, W), normalised -> float32 logits (N, C, h, w), or what else the file was made for; UserError for a
        shape it was not made for."""


class Backend(Protocol):
    """The functions of ``pytorch_impl/backend.py`` and ``mindspore_impl/backend.py``."""

    name: str
    MODELS: Models

    def setup(
        self, device: Optional[str] = None, *, seed: int = 0, threads: Optional[int] = None, timeout: Optional[int] = None
    ) -> str:
        """Chooses the device (cpu, gpu, ascend; None: the best present) and returns its name. BackendError if absent.

        A process that the backend's launcher started takes the device of its local rank, and meets the others; none waits
        longer than ``timeout`` seconds for another one.
        """

    def devices(self) -> list[str]:
        """The devices that are present (cpu, gpu, ascend), the best one last."""

    def group(self) -> Group:
        """The processes that ``setup`` met; one alone without a launcher."""

    def build_model(self, arch: str, *, seed: Optional[int] = 0, **arguments: Any) -> Network:
        """A network in evaluation mode, initialised from ``seed``; None leaves the weights to ``load_state``, which is quicker.
        UserError for an unknown name or argument."""

    def state(self, network: Network) -> State:
        """Copies of all parameters and buffers under canonical names, in order."""

    def load_state(self, network: Network, state: Mapping[str, np.ndarray], *, partial: bool = False) -> LoadReport:
        """Loads what matches and says so; StateError on a poor match unless ``partial``."""

    def save_native(self, network: Network, path: Path, meta: RunMeta) -> None:
        """Writes the weights under the framework's own names as its own file, with ``meta`` where ``weights.read`` finds it."""

    def forward(self, network: Network, images: np.ndarray, auxiliary: bool = False) -> State:
        """float32 (N, 3, H, W), already normalised -> outputs in evaluation mode: ``logits`` and, if asked, the rest."""

    def loss_and_gradients(
        self, network: Network, images: np.ndarray, labels: np.ndarray, loss: Loss, *, training: bool = False
    ) -> tuple[float, State]:
        """Loss and the gradient of every trainable parameter; batch norm and dropout in evaluation mode by default. ``labels``
        as for ``Trainer.step``, the images already normalised."""

    def make_predictor(self, network: Network, config: Config) -> Predictor:
        """A predictor with the configuration's mean, std and precision."""

    def make_trainer(self, network: Network, config: Config) -> Trainer:
        """A trainer of a network."""

    def make_float64_trainer(self, network: Network, config: Config) -> Trainer:
        """A trainer whose weights and features, but not its losses, are float64: what float32 is judged against. BackendError
        where the backend has none."""

    def make_loader(
        self, samples: Any, batches: Iterable[list], workers: int, timeout: Optional[int] = None
    ) -> Generator[Batch, None, None]:
        """An iterator over batches: ``samples[key]`` for every key of every list that ``batches`` yields, stacked; in order,
        loaded ahead by the framework's own loader. LostError where ``workers`` give no batch within ``timeout`` seconds."""

    def write(
        self,
        network: Network,
        path: Path,
        format: Format,
        *,
        shape: tuple[int, int, int, int],
        dynamic: bool = False,
        metadata: Optional[Mapping[str, str]] = None,
    ) -> None:
        """Writes a network in evaluation mode as a file of ``format``.

        Input ``image`` float32 ``shape`` (N, 3, H, W), already normalised; output ``logits`` at the head's size; with
        ``dynamic`` of any number and size. MINDIR and AIR take and return what ``metadata`` names (see
        ``common.deploy.metadata``), and MINDIR stores it; ONNX gets all that in ``common.deploy.onnx_graph``. BackendError for
        what this backend cannot write, or not here.
        """

    def open_mindir(self, path: Path) -> Engine:
        """A MINDIR file, ready to run on the CPU; UserError when it is broken, BackendError where the backend runs none."""

    def parameters(self, network: Network) -> int:
        """Trainable numbers."""

    def macs(self, network: Network, size: Size) -> int:
        """Multiply-accumulates of convolutions and linear layers for one image of ``size``."""

    def output_stride(self, network: Network) -> Optional[int]:
        """Factor by which the logits are smaller than the image; None for a classifier."""

    def watch(self, network: Network, images: np.ndarray, watcher: Watcher, *, auxiliary: bool = False) -> None:
        """Runs a network in its mode, operator by operator, on normalised images (N, C, H, W) while ``watcher`` looks on."""

    def layers(self, network: Network) -> dict[str, Layer]:
        """The layers (modules without parts) by name, in the order of definition."""

    def set_training(self, network: Network, training: bool) -> None:
        """Training or evaluation mode."""

    def copy_of(self, network: Network, double: bool = False) -> Network:
        """A copy of a network, with ``double`` in float64. BackendError where the backend has none."""

    def activation_gradients(
        self,
        network: Network,
        images: np.ndarray,
        cotangents: Callable[[Sequence[tuple[int, ...]]], Arrays],
        *,
        auxiliary: bool = False,
    ) -> tuple[State, State, dict[str, Arrays]]:
        """Gradients of the sum of outputs times ``cotangents(shapes of the outputs)``: by name of the module those of its
        (first) output at its first call, by name of the parameter, and the inputs of every module at its first call."""

    def module_gradients(
        self, network: Network, name: str, inputs: Arrays, output_gradient: np.ndarray
    ) -> tuple[Arrays, State]:
        """Gradients of one module by itself, for the gradient of its (first) output: those of its inputs, and by name those of
        its parameters."""

    def synchronise(self) -> None:
        """Waits until the device has done all that it was given."""

    def reset_device_memory(self) -> None:
        """Starts a new peak of the device's memory."""

    def device_memory(self) -> Optional[float]:
        """Largest memory of tensors on the device in MB since the last reset; None for the CPU."""

    def accelerator(self) -> dict[str, str | int]:
        """The device beside the CPU (``gpu`` or ``ascend``), or the CPU ``threads`` in use."""


def get_backend(name: str) -> Backend:
    """The backend ``pytorch`` or ``mindspore``; BackendError when its framework is not installed."""
    if name not in PACKAGES:
        raise BackendError(f'no backend {name!r}: choose {" or ".join(PACKAGES)}')
    framework, module = FRAMEWORKS[name], PACKAGES[name]
    require(framework, name)
    backend = cast(Backend, importlib.import_module(module))
    load_installed_plugins()
    for arch, factories in PLUGINS.networks.items():
        if name in factories and arch not in backend.MODELS:
            cast(dict, backend.MODELS)[arch] = built(PLUGINS.networks, arch, name)
    return backend


def load_plugin(path: Path) -> None:
    """Runs a plugin's file, which its user named, and registers what it has; UserError where that fails."""
    if not path.is_file():
        raise UserError(f'--plugin {path}: no such file')
    name = f'twinseg_plugin_{path.stem}'
    specification = importlib.util.spec_from_file_location(name, path)
    if specification is None or specification.loader is None:
        raise UserError(f'--plugin {path}: expected a Python file, FILE.py')
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module  # MindSpore looks for the source there
    try:
        specification.loader.exec_module(module)
    except Exception as error:
        raise UserError(f'--plugin {path}: {type(error).__name__}: {reason_of(error)}') from error
    _register(getattr(module, 'register', None), f'--plugin {path}')


@functools.lru_cache(maxsize=1)
def load_installed_plugins() -> None:
    """Registers what installed packages offer by entry points of the group ``twinseg.plugins``, once; UserError where one
    fails."""
    for point in importlib.metadata.entry_points(group=GROUP):
        try:
            register = point.load()
        except Exception as error:
            raise UserError(f'plugin {point.name} ({point.value}): {reason_of(error)}; uninstall or mend it') from error
        _register(register, f'plugin {point.name}')


def _register(register: Any, source: str) -> None:
    if not callable(register):
        raise UserError(f'{source}: has no function register(plugins)')
    try:
        register(PLUGINS)
    except UserError as error:
        raise UserError(f'{source}: {error}') from None


def preferred(name: Optional[str] = None) -> str:
    """The backend ``name`` where its framework is installed, else the first that is; ``pytorch`` where none is."""
    installed = available()
    return name if name in installed else next(iter(installed), 'pytorch')


def check_shape(given: Sequence[int], expected: Shape, path: Path) -> None:
    """UserError when images of a shape do not go into an exported file."""
    if len(given) != len(expected) or any(side is not None and size != side for size, side in zip(given, expected)):
        wanted = ' x '.join('any' if size is None else str(size) for size in expected)
        raise UserError(
            f'{path}: made for images of {wanted}, given {" x ".join(map(str, given))}; '
            'export again with --size, or with --dynamic for any size'
        )


def used_where(**conditions: Callable[[Any], Any]) -> Callable[[Builder], Builder]:
    """Says of arguments of a network's builder where they have an effect: functions of all its arguments, as attributes."""

    def declare(builder: Builder) -> Builder:
        builder.used_where = conditions  # type: ignore[attr-defined]
        return builder

    return declare


def used_arguments(models: Models, arch: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The builder's arguments that have an effect beside the others, or equal the value used anyway."""
    unused = _unused(models[arch], arguments) if arch in models else {}
    return {key: value for key, value in arguments.items() if key not in unused}


def find_builder(models: Models, arch: str, arguments: Mapping[str, Any]) -> Callable[..., Network]:
    """The builder of a network; UserError for a name or an argument that there is not, or that has no effect."""
    if arch not in models:
        near = nearest(arch, models)
        hint = (
            f'did you mean {near!r}?'
            if near
            else f'there are {", ".join(models)}; a network of a plugin needs --plugin FILE.py'
        )
        raise UserError(f'arch: no network {arch!r}; {hint}')
    known = inspect.signature(models[arch]).parameters
    for key in arguments:
        if key not in known:
            raise UserError(f'model_args: {arch} has no argument {key!r}; it has {", ".join(known)}')
    for key, reason in _unused(models[arch], arguments).items():
        raise UserError(f'model_args: {key} has no effect on {arch} with {reason}: leave it out')
    return models[arch]


def _unused(builder: Callable[..., Network], arguments: Mapping[str, Any]) -> dict[str, str]:
    """Arguments that were given other values than they have anyway and have no effect -> the values on which that depends."""
    defaults = {key: parameter.default for key, parameter in inspect.signature(builder).parameters.items()}
    unused = {}
    for key, condition in getattr(builder, 'used_where', {}).items():
        if key in arguments and arguments[key] != defaults[key]:
            values = _Recorder({**defaults, **arguments})
            if not condition(values):
                unused[key] = ', '.join(f'{name}: {value!r}' for name, value in values.read.items())
    return unused


class _Recorder:
    """Values as attributes; ``read`` holds those that were asked for."""

    def __init__(self, values: Mapping[str, Any]):
        self.values = values
        self.read: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        self.read[name] = self.values[name]
        return self.read[name]
