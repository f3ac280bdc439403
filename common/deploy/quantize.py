"""Static int8 quantisation of an exported ONNX file, calibrated on real images, with what it costs."""

import logging
import os
from pathlib import Path
from typing import Any, Callable, Iterator, Optional

import numpy as np

from twinseg.common.config import Config
from twinseg.common.data.open import open_dataset
from twinseg.common.data.samples import EvaluationImages
from twinseg.common.deploy.exported_file import FilePredictor
from twinseg.common.errors import UserError
from twinseg.common.inference.evaluate import evaluate_file
from twinseg.common.metrics import ImageScores

IR_VERSION = 8  # as the other files have it
OPERATORS = ['Conv', 'ConvTranspose', 'MatMul', 'Gemm']  # where the work is; with Add, OpenVINO 2026.4 crashes on DDRNets
Progress = Optional[Callable[[int, int], None]]


def quantize(
    model: Path, out: Path, config: Config, *, images: int = 64, seed: int = 0, progress: Progress = None
) -> dict[str, Any]:
    """Writes ``model`` with int8 weights (a scale per channel) and uint8 inputs of its OPERATORS between QuantizeLinear and
    DequantizeLinear nodes (QDQ), and evaluates both on the validation split.

    The ranges of the activations are those on ``images`` random ones of the training split, prepared as in evaluation.
    Returns both files' scores (``float32``, ``int8``), the ``loss`` of the first figure in percent points, and sizes in bytes.
    UserError for a file that is no ONNX or that is quantised.
    """
    if model.suffix != '.onnx' or out.suffix != '.onnx':
        raise UserError(f'{model if model.suffix != ".onnx" else out}: int8 is for ONNX; expected a name with .onnx')
    if out.absolute() == model.absolute():
        raise UserError(f'{out}: the model itself; choose another file')
    network = FilePredictor(model, 'onnxruntime')
    part = out.with_name(f'.{out.stem}.{os.getpid()}.onnx')
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _write(model, part, _calibration(network, config, images, seed))
        scores = {
            name: evaluate_file(FilePredictor(path, 'onnxruntime'), config, progress=progress)['scores']
            for name, path in (('float32', model), ('int8', part))
        }
        os.replace(part, out)
    except OSError as error:
        raise UserError(f'{out}: cannot be written ({error.strerror or error})') from None
    finally:
        part.unlink(missing_ok=True)
    found = {name: {key: score.to_json()[key] for key in score.FIGURES} for name, score in scores.items()}
    first = 'top1' if isinstance(scores['int8'], ImageScores) else 'mIoU'
    return {
        'path': str(out),
        'calibrated_on': f'{images} images of {config.data.train_split}',
        **found,
        f'{first} lost': round(found['float32'][first] - found['int8'][first], 4),
        'bytes': {'float32': model.stat().st_size, 'int8': out.stat().st_size},
    }


def _calibration(network: FilePredictor, config: Config, count: int, seed: int) -> Iterator[np.ndarray]:
    """Inputs (N, ...) of the file, random images of the training split without augmentation."""
    dataset = open_dataset(config.data, config.data.train_split)
    size = list(network.size or network.facts.input_size)
    samples = EvaluationImages(dataset, config.augment, size, 'raise') if config.classifies else None
    for index in np.random.default_rng(seed).permutation(len(dataset))[:count]:
        planes = samples[index][0] if samples else dataset.read_image(index).transpose(2, 0, 1)
        yield np.repeat(network.inputs(network.pixels(planes[None])), network.batch or 1, 0)


def _write(model: Path, out: Path, inputs: Iterator[np.ndarray]) -> None:
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def get_next(self) -> Optional[dict[str, np.ndarray]]:
            found = next(inputs, None)
            return None if found is None else {'image': found}

    source = onnx.load(str(model))
    if any(node.op_type == 'QuantizeLinear' for node in source.graph.node):
        raise UserError(f'{model}: is quantised already')
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # advice to prepare the model, which export has done
    try:
        quantize_static(
            str(model),
            str(out),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            op_types_to_quantize=OPERATORS,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    finally:
        root.setLevel(level)
    result = onnx.load(str(out))
    result.ir_version = IR_VERSION
    onnx.helper.set_model_props(result, {item.key: item.value for item in source.metadata_props})
    onnx.checker.check_model(result, full_check=True)
    onnx.save(result, str(out))
