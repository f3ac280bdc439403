"""Predictions in the form that the test servers of Cityscapes and Pascal VOC take."""

import tarfile
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Optional, Sequence

import numpy as np
from PIL import Image

from twinseg.common.data.base import Dataset, OnProgress
from twinseg.common.data.classes import CITYSCAPES_LABEL_IDS, VOC_PALETTE
from twinseg.common.data.open import open_files
from twinseg.common.errors import UserError, reason_of
from twinseg.common.files import is_text, written_beside
from twinseg.common.inference import views
from twinseg.common.inference.runs import Run
from twinseg.common.tasks.base import PLAIN, EvalOptions

# Below the folder: where each server looks for the prediction of an image, and the archive that it takes.
LAYOUTS = {
    'cityscapes': ('{name}_pred_labelIds.png', 'cityscapes.zip'),  # cityscapesScripts looks for <city>_<sequence>_<frame>*.png
    'voc': ('results/VOC2012/Segmentation/comp6_{split}_cls/{name}.png', 'voc.tgz'),  # comp6: trained on more than VOC's data
}


@dataclass(frozen=True)
class Submission:
    """The files of a submission."""

    archive: Path
    images: int
    first: str  # prediction, below the folder
    split: str
    ms_flip: bool
    scales: Sequence[float]
    flip: bool
    slide: bool
    eval_size: Optional[Sequence[int]]

    def to_json(self) -> dict[str, Any]:
        """Flat."""
        return {**asdict(self), 'archive': str(self.archive)}


def submit(run: Run, out: Path, options: EvalOptions = PLAIN, progress: Optional[OnProgress] = None) -> Submission:
    """Writes the predictions of a network for every image of a split (by default ``test``), and one archive of all of them,
    into a folder.

    Cityscapes: label ids (7 for road, ...), grey; Pascal VOC: class ids with the data set's colours. Both at the size of the
    image. Labels are not needed. UserError for other data sets.
    """
    kind, split = run.config.data.set, options.split or 'test'
    if kind not in LAYOUTS:
        raise UserError(f'set: {kind}: there is no test server for it; there is one for {" and ".join(LAYOUTS)}')
    dataset = open_files(run.config.data, split, check=False)
    predictor = views.as_published(run.predictor, run.config, options)
    layout, archive = LAYOUTS[kind]
    names = [layout.format(name=sample.name, split=split) for sample in dataset.samples]
    for name in names:
        if not is_text(name):
            raise UserError(f'{name}: test servers take names in UTF-8 only; rename the image')
    try:
        for index, name in enumerate(names):
            planes = np.ascontiguousarray(dataset.read_image(index).transpose(2, 0, 1))
            picture = _picture(predictor.class_ids(planes[None])[0], dataset)
            with written_beside(out / name, synced=False) as part:
                picture.save(part)
            if progress:
                progress(index + 1, len(names))
        with written_beside(out / archive) as part:
            _pack(out, names, part)
    except OSError as error:
        raise UserError(f'{error.filename or out}: cannot be written ({reason_of(error)})') from None
    augment, shown = run.config.augment, options.of(run.config.augment)
    views_shown = shown.ms_flip, shown.scales, shown.flip, shown.slide
    return Submission(out / archive, len(names), names[0], split, *views_shown, augment.eval_size)


def _picture(ids: np.ndarray, dataset: Dataset) -> Image.Image:
    if dataset.name == 'cityscapes':
        return Image.fromarray(np.array(CITYSCAPES_LABEL_IDS, np.uint8)[ids])
    picture = Image.fromarray(ids, 'P')
    picture.putpalette(np.ravel(VOC_PALETTE).tolist())
    return picture


def _pack(out: Path, names: list[str], archive: Path) -> None:
    if archive.suffix == '.zip':
        with zipfile.ZipFile(archive, 'w') as packed:
            for name in names:
                packed.write(out / name, name)
        return
    with tarfile.open(archive, 'w:gz') as tar:
        for name in names:
            tar.add(out / name, name)
