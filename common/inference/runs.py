"""Trained networks, ready to run: from a checkpoint file or a run folder."""

import warnings
from pathlib import Path
from typing import Any, NamedTuple, Optional

from twinseg.common import checkpoint, facts, tasks
from twinseg.common import config as configuration
from twinseg.common.backend import Backend, Network, Predictor, get_backend, preferred, used_arguments
from twinseg.common.checkpoint import RunMeta
from twinseg.common.config import Config
from twinseg.common.errors import StateError, UserError
from twinseg.common.facts import Facts
from twinseg.common.inference import views
from twinseg.common.parallel import launch
from twinseg.common.tasks.base import PLAIN, EvalOptions, TrainedNetwork, names_and_colours
from twinseg.common.weights import by_name

SHARED = 'model.safetensors'  # the weights in a folder of ``twinseg card``, as Hugging Face's hub names them


class Run(NamedTuple):
    """A trained network, ready to run."""

    path: Path  # checkpoint file or run folder
    config: Config
    meta: RunMeta
    backend: Backend
    device: str
    network: Network
    predictor: Predictor
    engine: Optional[str] = None  # program that runs the network instead of its framework (``deploy/on_engine.py``)

    @property
    def num_classes(self) -> int:
        """Classes of the network."""
        return num_classes(self.config, self.meta.num_classes, str(self.path))

    @property
    def facts(self) -> Facts:
        """What its checkpoint says of it."""
        return facts.of_checkpoint(self.meta, self.path)

    def trained(self, options: EvalOptions = PLAIN) -> TrainedNetwork:
        """The network as prediction sees it; UserError for an option that is for the other task."""
        count = self.meta.num_classes or self.config.model.num_classes or 0
        classes, palette = names_and_colours(self.meta.classes, self.meta.palette, count)
        task, augment = tasks.of(self.config.task), self.config.augment
        task.check_options(options, str(self.path))
        return TrainedNetwork(
            self.config.task,
            views.as_published(self.predictor, self.config, options),
            augment,
            task.input_size(self.config),
            classes,
            palette,
            white_level=self.config.data.white_level,
            one_size=augment.eval_size is not None,
            device=self.device,
        )


def load_run(
    path: Path, backend_name: Optional[str] = None, device: Optional[str] = None, config: Optional[Config] = None
) -> Run:
    """The network of a checkpoint file, of the name of one that ships, or of a run folder (its best, else its latest).

    The configuration comes from the checkpoint unless one is given, which is compared with what the checkpoint says of itself
    (``facts.check``). Without a ``device`` its own is taken where it is present, else the best present; BackendError where a
    ``device`` that is given is absent. Averaged (EMA) weights are taken where there are any.
    """
    file = find_checkpoint(path)
    state, meta = checkpoint.model_state(file)
    stored = config is None
    if config is None:
        config = configuration.from_flat(meta.config, str(file), trusted=True)
    else:
        no_data = 'set' not in config.flat()  # that of converted weights, whose classes are not those of the default set
        used = facts.of_config(config, stated_only=no_data)
        facts.check(facts.of_checkpoint(meta, path), used, quiet=launch.rank() > 0)
    backend = get_backend(backend_name or preferred(config.runtime.backend or meta.backend))
    device = backend.setup(
        device or _device_present(backend, config, meta, path),
        seed=config.runtime.seed,
        threads=config.runtime.threads,
        timeout=config.runtime.collective_timeout,
    )
    classes = num_classes(config, meta.num_classes, str(file))
    if stored or config.model.model_args == meta.config.get('model_args'):  # earlier versions took what has no effect
        effective = used_arguments(backend.MODELS, config.model.arch, config.model.arguments())
        config = config.replace(model_args={key: value for key, value in config.model.model_args.items() if key in effective})
    network = backend.build_model(config.model.arch, seed=None, **network_arguments(config, classes))
    try:
        backend.load_state(network, state)
    except StateError as error:
        raise StateError(f'{file}: for {config.model.arch}: {error}') from None
    return Run(path, config, meta, backend, device, network, backend.make_predictor(network, config))


def _device_present(backend: Backend, config: Config, meta: RunMeta, path: Path) -> str:
    """The configuration's device where it is present, else the best present: where a network was trained, or was to be
    trained, is a fact and no demand. One line says so where that device is absent."""
    present = backend.devices()
    target = (config.runtime.device_target or '').lower()
    if target in present:
        return target
    trained = target or (meta.device or '').lower()
    if trained and trained not in present:
        warnings.warn(f'{path}: trained for {trained}, which is not present here: it runs on {present[-1]}', stacklevel=2)
    return present[-1]


def num_classes(config: Config, known: Optional[int], source: str) -> int:
    """Classes of the network: ``num_classes`` of the configuration, else the ``known`` ones of ``source``, a data set or a
    checkpoint. UserError where the configuration says less than ``known``, StateError where neither says anything."""
    if config.model.num_classes is None:
        if known is None:
            raise StateError(f'{source}: does not say how many classes it has; set num_classes')
        return known
    if known is not None and config.model.num_classes < known:
        raise UserError(f'num_classes: {config.model.num_classes}, but {source} has {known} classes')
    return config.model.num_classes


def network_arguments(config: Config, classes: int) -> dict[str, Any]:
    """Arguments for the network's builder."""
    return {'num_classes': classes, **config.model.arguments()}


def find_checkpoint(path: Path) -> Path:
    """The checkpoint file itself, or one that ships under that name; of a run folder the best one, else the latest; of a folder
    of ``twinseg card`` its weights."""
    path = by_name.find_checkpoint(path)
    if not path.is_dir():
        return path
    if (path / SHARED).is_file():
        return path / SHARED
    folder = path / checkpoint.FOLDER
    best = folder / checkpoint.BEST
    newest = best if best.is_file() else checkpoint.latest(folder)
    if newest is None:
        raise StateError(f'{path}: holds no readable checkpoint')
    return newest


def stored_config(path: Path) -> Config:
    """The configuration that a checkpoint (or a run folder's checkpoint) carries, but for the folder that its run wrote to: a
    file of somebody else names nothing that a command of this user writes to."""
    path = find_checkpoint(path)
    config = configuration.from_flat(checkpoint.read_meta(path).config, str(path), trusted=True)
    return config.replace(work_dir=None)


def stored_facts(path: Path) -> Facts:
    """What a checkpoint (or a run folder's checkpoint) says of its network."""
    return facts.of_checkpoint(checkpoint.read_meta(find_checkpoint(path)), path)
