"""The suite from Python: ``twinseg.train``, ``evaluate`` and ``export``, thin doors to what the commands of these names do."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping, Optional, Sequence

from twinseg.common import config as configuration
from twinseg.common.backend import Format, load_installed_plugins, preferred
from twinseg.common.config import Config
from twinseg.common.deploy.engines import ENGINES
from twinseg.common.deploy.export import DEFAULT_OPTIONS, ExportOptions, ExportReport, export_checkpoint
from twinseg.common.deploy.exported_file import ExportedNetwork, evaluate_exported
from twinseg.common.deploy.load import load as load
from twinseg.common.inference.evaluate import evaluate_run
from twinseg.common.inference.model import Model
from twinseg.common.inference.runs import load_run, stored_config
from twinseg.common.tasks.base import PLAIN, EvalOptions, Evaluation
from twinseg.common.training import loop, setup
from twinseg.common.training.callbacks import Callback

AnyConfig = str | Path | Mapping[str, Any] | Config  # a recipe's name, a YAML file, flat keys, or a configuration
Settings = Optional[Mapping[str, Any]]


@dataclass(frozen=True)
class Training:
    """A training that came to its end."""

    folder: Path  # the run folder
    backend: str
    scores: Mapping[str, Any]  # of the last evaluation, in per cent, under the field's names

    def load(self, backend: Optional[str] = None, *, device: Optional[str] = None) -> Model:
        """The network of the best checkpoint, ready to predict."""
        return load(self.folder, backend or self.backend, device=device)


def train(
    config: AnyConfig,
    settings: Settings = None,
    *,
    backend: Optional[str] = None,
    device: Optional[str] = None,
    work_dir: Optional[str | Path] = None,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
) -> Training:
    """Trains a network, as ``twinseg train`` does.

    ``settings`` are flat keys over those of ``config``. ``backend``, ``device`` and ``work_dir`` have the command's defaults;
    ``callbacks`` hear of the training (``training/callbacks.py``). UserError for bad input, and Interrupted after a signal.

    >>> run = train('fast_scnn_toy_street', {'max_iters': 2, 'warmup_iters': 0, 'train_samples': 8, 'val_samples': 2},
    ...             device='cpu', work_dir=folder / 'run')  # doctest: +ELLIPSIS
    fast_scnn on ...
    >>> sorted(path.name for path in (folder / 'run' / 'checkpoints').iterdir())
    ['best.safetensors', 'step_00000002.safetensors']
    """
    chosen = _chosen(config, settings)
    name = backend or chosen.runtime.backend or preferred()
    title = Path(config).stem if isinstance(config, (str, Path)) else None
    folder = Path(work_dir) if work_dir is not None else setup.default_folder(chosen, title, name)
    scores = loop.train(chosen, name, device, folder, resume=resume, callbacks=callbacks)
    return Training(folder, name, scores)


def evaluate(
    path: str | Path,
    settings: Settings = None,
    *,
    config: Optional[AnyConfig] = None,
    options: EvalOptions = PLAIN,
    backend: Optional[str] = None,
    device: Optional[str] = None,
    engine: Optional[str] = None,
) -> Evaluation:
    """Scores of a run folder, a checkpoint, the name of one that ships, or an exported file, as ``twinseg eval`` gives them.

    ``config`` and the flat keys ``settings`` say on which data; by default the file's own. ``engine`` is for exported files,
    ``backend`` and ``device`` for the others. Returns scores (``.scores.miou`` ...), the confusion matrix and the conditions;
    ``.to_json()`` has all as JSON. UserError for what cannot be opened.
    """
    path = Path(path)
    if path.suffix in ENGINES:
        network = ExportedNetwork(path, engine)
        data = network.metadata.configuration(None if config is None else _chosen(config))
        return evaluate_exported(network, data.replace(**dict(settings or {})), options)
    chosen = _chosen(stored_config(path) if config is None else config, settings)
    return evaluate_run(load_run(path, backend, device, chosen), options)


def export(
    checkpoint: str | Path,
    out: Optional[str | Path] = None,
    format: Format = 'onnx',
    *,
    options: ExportOptions = DEFAULT_OPTIONS,
    backend: Optional[str] = None,
    device: Optional[str] = None,
) -> ExportReport:
    """Writes a checkpoint or a run as an exported file, runs the file and compares it with the network, as ``twinseg export``
    does. ``out`` is by default ``ARCH.FORMAT`` in the current folder. ExportError where the two differ; UserError for bad
    input."""
    checkpoint = Path(checkpoint)
    chosen = stored_config(checkpoint)
    path = Path(out) if out is not None else Path(f'{chosen.model.arch}.{format}')
    return export_checkpoint(
        checkpoint,
        path,
        format,
        options,
        backend_name=backend or preferred(chosen.runtime.backend),
        device=device,
        config=chosen,
    )


def _chosen(config: AnyConfig, settings: Settings = None) -> Config:
    load_installed_plugins()
    if isinstance(config, (str, Path)):
        config = configuration.load(config)
    elif not isinstance(config, Config):
        config = configuration.from_flat(config)
    return config.replace(**dict(settings)) if settings else config
