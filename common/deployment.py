"""Before and after a program that runs a model on a card: images to ``.bin`` inputs, ``.bin`` results to scores.

Files are those of the MindSpore model zoo's ascend310_infer programs: ``preprocess_Result/00_data/<name>.bin``, the model's
input of one image (float32 (3, H, W), normalised, or uint8 (H, W, 3)); labels as ``label/<name>_label.bin`` (int32 (H, W)) or,
of a classifier, in ``imagenet_label.json``; ``result_Files/<name>_0.bin``, its output.
"""
import json
import re
from pathlib import Path
from typing import Any, Callable, Literal, NamedTuple, Optional, get_args

import numpy as np

from common import config as configuration
from common.config import Config, Data
from common.data.datasets import open_dataset
from common.data.pipeline import EvaluationImages
from common.errors import DataError, UserError
from common.evaluation import score_images
from common.export import TOLERANCE
from common.exported import Facts, FilePredictor
from common.metrics import ImageScores, Scores, confusion_matrix, judge

INPUTS, LABELS, CLASSES, META = '00_data', 'label', 'imagenet_label.json', 'meta.json'  # below preprocess_Result
SETS = {'imagenet2012': 'imagenet'}  # the model zoo's name -> ours
# Largest difference to ONNX Runtime's float32, of its largest logit. A card multiplies in half precision, which has 11 bits,
# and the errors of some fifty layers add up.
TOLERANCES = {'fp32': TOLERANCE, 'fp16': 3e-2}
ID_TOLERANCES = {'fp32': 1e-3, 'fp16': 3e-2}  # of class ids: share of the pixels that differ
COMPARED = 8  # results, spread over the data set
Precision = Literal['fp32', 'fp16']
Progress = Optional[Callable[[int, int], None]]


class Comparison(NamedTuple):
    """Results against ONNX Runtime's (MindSpore's for a MINDIR): the largest difference, of the largest logit; of class
    ids, the share that differs."""
    difference: float
    tolerance: float
    images: int
    engine: str


def preprocess(model: Path, dataset_name: str, dataset_path: Path, out: Path, config: Optional[Path] = None,
               progress: Progress = None) -> dict[str, Any]:
    """Writes a validation set as inputs and labels into the new folder ``out``.

    ``model`` is the exported .onnx (or .mindir) of one size that says how; ``dataset_name`` is imagenet2012, cityscapes, camvid
    or another set of the suite, ``config`` a recipe with further keys (custom needs one). Returns what it did: ``images``,
    ``input_shape``, ``scaled`` (images of another size than the model's). UserError for a model or a data set that will not do.
    """
    network = FilePredictor(model)
    if network.facts.output != 'logits' and network.facts.task == 'classification':
        raise UserError(f'{model}: its output is class ids, but top-5 needs logits; export it without --argmax')
    if network.size is None:
        raise UserError(f'{model}: made for any size, but cards take fixed ones; export it again with --size')
    chosen = dataset_config(network.facts, dataset_name, dataset_path, config)
    dataset = open_dataset(chosen.data, chosen.data.val_split)
    classifies = chosen.classifies
    samples: Any = EvaluationImages(dataset, chosen.augment, list(network.size), 'raise') if classifies else dataset
    found: list[dict[str, Any]] = []
    scaled = 0
    try:
        for folder in (INPUTS, *(() if classifies else (LABELS,))):
            (out / folder).mkdir(parents=True)
        for index, sample in enumerate(dataset.samples):
            image, label = samples[index] if classifies else dataset.read(index)
            planes = image if classifies else image.transpose(2, 0, 1)
            name = f'{index:06d}_' + re.sub(r'\W+', '_', Path(sample.name).stem, flags=re.ASCII)
            network.inputs(planes[None])[0].tofile(out / INPUTS / f'{name}.bin')
            if classifies:
                found.append({'name': name, 'label': int(label)})
            else:
                label.astype(np.int32).tofile(out / LABELS / f'{name}_label.bin')
                found.append({'name': name, 'label': list(label.shape)})
                scaled += planes.shape[1:] != network.size
            if progress:
                progress(index + 1, len(dataset))
        if classifies:
            _write(out / CLASSES, {sample['name']: sample['label'] for sample in found})
        _write(out / META, {'data': dataset.name, 'split': dataset.split, 'classes': dataset.description.classes,
                            'ignore_index': dataset.description.ignore_index, 'samples': found})
    except FileExistsError:
        raise UserError(f'{out}: is there already; choose another folder') from None
    except OSError as error:
        raise UserError(f'{error.filename or out}: cannot be written ({error.strerror or error})') from None
    entry = f'{network.facts.input} {"x".join(map(str, network.input_shape))}'
    return {'model': str(model), 'task': network.facts.task, 'data': dataset.name, 'split': dataset.split,
            'images': len(dataset), 'input': entry, 'scaled': scaled, 'out': str(out)}


