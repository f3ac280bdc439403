"""ONNX files opened by ONNX Runtime and OpenVINO on the CPU, and their failures as one line."""

from pathlib import Path
from typing import Any, Callable, Mapping

from twinseg.common.errors import UserError, require
from twinseg.common.files import plain_path, some_home
from twinseg.common.host.memory import MORE, is_out_of_memory


def onnxruntime_session(path: Path, threads: int) -> Any:
    """An ``onnxruntime.InferenceSession``; ``threads`` 0 means the engine's choice. UserError when it refuses the file."""
    require('onnxruntime', 'deploy')
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    try:
        with plain_path(path) as plain:
            return onnxruntime.InferenceSession(str(plain), options, providers=['CPUExecutionProvider'])
    except Exception as error:  # ONNX Runtime's exception classes share no base
        raise failure(path, 'ONNX Runtime refuses it', error) from None


def openvino_model(path: Path, threads: int) -> Any:
    """An ``openvino.CompiledModel`` that computes in float32 (by default it takes bfloat16 where the CPU has it); ``threads`` 0
    means the engine's choice. UserError when it refuses the file."""
    settings = {'INFERENCE_PRECISION_HINT': 'f32'} | ({'INFERENCE_NUM_THREADS': threads} if threads else {})
    core = openvino_core()
    try:
        with plain_path(path) as plain:
            model = core.read_model(str(plain))
        return core.compile_model(model, 'CPU', settings)
    except (RuntimeError, MemoryError) as error:
        raise failure(path, 'OpenVINO refuses it', error) from None


def openvino_core() -> Any:
    """An ``openvino.Core``."""
    require('openvino', 'deploy')
    with some_home():
        import openvino
    return openvino.Core()


OPENERS: Mapping[str, Callable[[Path, int], Any]] = {'onnxruntime': onnxruntime_session, 'openvino': openvino_model}


def failure(path: Path, what: str, error: Exception) -> UserError:
    """The error of an engine, or of what writes a file for it, as one line; ``what`` says what it was about."""
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    reason = (lines[-1] if what.startswith('OpenVINO') else lines[0]).strip() if lines else type(error).__name__
    if is_out_of_memory(error):
        reason = f'it takes {MORE}, or than a file of this size and these images call for ({reason})'
    return UserError(f'{path}: {what}: {reason}')
