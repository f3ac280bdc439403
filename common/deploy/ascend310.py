"""Steps before and after a program that runs a model on a card: images to ``.bin`` inputs, ``.bin`` results to scores.

Files are those of the MindSpore model zoo's ascend310_infer programs: ``preprocess_Result/00_data/<name>.bin``, the model's
input of one image (float32 (3, H, W), normalised, or uint8 (H, W, 3)); labels as ``label/<name>_label.bin`` (int32 (H, W)) or,
of a classifier, in ``imagenet_label.json``; ``result_Files/<name>_0.bin``, its output.
"""

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Iterator, Literal, NamedTuple, Optional, get_args

import numpy as np
from pydantic import BaseModel, Field, NonNegativeInt, PositiveInt, ValidationError

from twinseg.common import config as configuration
from twinseg.common import tasks
from twinseg.common.config import Config, Data
from twinseg.common.data.base import OnProgress
from twinseg.common.data.open import open_validation
from twinseg.common.deploy.engines import OnnxRuntime, half_weights
from twinseg.common.deploy.exported_file import ExportedNetwork
from twinseg.common.deploy.metadata import ExportMetadata
from twinseg.common.deploy.verify import TOLERANCE
from twinseg.common.errors import DataError, UserError, reason_of
from twinseg.common.facts import Facts, check, check_dataset
from twinseg.common.files import read_bounded, resolved, write_text
from twinseg.common.settings.groups.data import IMAGE_FOLDERS
from twinseg.common.tasks.base import Evaluation
from twinseg.common.tasks.card_files import read_array, text

INPUTS, META = '00_data', 'meta.json'  # below preprocess_Result
SETS = {'imagenet2012': 'imagenet'}  # the model zoo's name -> ours
# Largest difference to ONNX Runtime, of its largest logit. A card multiplies in half precision, which has 11 bits, and the
# errors of some fifty layers add up; engines round int8 differently.
TOLERANCES = {'fp32': TOLERANCE, 'fp16': 3e-2, 'int8': 1e-1}
ID_TOLERANCES = {'fp32': 1e-3, 'fp16': 3e-2, 'int8': 1e-1}  # largest share of the pixels whose class ids differ
COMPARED = 8  # results, spread over the data set
MAX_META = 1 << 28  # bytes: those of a million images
CardPrecision = Literal['fp32', 'fp16', 'int8']


class PreparedImage(BaseModel):
    """An image as ``preprocess`` wrote it: the name of its files, and the number of its class or the size of its label."""

    name: str = Field(pattern='^[0-9A-Za-z_]+$')
    label: NonNegativeInt | tuple[PositiveInt, PositiveInt]


class Prepared(BaseModel):
    """Metadata that ``preprocess`` writes beside its files."""

    data: str
    split: str
    classes: tuple[str, ...]
    ignore_index: int
    input: Literal['float32', 'float16', 'uint8']
    input_shape: tuple[PositiveInt, PositiveInt, PositiveInt]
    samples: tuple[PreparedImage, ...] = Field(min_length=1)


@dataclass(frozen=True)
class Preprocessed:
    """Result of ``preprocess``."""

    model: str
    task: str
    data: str
    split: str
    images: int
    input: str  # dtype and shape of one
    scaled: int  # images of another size than the model's
    out: str

    def to_json(self) -> dict[str, Any]:
        """Flat."""
        return asdict(self)


class Comparison(NamedTuple):
    """Results against those of ``engine``: the largest difference, in ``unit``."""

    difference: float
    tolerance: float
    unit: Literal['of the largest logit', 'of the class ids']
    images: int
    engine: str


