"""Programs that run an exported file on the host CPU: ONNX Runtime and OpenVINO for ONNX, MindSpore itself for MINDIR.

Each is a ``common.backend.Engine``.
"""

from pathlib import Path
from typing import Optional

import numpy as np
import onnx

from twinseg.common.backend import Engine, Shape, check_shape, get_backend
from twinseg.common.deploy import sandbox
from twinseg.common.deploy.onnx_check import MAX_FILE
from twinseg.common.deploy.sandbox import MEMORY
from twinseg.common.deploy.sessions import failure, onnxruntime_session, openvino_model
from twinseg.common.errors import UserError, reason_of, require
from twinseg.common.host.memory import limited_memory

ENGINES = {'.onnx': ('onnxruntime', 'openvino'), '.mindir': ('mindspore',)}  # engines by suffix, the usual one first


def open_engine(path: Path, name: Optional[str] = None, threads: int = 0) -> Engine:
    """The engine for a file, by its suffix, or the one of ``ENGINES`` that is named; UserError when the file is absent, broken
    or of another kind. ``threads`` 0 means the engine's choice."""
    if not path.is_file():
        raise UserError(f'{path}: no such file')
    if path.suffix not in ENGINES:
        raise UserError(f'{path}: cannot run {path.suffix or "a file without suffix"} on the host; expected .onnx or .mindir')
    fitting = ENGINES[path.suffix]
    name = name or fitting[0]
    if name not in fitting:
        raise UserError(f'{path}: the engine {name} does not run {path.suffix}; choose {" or ".join(fitting)}')
    if name == 'mindspore':
        if path.stat().st_size >= MAX_FILE:
            raise UserError(f'{path}: {path.stat().st_size} bytes; a MINDIR file has less than {MAX_FILE}')
        engine: Engine = get_backend('mindspore').open_mindir(path)
    else:
        require(name, 'deploy')
        sandbox.check(path, name)
        engine = (OpenVino if name == 'openvino' else OnnxRuntime)(path, threads)
    if len(engine.shape) != 4:
        raise UserError(f'{path}: its input has {len(engine.shape)} dimensions; expected 4, of images')
    return engine


class OnnxRuntime:
    """ONNX Runtime on the CPU; ``threads`` 0 means the engine's choice."""

    name = 'onnxruntime'

    def __init__(self, path: Path, threads: int = 0):
        self.path, self.session = path, onnxruntime_session(path, threads)
        image = self.session.get_inputs()[0]
        self.input, self.half = image.name, image.type == 'tensor(float16)'
        self.shape: Shape = tuple(size if isinstance(size, int) else None for size in image.shape)
        self.output = self.session.get_outputs()[0].name
        self.metadata = dict(self.session.get_modelmeta().custom_metadata_map)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        check_shape(images.shape, self.shape, self.path)
        try:
            with limited_memory(memory_for(images)):
                return self.session.run([self.output], self.feed(images))[0]
        except Exception as error:  # ONNX Runtime's exception classes share no base
            raise failure(self.path, 'ONNX Runtime cannot run it', error) from None

    def feed(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Images by the name of the input, and of its type."""
        return {self.input: images.astype(np.float16) if self.half else images}


class OpenVino:
    """OpenVINO on the CPU, computing in float32."""

    name = 'openvino'

    def __init__(self, path: Path, threads: int = 0):
        self.path, self.model = path, openvino_model(path, threads)
        image = self.model.input(0)
        self.half = image.get_element_type().get_type_name() == 'f16'
        self.shape: Shape = tuple(size.get_length() if size.is_static else None for size in image.get_partial_shape())
        self.metadata = onnx_metadata(path)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        check_shape(images.shape, self.shape, self.path)
        given = images.astype(np.float16) if self.half else images
        try:
            with limited_memory(memory_for(images)):
                return self.model([given])[0]
        except (RuntimeError, MemoryError) as error:
            raise failure(self.path, 'OpenVINO cannot run it', error) from None


def memory_for(images: np.ndarray) -> int:
    """Bytes that a network may take beside its weights: the largest here keep some 60 numbers for each of the images."""
    return MEMORY + 64 * 4 * images.size


def half_weights(path: Path) -> list[str]:
    """Names of the weights in half precision of an ONNX file, which somebody has converted; none for a file of another kind."""
    if path.suffix != '.onnx':
        return []
    weights = onnx.load(str(path), load_external_data=False).graph.initializer
    return [tensor.name for tensor in weights if tensor.data_type in (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)]


def onnx_metadata(path: Path) -> dict[str, str]:
    """The notes in an ONNX file, read without its weights' own files; UserError when it is broken."""
    try:
        return {item.key: item.value for item in onnx.load(str(path), load_external_data=False).metadata_props}
    except Exception as error:  # protobuf's DecodeError among them
        raise UserError(f'{path}: not readable as ONNX: {reason_of(error)}') from None
