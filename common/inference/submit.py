"""Predictions in the form that the test servers of Cityscapes and Pascal VOC take."""

import tarfile
import zipfile
from pathlib import Path
from typing import Any, Callable, Optional

import numpy as np
from PIL import Image

from twinseg.common.config import Config
from twinseg.common.data.base import Dataset
from twinseg.common.data.classes import CITYSCAPES_LABEL_IDS, VOC_PALETTE
from twinseg.common.data.open import open_files
from twinseg.common.errors import UserError
from twinseg.common.inference.evaluate import class_ids, load_run, published_views

# Below the folder: where each server looks for the prediction of an image, and the archive that it takes.
PLACES = {
    'cityscapes': ('{name}_pred_labelIds.png', 'cityscapes.zip'),  # cityscapesScripts looks for <city>_<sequence>_<frame>*.png
    'voc': ('results/VOC2012/Segmentation/comp6_{split}_cls/{name}.png', 'voc.tgz'),  # comp6: trained on more than VOC's data
}


def submit(
    path: Path,
    out: Path,
    backend_name: Optional[str] = None,
    device: Optional[str] = None,
    config: Optional[Config] = None,
    *,
    split: str = 'test',
    ms_flip: bool = False,
    slide: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Writes the predictions of a checkpoint for every image of a split, and one archive of all of them, into a folder.

    Cityscapes: label ids (7 for road, ...), grey; Pascal VOC: class ids with the data set's colours. Both at the size of the
    image. Labels are not needed. Returns what was written; UserError for other data sets.
    """
    run = load_run(path, backend_name, device, config)
    kind = run.config.data.set
    if kind not in PLACES:
        raise UserError(f'set: {kind}: there is no test server for it; there is one for {" and ".join(PLACES)}')
    dataset = open_files(run.config.data, split, check=False)
    views = published_views(run.config, ms_flip, slide)
    place, archive = PLACES[kind]
    names = [place.format(name=sample.name, split=split) for sample in dataset.samples]
    try:
        for index, name in enumerate(names):
            planes = np.ascontiguousarray(dataset.read_image(index).transpose(2, 0, 1))
            picture = _picture(class_ids(run.predictor, planes[None], views)[0], dataset)
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            picture.save(out / name)
            progress(index + 1, len(names))
        _pack(out, names, out / archive)
    except OSError as error:
        raise UserError(f'{error.filename or out}: cannot be written ({error.strerror or error})') from None
    return {
        'archive': str(out / archive),
        'images': len(names),
        'first': names[0],
        'split': split,
        'ms_flip': ms_flip,
        'slide': slide,
        'eval_size': run.config.augment.eval_size,
    }


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