def preprocess(
    model: Path,
    dataset_name: str,
    dataset_path: Path,
    out: Path,
    config: Optional[Path] = None,
    *,
    uint8: bool = False,
    progress: Optional[OnProgress] = None,
) -> Preprocessed:
    """Writes a validation set as inputs and labels into the new folder ``out``.

    ``model`` is the exported .onnx (or .mindir) of one size that says how; ``dataset_name`` is imagenet2012, cityscapes, camvid
    or another set of the suite, ``config`` a recipe with further keys (custom needs one). With ``uint8`` inputs are not
    normalised, whatever ``model`` takes: the card does it (AIPP). UserError for a model or a data set that will not do.
    """
    network = ExportedNetwork(model)
    task = tasks.of(network.metadata.task)
    if network.metadata.output not in task.SCORED_OUTPUTS:
        raise UserError(f'{model}: its output is class ids, but top-5 needs logits; export it without --argmax')
    if network.size is None:
        raise UserError(f'{model}: made for any size, but cards take fixed ones; export it again with --size')
    chosen = dataset_config(network.metadata, dataset_name, dataset_path, config)
    dataset = open_validation(chosen.data)
    check_dataset(network.facts, dataset, chosen)
    images = task.evaluation_samples(dataset, chosen, network.size)
    names = [
        f'{index:06d}_' + re.sub(r'\W+', '_', Path(sample.name).stem, flags=re.ASCII)
        for index, sample in enumerate(dataset.samples)
    ]
    scaled, given = 0, np.empty(0)

    def write_inputs() -> Iterator[tuple[str, np.ndarray]]:
        """Yields name and label of each image whose input it has written."""
        nonlocal scaled, given
        for index, name in enumerate(names):
            planes, label = images[index]
            scaled += planes.shape[1:] != network.size
            pixels = network.pixels(planes[None])
            given = (pixels if uint8 else network.inputs(pixels).astype(network.input_type))[0]
            given.tofile(out / INPUTS / f'{name}.bin')
            yield name, label
            if progress:
                progress(index + 1, len(names))

    try:
        (out / INPUTS).mkdir(parents=True)
        labels = task.write_labels(out, write_inputs())
        prepared = Prepared(
            data=dataset.name,
            split=dataset.split,
            classes=dataset.description.classes,
            ignore_index=dataset.description.ignore_index,
            input=given.dtype.name,  # type: ignore
            input_shape=given.shape,
            samples=tuple(PreparedImage(name=name, label=label) for name, label in labels),
        )
        write_text(out / META, prepared.model_dump_json(indent=1) + '\n')
    except FileExistsError:
        raise UserError(f'{out}: is there already; choose another folder') from None
    except OSError as error:
        raise UserError(f'{error.filename or out}: cannot be written ({reason_of(error)})') from None
    return Preprocessed(
        str(model),
        task.NAME,
        dataset.name,
        dataset.split,
        len(dataset),
        f'{given.dtype} {text(given.shape)}',
        scaled,
        str(out),
    )


def dataset_config(metadata: ExportMetadata, name: str, path: Path, config: Optional[Path] = None) -> Config:
    """The configuration of a validation set in the model zoo's names; of ImageNet, ``path`` may be the folder of the split."""
    sets = get_args(Data.model_fields['set'].annotation)
    chosen = SETS.get(name, name)
    if chosen not in sets:
        known = sorted({*SETS, *sets} - {'imagenet'})
        raise UserError(
            f'DATASET_NAME {name}: not a data set of this suite; expected {", ".join(known)} (custom describes any '
            'pair of folders)'
        )
    if chosen == 'custom' and config is None:
        raise UserError('DATASET_NAME custom: give the recipe that describes the folders, too (CONFIG=FILE.yaml)')
    keys: dict[str, Any] = {'set': chosen, 'data_url': str(path)}
    if chosen in IMAGE_FOLDERS and path.is_dir() and not _has_split(path, 'val'):
        keys |= {'data_url': str(resolved(path).parent), 'val_split': resolved(path).name}
    base = configuration.from_flat(keys) if config is None else configuration.load(config).replace(**keys)
    return metadata.configuration(base)


def conversion_facts(model: Path, aipp: bool = False) -> list[str]:
    """Facts of an exported .onnx for the cards' converters: the input's format and its name with the shape, a line each;
    with ``aipp`` the configuration of ATC's preprocessing on the chip follows. UserError for a file without fixed sizes."""
    if model.suffix != '.onnx':
        raise UserError(f'{model}: expected an .onnx of `twinseg export`')
    network = ExportedNetwork(model)
    if network.size is None or network.batch is None:
        raise UserError(f'{model}: made for any size, but cards take fixed ones; export it again with --size')
    raw = network.metadata.input == 'uint8'
    if raw and aipp:
        raise UserError(f'{model}: normalises its images itself; leave out --aipp')
    assert isinstance(network.engine, OnnxRuntime)
    lines = ['NHWC' if raw else 'NCHW', f'{network.engine.input}:{",".join(map(str, network.engine.shape))}']
    if aipp:
        height, width = network.size
        lines += [
            'aipp_op {',
            '  aipp_mode: static',
            '  input_format: RGB888_U8',
            f'  src_image_size_w: {width}',
            f'  src_image_size_h: {height}',
            '  crop: false',
        ]
        # The chip computes (pixel - mean_chn - min_chn) * var_reci_chn; mean_chn takes whole numbers only.
        for channel, (mean, std) in enumerate(zip(network.metadata.mean, network.metadata.std)):
            lines += [
                f'  mean_chn_{channel}: 0',
                f'  min_chn_{channel}: {mean:.7g}',
                f'  var_reci_chn_{channel}: {1 / std:.9g}',
            ]
        lines.append('}')
    return lines