def dataset_config(facts: Facts, name: str, path: Path, config: Optional[Path] = None) -> Config:
    """The configuration of a validation set in the model zoo's names; of ImageNet, ``path`` may be the folder of the split."""
    sets = get_args(Data.model_fields['set'].annotation)
    chosen = SETS.get(name, name)
    if chosen not in sets:
        known = sorted({*SETS, *sets} - {'imagenet'})
        raise UserError(f'DATASET_NAME {name}: not a data set of this suite; expected {", ".join(known)} (custom describes any '
                        'pair of folders)')
    if chosen == 'custom' and config is None:
        raise UserError('DATASET_NAME custom: give the recipe that describes the folders, too (CONFIG=FILE.yaml)')
    keys: dict[str, Any] = {'set': chosen, 'data_url': str(path)}
    if chosen in ('imagenet', 'image_folder') and path.is_dir() and not _has_split(path, 'val'):
        keys |= {'data_url': str(path.resolve().parent), 'val_split': path.resolve().name}
    base = configuration.from_flat(keys) if config is None else configuration.load(config).replace(**keys)
    return facts.configuration(base)


def conversion_facts(model: Path, aipp: bool = False) -> list[str]:
    """What the converters for cards ask about an exported .onnx: the input's format and its name with the shape, a line each;
    with ``aipp`` the configuration of ATC's preprocessing on the chip follows. UserError for a file without fixed sizes."""
    if model.suffix != '.onnx':
        raise UserError(f'{model}: expected an .onnx of `twinseg export`')
    network = FilePredictor(model)
    if network.size is None or network.batch is None:
        raise UserError(f'{model}: made for any size, but cards take fixed ones; export it again with --size')
    raw = network.facts.input == 'uint8'
    if raw and aipp:
        raise UserError(f'{model}: normalises its images itself; leave out --aipp')
    shape = ','.join(map(str, (network.batch, *network.input_shape)))
    lines = ['NHWC' if raw else 'NCHW', f'image:{shape}']
    if aipp:
        height, width = network.size
        lines += ['aipp_op {', '  aipp_mode: static', '  input_format: RGB888_U8', f'  src_image_size_w: {width}',
                  f'  src_image_size_h: {height}', '  crop: false']
        # The chip computes (pixel - mean_chn - min_chn) * var_reci_chn; mean_chn takes whole numbers only.
        for channel, (mean, std) in enumerate(zip(network.facts.mean, network.facts.std)):
            lines += [f'  mean_chn_{channel}: 0', f'  min_chn_{channel}: {mean:.7g}',
                      f'  var_reci_chn_{channel}: {1 / std:.9g}']
        lines.append('}')
    return lines


