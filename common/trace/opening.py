"""What the two words of ``twinseg trace`` name: ``WHAT[@WHERE[:PRECISION]]``."""

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from twinseg.common import weights
from twinseg.common.backend import PACKAGES, Backend, Network, get_backend, preferred
from twinseg.common.config import Config, from_flat
from twinseg.common.config import load as load_recipe
from twinseg.common.deploy.engines import ENGINES
from twinseg.common.errors import UserError, did_you_mean, similar
from twinseg.common.files import home_expanded
from twinseg.common.inference.runs import load_run, network_arguments
from twinseg.common.settings import recipes
from twinseg.common.trace.folder import FolderSource
from twinseg.common.trace.onnx_source import OnnxSource
from twinseg.common.trace.sources import NetworkSource, Source
from twinseg.common.trace.user_networks import open_network
from twinseg.common.weights.by_name import find_weights

PRECISIONS = ('float32', 'float16', 'bfloat16', 'O0', 'O1', 'O2', 'O3')
IN_PYTHON = re.compile(r'(?P<file>.+\.py):(?P<name>[A-Za-z_][\w.]*)$')


@dataclass(frozen=True)
class Word:
    """The parts of ``WHAT[@WHERE[:PRECISION]]``."""

    what: str
    where: Optional[str]  # a backend or an engine
    precision: str

    @classmethod
    def parse(cls, text: str) -> 'Word':
        """UserError for a backend, engine or precision that there is not."""
        what, at, place = text.rpartition('@')
        if not at:
            what, place = text, ''
        where, colon, precision = place.partition(':')
        known = [*PACKAGES, *(engine for engines in ENGINES.values() for engine in engines if engine not in PACKAGES)]
        if at and where not in known:
            raise UserError(
                f'{text}: no backend or engine {where!r}{did_you_mean(similar(where, known), "choose " + ", ".join(known))}'
            )
        if colon and precision not in PRECISIONS:
            raise UserError(f'{text}: no precision {precision!r}; choose {", ".join(PRECISIONS)}')
        return cls(what, where or None, precision or 'float32')


@dataclass(frozen=True)
class OpenOptions:
    """What is known of networks beside their files."""

    weights: Optional[Path] = None  # weights of networks written in Python
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)  # of images, for these and foreign files
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)


def open_source(text: str, options: OpenOptions = OpenOptions()) -> Source:
    """The side that a word names; UserError or StateError for what cannot be opened."""
    word = Word.parse(text)
    if match := IN_PYTHON.match(word.what):
        if word.where not in PACKAGES:
            raise UserError(f'{text}: say which framework it is written in: {word.what}@pytorch or @mindspore')
        return open_network(
            text, Path(match['file']), match['name'], get_backend(word.where), options.weights, (options.mean, options.std)
        )
    path = home_expanded(word.what)
    if path.name.endswith('.onnx.rejected'):  # what `export` leaves of a file that differs
        link = Path(tempfile.mkdtemp(prefix='twinseg-trace-')) / path.stem
        link.symlink_to(path.absolute())
        path = link
    if path.suffix in ENGINES:
        if word.where in PACKAGES and word.where != 'mindspore':
            raise UserError(f'{text}: an exported file runs in an engine: {" or ".join(ENGINES[path.suffix])}')
        return OnnxSource(text, path, word.where, (options.mean, options.std))
    if path.is_dir() and (path / 'trace.json').is_file():
        return FolderSource(text, path)
    if path.name.endswith(('.yaml', '.yml')) or recipes.named(word.what) is not None:
        return _open_recipe(text, word)
    return _open_checkpoint(text, word)


def _open_recipe(text: str, word: Word) -> Source:
    """The network of a recipe with the initial weights of its seed."""
    config = load_recipe(word.what)
    backend = get_backend(word.where or preferred(config.runtime.backend))
    backend.setup('cpu', seed=config.runtime.seed)
    classes = config.model.num_classes
    arguments = network_arguments(config, classes) if classes else config.model.arguments()
    network = backend.build_model(config.model.arch, seed=config.runtime.seed, **arguments)
    return _network(text, word, backend, network, config, arguments)


def _network(
    text: str, word: Word, backend: Backend, network: Network, config: Config, arguments: dict[str, Any]
) -> NetworkSource:
    precision = 'float32'
    if word.precision not in ('float32', 'O0'):
        half = word.precision in ('float16', 'bfloat16')
        precision = word.precision if half else config.precision.dtype
        changed = config.replace(amp_level='O3' if half else word.precision, dtype=precision)
        backend.make_predictor(network, changed)
    statistics = config.augment.mean, config.augment.std
    source = NetworkSource(text, backend, network, statistics, precision=precision, auxiliary=True)
    source.config, source.rebuild = config, lambda: backend.build_model(config.model.arch, seed=None, **arguments)
    return source


def _open_checkpoint(text: str, word: Word) -> Source:
    if word.where is not None and word.where not in PACKAGES:
        raise UserError(f'{text}: {word.where} runs exported files; a checkpoint runs @pytorch or @mindspore')
    path = find_weights(word.what)
    if path.is_dir() or path.suffix == '.safetensors':
        run = load_run(path, word.where, 'cpu')
        backend, network = run.backend, run.network
        level = run.config.precision
        if word.precision == 'float32' and level.amp_level != 'O0':  # float32 unless a word says otherwise
            backend.make_predictor(network, run.config.replace(amp_level='O0'))
        config = run.config
        arguments = network_arguments(config, run.num_classes)
    else:
        converted = weights.load(path)
        backend = get_backend(word.where or preferred())
        backend.setup('cpu')
        network = backend.build_model(converted.arch, seed=None, **converted.arguments)
        backend.load_state(network, converted.state)
        config = from_flat({'arch': converted.arch}, str(path), trusted=True)
        arguments = converted.arguments
    return _network(text, word, backend, network, config, arguments)