def postprocess(
    model: Path, inputs: Path, results: Path, precision: CardPrecision = 'fp32', progress: Optional[OnProgress] = None
) -> tuple[Evaluation, Comparison]:
    """Scores the results of the inputs that ``preprocess`` wrote, and compares a sample of them with the exported ``model``, in
    the ``precision`` that the results were computed with, half at best where the model's weights are. UserError when a result
    is absent or of a wrong size."""
    network, prepared = ExportedNetwork(model), _read(inputs / META)
    if precision == 'fp32' and half_weights(model):
        precision = 'fp16'
    task, images = tasks.of(network.metadata.task), prepared.samples
    if not all(task.fits(image.label) for image in images):
        raise DataError(f'{inputs}: was not written for {task.NAME}, which {model} is for')
    count = max(len(prepared.classes), network.metadata.num_classes if not network.metadata.classes else 0)
    check(network.facts, Facts(str(inputs), task.NAME, prepared.data, num_classes=count, classes=prepared.classes))
    chosen = sorted({round(index) for index in np.linspace(0, len(images) - 1, min(COMPARED, len(images)))})
    given = np.stack(
        [read_array(inputs / INPUTS / f'{images[index].name}.bin', prepared.input, prepared.input_shape) for index in chosen]
    )
    raw = prepared.input == 'uint8' and network.metadata.input != 'uint8'  # the card normalises them
    expected = network.run(network.inputs(given) if raw else given)

    def result(image: PreparedImage) -> np.ndarray:
        return read_result(results, image.name, expected.shape[1:], expected.dtype)[None]

    def all_results() -> Iterator[np.ndarray]:
        for done, image in enumerate(images, 1):
            yield result(image)
            if progress:
                progress(done, len(images))

    comparison = _compare(np.concatenate([result(images[index]) for index in chosen]), expected, precision, network)
    scores, matrix = task.score_outputs(
        all_results(),
        [(image.name, image.label) for image in images],
        inputs,
        network.ids,
        prepared.classes,
        prepared.ignore_index,
    )
    conditions = {
        'model': str(model),
        'arch': network.metadata.arch,
        'data': prepared.data,
        'split': prepared.split,
        'images': len(images),
        'precision': precision,
        **{f'compared_{key}': value for key, value in comparison._asdict().items()},
    }
    return Evaluation(task.NAME, scores, matrix, conditions), comparison


def read_result(folder: Path, name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """One output of ``shape`` and ``dtype``; float32 may be stored in float16, which its size tells."""
    path = folder / f'{name}_0.bin'
    half = dtype == np.float32 and path.is_file() and path.stat().st_size == 2 * int(np.prod(shape))
    return read_array(path, np.float16 if half else dtype, shape).astype(dtype)


def _compare(results: np.ndarray, expected: np.ndarray, precision: CardPrecision, network: ExportedNetwork) -> Comparison:
    if network.metadata.output == 'class_ids':
        return Comparison(
            float((results != expected).mean()), ID_TOLERANCES[precision], 'of the class ids', len(results), network.engine.name
        )
    difference = float(np.abs(results - expected).max() / np.abs(expected).max())
    return Comparison(
        difference if np.isfinite(difference) else float('inf'),
        TOLERANCES[precision],
        'of the largest logit',
        len(results),
        network.engine.name,
    )


def _has_split(root: Path, split: str) -> bool:
    return any(path.name in (split, f'{split}.tar') or path.name.endswith(f'_{split}.tar') for path in root.iterdir())


def _read(path: Path) -> Prepared:
    """The metadata that ``preprocess`` wrote; DataError where it is not that, or a name leads out of the folder."""
    try:
        return Prepared.model_validate_json(read_bounded(path, MAX_META))
    except OSError as error:
        raise DataError(f'{path}: {reason_of(error)}; expected what `twinseg preprocess` writes') from None
    except ValidationError:
        raise DataError(f'{path}: not what `twinseg preprocess` writes') from None
