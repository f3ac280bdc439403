"""What a training is made of before its first step: network, run folder, batch, class weights, order of the samples."""

from pathlib import Path
from typing import Callable, Optional

import numpy as np

from twinseg.common import config as configuration
from twinseg.common import console, facts, weights
from twinseg.common.backend import Backend, Network
from twinseg.common.config import Config
from twinseg.common.data.balance import balanced_order, class_counts, class_weights
from twinseg.common.data.base import Dataset
from twinseg.common.errors import UserError
from twinseg.common.files import home_expanded
from twinseg.common.inference.runs import network_arguments, num_classes
from twinseg.common.weights import by_name


def build(backend: Backend, config: Config, dataset: Dataset, quiet: bool = False) -> Network:
    """The network of a configuration for a data set, initialised from the seed or from ``pretrained``; says what it read."""
    arguments = network_arguments(config, classes_of(config, dataset))
    network = backend.build_model(config.model.arch, seed=config.runtime.seed, **arguments)
    model = config.model
    if model.pretrained:
        with console.progress('weights') as progress:
            path = by_name.find_weights(model.pretrained, (lambda line: None) if quiet else print, progress)
        used = None if quiet else facts.of_config(config)
        report = weights.load_pretrained(backend, network, model.arch, path, model.reset_classifier, model.weights_of, used)
        if not quiet:
            print(report)
    return network


def default_folder(config: Config, title: Optional[str], backend_name: str) -> Path:
    """The run folder where none is named: ``work_dir`` of the configuration, else runs/<title or arch>-<backend>."""
    if config.runtime.work_dir:
        return home_expanded(config.runtime.work_dir)
    return Path(f'runs/{title or config.model.arch}-{backend_name}')


def classes_of(config: Config, dataset: Dataset) -> int:
    """Classes of the network for a data set; UserError if the data set has more than ``num_classes``."""
    return num_classes(config, len(dataset.description.classes), dataset.name)


def global_batch(config: Config, devices: int) -> int:
    """Images of a step: of all devices and accumulated batches."""
    return config.data.batch_size * config.optimizer.accumulation_step * devices


def counted_weights(config: Config, training: Dataset) -> Config:
    """The configuration with numbers for class weights that are to be counted on the labels."""
    if not isinstance(config.loss.class_weight, str):
        return config
    counts, sizes = class_counts(training)
    counted = class_weights(counts, config.loss.class_weight, sizes if config.loss.class_weight_of == 'all' else None)
    return configuration.from_flat({**config.flat(), 'class_weight': counted}, trusted=True)  # a class not shown has weight 0


def order_of(config: Config, training: Dataset) -> Optional[Callable[[int], np.ndarray]]:
    """The order of an epoch where it is not the plain one."""
    if config.data.sampling == 'shuffle':
        return None
    return balanced_order(class_counts(training)[0], config.runtime.seed)


def first_step(config: Config, epoch_steps: int, total: int) -> int:
    """The step at which ``start_epoch`` begins."""
    step = config.schedule.start_epoch * epoch_steps
    if step >= total:
        raise UserError(f'start_epoch: {config.schedule.start_epoch} epochs of {epoch_steps} steps leave none of the {total}')
    return step
