"""A folder of recorded tensors: what the C++ program writes with ``--dump``, and what users record on a device.

``trace.json`` says what is there: ``{"tensors": [{"file": "conv1.npy", "layer": "stem.conv"}, ...]}``. A ``.bin`` file needs
``shape`` and ``dtype`` beside (little-endian, row by row). ``side`` is ``output`` (default) or ``input``; the network itself is
the layer ``""``; ``call`` counts from 0.
"""

import io
import json
from pathlib import Path
from typing import Any, Mapping

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from twinseg.common.activations import Layer, Watcher
from twinseg.common.errors import UserError, reason_of
from twinseg.common.files import read_bounded, resolved
from twinseg.common.settings.messages import first_problem
from twinseg.common.trace.recording import Event, Side

LIST = 'trace.json'
MAX_LIST = 1 << 24  # bytes of the list
MAX_TENSOR = 1 << 31  # bytes of a tensor
DTYPES = ('float16', 'float32', 'float64')


class _Tensor(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra='forbid')

    file: str
    layer: str
    side: Side = 'output'
    call: int = Field(0, ge=0)
    index: int = Field(0, ge=0)
    shape: list[int] = []
    dtype: str = 'float32'


class _List(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra='ignore')

    tensors: list[_Tensor]
    precision: str = 'float32'


class FolderSource:
    """Recorded tensors as one side of a trace."""

    runs = has_double = False

    def __init__(self, label: str, folder: Path) -> None:
        self.label, self.folder = label, folder
        file = folder / LIST
        try:
            if file.stat().st_size > MAX_LIST:
                raise UserError(f'{file}: larger than {MAX_LIST} bytes')
            content = _List.model_validate(json.loads(file.read_text(encoding='utf-8')))
        except ValidationError as error:
            problem = first_problem(error, _List)
            raise UserError(f'{file}: {problem.key}: {problem.text}') from None
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f'{file}: not readable: {reason_of(error)}') from None
        if content.precision not in ('float32', 'float16', 'bfloat16', 'int8'):
            raise UserError(f'{file}: precision: {content.precision!r}; choose float32, float16, bfloat16 or int8')
        self.precision, self.tensors = content.precision, content.tensors

    def prepare(self, images: np.ndarray) -> np.ndarray:
        """The recorded input where there is one; the images give nothing to a recording."""
        inputs = [tensor for tensor in self.tensors if not tensor.layer and tensor.side == 'input']
        return self._read(inputs[0]) if inputs else np.zeros((0,), np.float32)

    def run(self, inputs: np.ndarray, watcher: Watcher) -> None:
        """Shows the recorded tensors to ``watcher`` (a ``Passage``), in the order of the list."""
        for tensor in self.tensors:
            layer = tensor.layer.rpartition(':')[2]  # AscendCL's names are operator:number:output
            watcher.see(Event(layer, tensor.call, tensor.side, tensor.index), self._read(tensor))  # type: ignore[attr-defined]

    def layers(self) -> Mapping[str, Layer]:
        """None: a recording does not know its layers."""
        return {}

    def double(self) -> None:
        """None: it does not run."""

    def _read(self, tensor: _Tensor) -> np.ndarray:
        path = self.folder / tensor.file
        if not resolved(path).is_relative_to(resolved(self.folder)):
            raise UserError(f'{self.folder / LIST}: {tensor.file!r} leaves the folder')
        try:
            if (size := path.stat().st_size) > MAX_TENSOR:
                raise UserError(f'{path}: larger than {MAX_TENSOR} bytes')
            content = read_bounded(path, size)
            if path.suffix == '.npy':
                array: Any = np.load(io.BytesIO(content), allow_pickle=False)
            elif path.suffix == '.bin':
                if tensor.dtype not in DTYPES:
                    raise UserError(f'{self.folder / LIST}: {tensor.file}: dtype {tensor.dtype!r}; choose {", ".join(DTYPES)}')
                array = np.frombuffer(content, np.dtype(tensor.dtype).newbyteorder('<'))
            else:
                raise UserError(f'{path}: expected .npy or .bin')
            array = array.reshape(tensor.shape) if tensor.shape else array
        except (OSError, ValueError) as error:
            raise UserError(f'{path}: not readable: {reason_of(error)}') from None
        if array.dtype.kind != 'f':
            raise UserError(f'{path}: holds {array.dtype}; expected floating-point numbers')
        return np.ascontiguousarray(array, np.float32)