def postprocess(model: Path, inputs: Path, results: Path, precision: Precision = 'fp32',
                progress: Progress = None) -> tuple[dict[str, Any], Comparison]:
    """Scores the results of the inputs that ``preprocess`` wrote, and compares a sample of them with the exported ``model``.

    Returns ``matrix``, ``scores`` and ``conditions`` as an evaluation does, and the comparison, in the ``precision`` that the
    results were computed with. UserError when a result is absent or of a wrong size.
    """
    network = FilePredictor(model)
    meta = _read(inputs / META)
    names = [sample['name'] for sample in meta['samples']]
    chosen = sorted({round(place) for place in np.linspace(0, len(names) - 1, min(COMPARED, len(names)))})
    expected = network.run(np.stack([network.read_input(inputs / INPUTS / f'{names[index]}.bin') for index in chosen]))
    shape = expected.shape[1:]
    kind = expected.dtype
    found = np.stack([read_result(results, names[index], shape, kind) for index in chosen])
    measure, tolerances = (_difference, TOLERANCES) if network.facts.output == 'logits' else (_share, ID_TOLERANCES)
    comparison = Comparison(measure(found, expected), tolerances[precision], len(chosen), network.engine.name)
    def outcome(sample: dict[str, Any]) -> np.ndarray:
        return read_result(results, sample['name'], shape, kind)[None]

    scores: Scores | ImageScores
    if network.facts.task == 'classification':
        judged = [judge(outcome(sample), np.array([sample['label']])) for sample in meta['samples']]
        scores, matrix = score_images(np.concatenate(judged), meta['classes'], shape[0])
    else:
        classes, ignored = tuple(meta['classes']), meta['ignore_index']
        matrix = np.zeros((len(classes), len(classes)), np.int64)
        for done, sample in enumerate(meta['samples'], 1):
            label = _read_array(inputs / LABELS / f'{sample["name"]}_label.bin', np.int32, tuple(sample['label']))
            ids = network.ids(outcome(sample), (label.shape[0], label.shape[1]))
            matrix += confusion_matrix(label, ids[0], len(classes), ignored)
            if progress:
                progress(done, len(names))
        scores = Scores.from_matrix(matrix, classes)
    conditions = {'model': str(model), 'arch': network.facts.arch, 'data': meta['data'], 'split': meta['split'],
                  'images': len(names), 'precision': precision, **{f'compared_{key}': value
                                                                   for key, value in comparison._asdict().items()}}
    return {'matrix': matrix, 'scores': scores, 'conditions': conditions}, comparison


def read_result(folder: Path, name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """One output of ``shape`` and ``dtype``; float32 may be stored in float16, which its size tells."""
    path = folder / f'{name}_0.bin'
    half = dtype == np.float32 and path.is_file() and path.stat().st_size == 2 * int(np.prod(shape))
    return _read_array(path, np.float16 if half else dtype, shape).astype(dtype)


def _difference(found: np.ndarray, expected: np.ndarray) -> float:
    if not np.isfinite(found).all():
        return float('inf')
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def _share(found: np.ndarray, expected: np.ndarray) -> float:
    return float((found != expected).mean())


def _has_split(root: Path, split: str) -> bool:
    return any(path.name in (split, f'{split}.tar') or path.name.endswith(f'_{split}.tar') for path in root.iterdir())


def _read_array(path: Path, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    try:
        found = np.fromfile(path, dtype)
    except OSError as error:
        raise UserError(f'{path}: {error.strerror or error}; expected a file for every input') from None
    if found.size != np.prod(shape):
        raise UserError(f'{path}: {path.stat().st_size} bytes; expected {int(np.prod(shape)) * found.itemsize} for '
                        f'{" x ".join(map(str, shape))} numbers of {found.dtype}: is it of this model?')
    return found.reshape(shape)


def _write(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values, indent=1) + '\n', encoding='utf-8')


def _read(path: Path) -> dict[str, Any]:
    """What ``preprocess`` noted; UserError where it is not that, or a name leads out of the folder."""
    try:
        meta = json.loads(path.read_text(encoding='utf-8'))
        names = [sample['name'] for sample in meta['samples']]
        if not names or not all(re.fullmatch(r'\w+', name, re.ASCII) for name in names):
            raise ValueError('a name that is none')
        return meta
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise DataError(f'{path}: not what `twinseg preprocess` writes ({error})') from None
