"""Programs that run an exported file on the host CPU: ONNX Runtime and OpenVINO for ONNX, MindSpore itself for MINDIR.

Every engine has ``name``, ``shape`` (N, 3, H, W of its input; None where any size goes), ``metadata`` (str -> str) and,
called with float32 images, returns the logits.
"""

import importlib
from pathlib import Path
from typing import Optional, Protocol, Sequence

import numpy as np

from twinseg.common.backend import get_backend
from twinseg.common.errors import UserError, require

Shape = tuple[Optional[int], ...]
ENGINES = {'.onnx': ('onnxruntime', 'openvino'), '.mindir': ('mindspore',)}  # by suffix, the usual one first


class Engine(Protocol):
    name: str
    shape: Shape
    metadata: dict[str, str]

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """float32 (N, 3, H, W), normalised -> float32 logits (N, C, h, w), or what else the file was made for; UserError for a
        shape it was not made for."""


def open_engine(path: Path, name: Optional[str] = None, threads: int = 0) -> Engine:
    """The engine for a file, by its suffix, or the one of ``ENGINES`` that is named; UserError when the file is absent, broken
    or of another kind. ``threads`` 0 means the engine's own choice."""
    if not path.is_file():
        raise UserError(f'{path}: no such file')
    if path.suffix not in ENGINES:
        raise UserError(f'{path}: cannot run {path.suffix or "a file without suffix"} on the host; expected .onnx or .mindir')
    fitting = ENGINES[path.suffix]
    name = name or fitting[0]
    if name not in fitting:
        raise UserError(f'{path}: the engine {name} does not run {path.suffix}; choose {" or ".join(fitting)}')
    if name == 'mindspore':
        get_backend('mindspore')
        return importlib.import_module('twinseg.mindspore_impl.exporter').Mindir(path)
    return (OpenVino if name == 'openvino' else OnnxRuntime)(path, threads)


def check_shape(found: Sequence[int], expected: Shape, path: Path) -> None:
    """UserError when images of a shape do not go into a file; None in ``expected`` stands for any size."""
    if len(found) != len(expected) or any(e is not None and f != e for f, e in zip(found, expected)):
        wanted = ' x '.join('any' if size is None else str(size) for size in expected)
        raise UserError(
            f'{path}: made for images of {wanted}, given {" x ".join(map(str, found))}; '
            'export again with --size, or with --dynamic for any size'
        )


class OnnxRuntime:
    """ONNX Runtime on the CPU; ``threads`` 0 means its own choice."""

    name = 'onnxruntime'

    def __init__(self, path: Path, threads: int = 0):
        require('onnxruntime', 'deploy')
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
        except Exception as error:  # its exception classes share no base
            raise UserError(f'{path}: ONNX Runtime refuses it: {str(error).splitlines()[0]}') from None
        self.path = path
        self.input = self.session.get_inputs()[0].name
        self.shape = tuple(size if isinstance(size, int) else None for size in self.session.get_inputs()[0].shape)
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
            model = core.read_model(str(path))
            self.model = core.compile_model(model, 'CPU', settings)
        except RuntimeError as error:
            raise UserError(f'{path}: OpenVINO refuses it: {str(error).strip().splitlines()[-1]}') from None
        self.path = path
        self.shape = tuple(size.get_length() if size.is_static else None for size in model.input(0).partial_shape)
        self.metadata = onnx_metadata(path)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        check_shape(images.shape, self.shape, self.path)
        return self.model([images])[0]


def onnx_metadata(path: Path) -> dict[str, str]:
    """The notes in an ONNX file, read without its weights' own files; UserError when it is broken."""
    import onnx

    try:
        return {item.key: item.value for item in onnx.load(str(path), load_external_data=False).metadata_props}
    except Exception as error:  # protobuf's DecodeError among them
        raise UserError(f'{path}: not readable as ONNX: {" ".join(str(error).split())}') from None
