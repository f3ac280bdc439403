"""Evaluation of a network on a data set."""

import logging
from typing import Optional

from twinseg.common import tasks
from twinseg.common.backend import Predictor
from twinseg.common.config import Config
from twinseg.common.data.base import OnProgress
from twinseg.common.data.open import open_dataset, unused_files
from twinseg.common.inference import views
from twinseg.common.inference.runs import Run
from twinseg.common.interpolation import Size
from twinseg.common.parallel.processes import ALONE, Group, naming_lost_ranks
from twinseg.common.tasks.base import PLAIN, EvalOptions, Evaluation, MakeLoader

log = logging.getLogger(__name__)


def evaluate_run(run: Run, options: EvalOptions = PLAIN, progress: Optional[OnProgress] = None) -> Evaluation:
    """Evaluates a trained network on its data set; several processes, as torchrun or msrun start them, share the images.

    UserError for an option that is for the other task.
    """
    group = run.backend.group()
    with naming_lost_ranks(group):
        evaluation = evaluate(run.predictor, run.config, run.backend.make_loader, options, group=group, progress=progress)
    conditions = {
        'checkpoint': str(run.path),
        'step': run.meta.step,
        'arch': run.config.model.arch,
        'backend': run.backend.name,
        'device': run.device,
        'processes': group.size,
        **evaluation.conditions,
        'amp_level': run.config.precision.amp_level,
    }
    return Evaluation(evaluation.task, evaluation.scores, evaluation.matrix, conditions)


def evaluate(
    predictor: Predictor,
    config: Config,
    make_loader: MakeLoader,
    options: EvalOptions,
    *,
    window: Optional[Size] = None,
    group: Group = ALONE,
    progress: Optional[OnProgress] = None,
) -> Evaluation:
    """Evaluates any predictor on the data of a configuration; ``window``: size of the windows of ``slide``, by default the crop
    size."""
    task = tasks.of(config.task)
    task.check_options(options, f'set: {config.data.set}')
    dataset = open_dataset(config.data, options.split or config.data.val_split)
    for warning in unused_files(dataset) if group.rank == 0 else ():
        log.warning('%s', warning)
    shown = views.as_published(predictor, config, options, window)
    return task.evaluate(shown, dataset, config, make_loader, options, group, progress)
