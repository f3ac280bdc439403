"""Static int8 quantisation of an exported ONNX file, calibrated on real images, with what it costs."""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Iterator, Optional

import numpy as np
import onnx

from twinseg.common import tasks
from twinseg.common.config import Config
from twinseg.common.data.base import OnProgress
from twinseg.common.data.open import open_dataset
from twinseg.common.deploy.engines import OnnxRuntime, half_weights
from twinseg.common.deploy.exported_file import ExportedNetwork, evaluate_exported
from twinseg.common.deploy.sessions import failure
from twinseg.common.errors import UserError, reason_of, require
from twinseg.common.facts import check, of_config
from twinseg.common.files import written_beside

IR_VERSION = 8  # ONNX IR version, the same as in the exported files
OPERATORS = ['Conv', 'ConvTranspose', 'MatMul', 'Gemm']  # slow operators; with Add, OpenVINO 2026.4 crashes on DDRNets


@dataclass(frozen=True)
class QuantizedFile:
    """An int8 file and what it costs."""

    path: Path
    calibrated_on: str
    float32: dict[str, Any]  # headline scores of the file that it was made from
    int8: dict[str, Any]  # the same of this one
    figure: str  # the one that decides
    bytes: dict[str, int]

    @property
    def lost(self) -> float:
        """Percent points of ``figure``."""
        return round(self.float32[self.figure] - self.int8[self.figure], 4)

    def to_json(self) -> dict[str, Any]:
        """Flat."""
        values = asdict(self)
        figure, sizes = values.pop('figure'), values.pop('bytes')
        return {**values, 'path': str(self.path), f'{figure} lost': self.lost, 'bytes': sizes}


def quantize(
    model: Path, out: Path, config: Config, *, images: int = 64, seed: int = 0, progress: Optional[OnProgress] = None
) -> QuantizedFile:
    """Writes ``model`` with int8 weights (a scale per channel) and uint8 inputs of its OPERATORS between QuantizeLinear and
    DequantizeLinear nodes (QDQ), and evaluates both on the validation split.

    The ranges of the activations are those on ``images`` random ones of the training split, prepared as in evaluation.
    UserError for a file that is no ONNX, that is quantised, or whose weights are in half precision.
    """
    if model.suffix != '.onnx' or out.suffix != '.onnx':
        raise UserError(f'{model if model.suffix != ".onnx" else out}: int8 is for ONNX; expected a name with .onnx')
    if out.absolute() == model.absolute():
        raise UserError(f'{out}: the model itself; choose another file')
    network = ExportedNetwork(model, 'onnxruntime')
    check(network.facts, of_config(config))
    try:
        with written_beside(out) as part:
            _write(model, part, _calibration(network, config, images, seed))
            scores = [
                evaluate_exported(exported, config, progress=progress).scores
                for exported in (network, ExportedNetwork(part, 'onnxruntime'))
            ]
    except OSError as error:
        raise UserError(f'{out}: cannot be written ({reason_of(error)})') from None
    figures = tasks.of(config.task).FIGURES
    before, after = ({key: score.to_json()[key] for key in figures} for score in scores)
    sizes = {'float32': model.stat().st_size, 'int8': out.stat().st_size}
    return QuantizedFile(out, f'{images} images of {"+".join(config.data.train_splits)}', before, after, figures[0], sizes)


def _calibration(network: ExportedNetwork, config: Config, count: int, seed: int) -> Iterator[dict[str, np.ndarray]]:
    """Inputs (N, ...) of the file by their name, random images of the training split without augmentation."""
    dataset = open_dataset(config.data, config.data.train_split)
    samples = tasks.of(config.task).evaluation_samples(dataset, config, network.size or network.metadata.input_size)
    for index in np.random.default_rng(seed).permutation(len(dataset))[:count]:
        planes = samples[index][0]
        images = np.repeat(network.inputs(network.pixels(planes[None])), network.batch or 1, 0)
        assert isinstance(network.engine, OnnxRuntime)
        yield network.engine.feed(images)


def _write(model: Path, out: Path, inputs: Iterator[dict[str, np.ndarray]]) -> None:
    require('onnxruntime', 'deploy')
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def get_next(self) -> Optional[dict[str, np.ndarray]]:
            return next(inputs, None)

    source = onnx.load(str(model))
    if halves := half_weights(model):
        raise UserError(
            f'{model}: {len(halves)} of its weights are float16 numbers (first {halves[0][:80]}), but int8 is made of float32; '
            'give the file that `twinseg export` wrote'
        )
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
    except (UserError, OSError):  # images or the disk may be broken
        raise
    except Exception as error:  # ONNX Runtime's classes share no base
        raise failure(model, 'ONNX Runtime cannot quantise it', error) from None
    finally:
        root.setLevel(level)
    result = onnx.load(str(out))
    result.ir_version = IR_VERSION
    result.graph.name = result.graph.name or 'network'  # ONNX wants one, and engines take files without
    onnx.helper.set_model_props(result, {item.key: item.value for item in source.metadata_props})
    try:
        onnx.checker.check_model(result, full_check=True)
    except Exception as error:  # engines take more than ONNX does, which raises classes of three modules
        raise failure(model, 'ONNX refuses what it becomes in int8', error) from None
    onnx.save(result, str(out))
