"""Types of numbers that files hold, by the names that safetensors, PyTorch and MindSpore give them."""

from typing import NamedTuple, Optional

import numpy as np


class Numbers(NamedTuple):
    """``stored``: numpy's name, without byte order. ``floats``: what turns the stored numbers into float32 where numpy has no
    such type; the type is ``meaning`` then."""

    stored: str
    meaning: Optional[str] = None

    @property
    def itemsize(self) -> int:
        return np.dtype(self.stored).itemsize

    def array(self, flat: np.ndarray) -> np.ndarray:
        """The numbers of a flat array of the stored type, bfloat16 and float8 as float32."""
        if self.meaning is None:
            return flat
        if self.meaning == 'bfloat16':
            return (flat.astype(np.uint32) << 16).view(np.float32)
        return _FLOAT8[self.meaning][flat]


def _float8(exponent_bits: int, bias: int, finite: bool, unsigned_zero: bool) -> np.ndarray:
    """The 256 numbers of an 8-bit float (Micikevicius et al. 2022, arXiv:2209.05433; Noune et al. 2022, arXiv:2206.02915).

    ``finite``: no infinities, NaN where all bits but the sign are set. ``unsigned_zero``: NaN instead of -0, and no other.
    """
    codes = np.arange(256)
    mantissa_bits = 7 - exponent_bits
    exponent, mantissa = codes >> mantissa_bits & (1 << exponent_bits) - 1, codes & (1 << mantissa_bits) - 1
    fraction = mantissa / (1 << mantissa_bits)
    values = np.where(exponent == 0, fraction * 2.0 ** (1 - bias), (1 + fraction) * 2.0 ** (exponent - bias))
    if unsigned_zero:
        values[128] = np.nan
    elif finite:
        values[codes & 127 == 127] = np.nan
    else:
        last = exponent == (1 << exponent_bits) - 1
        values[last] = np.where(mantissa[last] == 0, np.inf, np.nan)
    return np.where(codes < 128, values, -values).astype(np.float32)


_FLOAT8 = {
    'float8_e4m3fn': _float8(4, 7, finite=True, unsigned_zero=False),
    'float8_e5m2': _float8(5, 15, finite=False, unsigned_zero=False),
    'float8_e4m3fnuz': _float8(4, 8, finite=True, unsigned_zero=True),
    'float8_e5m2fnuz': _float8(5, 16, finite=True, unsigned_zero=True),
}
_PLAIN = {
    'float64': 'f8',
    'float32': 'f4',
    'float16': 'f2',
    'bool': '?',
    'int8': 'i1',
    'int16': 'i2',
    'int32': 'i4',
    'int64': 'i8',
    'uint8': 'u1',
    'uint16': 'u2',
    'uint32': 'u4',
    'uint64': 'u8',
}
BY_NAME = {  # PyTorch's names
    **{name: Numbers(stored) for name, stored in _PLAIN.items()},
    'bfloat16': Numbers('u2', 'bfloat16'),
    **{name: Numbers('u1', name) for name in _FLOAT8},
}
TORCH_STORAGES = {
    'DoubleStorage': 'float64',
    'FloatStorage': 'float32',
    'HalfStorage': 'float16',
    'BFloat16Storage': 'bfloat16',
    'LongStorage': 'int64',
    'IntStorage': 'int32',
    'ShortStorage': 'int16',
    'CharStorage': 'int8',
    'ByteStorage': 'uint8',
    'BoolStorage': 'bool',
}
OTHER_STORAGES = {  # storages of numbers that no weight here can be: bytes of each, and what they are
    'ComplexFloatStorage': (8, 'complex'),
    'ComplexDoubleStorage': (16, 'complex'),
    'QInt8Storage': (1, 'quantised'),
    'QUInt8Storage': (1, 'quantised'),
    'QInt32Storage': (4, 'quantised'),
    'QUInt4x2Storage': (1, 'quantised'),
    'QUInt2x4Storage': (1, 'quantised'),
}
SAFETENSORS = {
    'F64': 'float64',
    'F32': 'float32',
    'F16': 'float16',
    'BF16': 'bfloat16',
    'F8_E4M3': 'float8_e4m3fn',
    'F8_E5M2': 'float8_e5m2',
    'F8_E4M3FNUZ': 'float8_e4m3fnuz',
    'F8_E5M2FNUZ': 'float8_e5m2fnuz',
    'BOOL': 'bool',
    'I8': 'int8',
    'I16': 'int16',
    'I32': 'int32',
    'I64': 'int64',
    'U8': 'uint8',
    'U16': 'uint16',
    'U32': 'uint32',
    'U64': 'uint64',
}
MINDSPORE = {
    'Float64': 'float64',
    'Float32': 'float32',
    'Float16': 'float16',
    'BFloat16': 'bfloat16',
    'Float8E4M3FN': 'float8_e4m3fn',
    'Float8E5M2': 'float8_e5m2',
    'Bool': 'bool',
    'Int8': 'int8',
    'Int16': 'int16',
    'Int32': 'int32',
    'Int64': 'int64',
    'UInt8': 'uint8',
    'UInt16': 'uint16',
    'UInt32': 'uint32',
    'UInt64': 'uint64',
}
