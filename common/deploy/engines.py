"""Programs that run an exported file on the host CPU: ONNX Runtime and OpenVINO for ONNX, MindSpore itself for MINDIR.

Each is a ``common.backend.Engine``.
"""

from pathlib import Path
from typing import Optional

import numpy as np
import onnx

from twinseg.common.backend import Engine, Shape, check_shape, get_backend
from twinseg.common.errors import UserError, require
from twinseg.common.files import plain_path

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
        return get_backend('mindspore').open_mindir(path)
    return (OpenVino if name == 'openvino' else OnnxRuntime)(path, threads)


class OnnxRuntime:
    """ONNX Runtime on the CPU; ``threads`` 0 means the engine's choice."""

    name = 'onnxruntime'

    def __init__(self, path: Path, threads: int = 0):
        require('onnxruntime', 'deploy')
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            with plain_path(path) as plain:
                self.session = onnxruntime.InferenceSession(str(plain), options, providers=['CPUExecutionProvider'])
        except Exception as error:  # ONNX Runtime's exception classes share no base
            raise UserError(f'{path}: ONNX Runtime refuses it: {str(error).splitlines()[0]}') from None
        self.path = path
        self.input = self.session.get_inputs()[0].name
        self.shape: Shape = tuple(size if isinstance(size, int) else None for size in self.session.get_inputs()[0].shape)
        self.metadata = dict(self.session.get_modelmeta().custom_metadata_map)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        check_shape(images.shape, self.shape, self.path)
        return self.session.run(None, {self.input: images})[0]


class OpenVino:
    """OpenVINO on the CPU, computing in float32 (by default it takes bfloat16 where the CPU has it)."""

    name = 'openvino'

    def __init__(self, path: Path, threads: int = 0):
        require('openvino', 'deploy')
        import openvino

        core = openvino.Core()
        settings = {'INFERENCE_PRECISION_HINT': 'f32'} | ({'INFERENCE_NUM_THREADS': threads} if threads else {})
        try:
            with plain_path(path) as plain:
                model = core.read_model(str(plain))
            self.model = core.compile_model(model, 'CPU', settings)
        except RuntimeError as error:
            raise UserError(f'{path}: OpenVINO refuses it: {str(error).strip().splitlines()[-1]}') from None
        self.path = path
        self.shape: Shape = tuple(size.get_length() if size.is_static else None for size in model.input(0).partial_shape)
        self.metadata = onnx_metadata(path)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        check_shape(images.shape, self.shape, self.path)
        return self.model([images])[0]


def onnx_metadata(path: Path) -> dict[str, str]:
    """The notes in an ONNX file, read without its weights' own files; UserError when it is broken."""
    try:
        return {item.key: item.value for item in onnx.load(str(path), load_external_data=False).metadata_props}
    except Exception as error:  # protobuf's DecodeError among them
        raise UserError(f'{path}: not readable as ONNX: {" ".join(str(error).split())}') from None
