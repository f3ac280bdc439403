"""Evaluation of a network on a data set."""

import logging
from functools import partial
from typing import Optional

from twinseg.common import tasks
from twinseg.common.backend import Predictor
from twinseg.common.config import Config
from twinseg.common.data.base import OnProgress
from twinseg.common.data.open import is_trained_on, open_validation, trained_on, unused_files
from twinseg.common.facts import Facts, check_dataset
from twinseg.common.inference import views
from twinseg.common.inference.runs import Run
from twinseg.common.parallel.processes import ALONE, Group, naming_lost_ranks
from twinseg.common.tasks.base import PLAIN, EvalOptions, Evaluation, MakeLoader

log = logging.getLogger(__name__)


def evaluate_run(run: Run, options: EvalOptions = PLAIN, progress: Optional[OnProgress] = None) -> Evaluation:
    """Evaluates a trained network on its data set; several processes, as torchrun or msrun start them, share the images.

    UserError for an option that is for the other task.
    """
    group = run.backend.group()
    with naming_lost_ranks(group):
        shown = views.as_published(run.predictor, run.config, options)
        make_loader = partial(run.backend.make_loader, timeout=run.config.data.data_timeout)
        evaluation = evaluate(shown, run.facts, run.config, make_loader, options, group, progress)
    conditions = {
        'checkpoint': str(run.path),
        'step': run.meta.step,
        'arch': run.config.model.arch,
        'backend': run.backend.name,
        'device': run.device,
        **({'engine': run.engine} if run.engine else {}),
        'processes': group.size,
        **evaluation.conditions,
        'amp_level': run.config.precision.amp_level,
    }
    return Evaluation(evaluation.task, evaluation.scores, evaluation.matrix, conditions)


def evaluate(
    predictor: Predictor,
    stored: Facts,
    config: Config,
    make_loader: MakeLoader,
    options: EvalOptions,
    group: Group = ALONE,
    progress: Optional[OnProgress] = None,
) -> Evaluation:
    """Evaluates any predictor, behind the views that it is to be scored on, on the data of a configuration.

    StateError where the facts ``stored`` with its network say that it is for other classes.
    """
    task = tasks.of(config.task)
    task.check_options(options, f'set: {config.data.set}')
    dataset = open_validation(config.data, options.split)
    warnings = unused_files(dataset)
    if is_trained_on(config.data, dataset.split):
        warnings.append(trained_on(dataset.name, config.data.train_splits, dataset.split))
    for warning in warnings if group.rank == 0 else ():
        log.warning('%s', warning)
    check_dataset(stored, dataset, config, quiet=group.rank > 0)
    return task.evaluate(predictor, dataset, config, make_loader, options, group, progress)
