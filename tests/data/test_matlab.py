"""Labels in MATLAB files: what SciPy reads, and damage of every kind, in a process that is watched."""

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat, savemat
from scipy.sparse import csc_matrix

from twinseg.common.data import matlab
from twinseg.common.data.matlab import read_field
from twinseg.common.errors import DataError

LABEL = np.arange(42, dtype=np.uint8).reshape(6, 7) % 21


def saved(label: np.ndarray = LABEL, packed: bool = True, before: bool = True) -> bytes:
    """A file as SBD has them: sparse boundaries in cells before or behind the label, and another variable."""
    boundaries = np.empty((3, 1), object)
    boundaries[:, 0] = [csc_matrix(np.eye(4) > 0)] * 3
    fields = {'Boundaries': boundaries, 'Segmentation': label, 'CategoriesPresent': np.array([[3.0, 15.0]])}
    names = list(fields) if before else ['Segmentation', 'Boundaries', 'CategoriesPresent']
    struct_array = np.empty((1, 1), [(name, object) for name in names])
    struct_array[0, 0] = tuple(fields[name] for name in names)
    file = io.BytesIO()
    savemat(file, {'other': np.ones((2, 3)), 'GTcls': struct_array}, do_compression=packed)
    return file.getvalue()


def write(folder: Path, content: bytes) -> Path:
    path = folder / 'x.mat'
    path.write_bytes(content)
    return path


@pytest.mark.parametrize('packed', [True, False])
@pytest.mark.parametrize('before', [True, False])
@pytest.mark.parametrize('dtype', ['u1', 'i1', 'u2', 'i2', 'i4', 'u4', 'i8', 'f4', 'f8'])
@pytest.mark.parametrize('shape', [(6, 7), (1, 42), (42, 1), (1, 1), (2, 3, 7)])
def test_it_reads_what_scipy_reads(tmp_path, packed, before, dtype, shape):
    label = np.resize(LABEL, shape).astype(dtype)
    path = write(tmp_path, saved(label, packed, before))
    expected = loadmat(path)['GTcls'][0]['Segmentation'][0]
    found = read_field(path, 'GTcls', 'Segmentation')
    assert found.dtype == expected.dtype and np.array_equal(found, expected) and np.array_equal(found, label)


def element(kind: int, body: bytes, order: str = '<') -> bytes:
    return struct.pack(f'{order}2I', kind, len(body)) + body + b'\0' * (-len(body) % 8)


def array(kind: int, sizes: tuple[int, ...], rest: bytes, name: bytes = b'', order: str = '<', flags: int = 0) -> bytes:
    head = [
        element(6, struct.pack(f'{order}2I', kind | flags, 0), order),
        element(5, struct.pack(f'{order}{len(sizes)}i', *sizes), order),
        element(1, name, order),
    ]
    return element(14, b''.join(head) + rest, order)


def file_of(field: bytes, order: str = '<', kind: int = 2, sizes: tuple[int, ...] = (1, 1)) -> bytes:
    names = element(5, struct.pack(f'{order}i', 32), order) + element(1, b'Segmentation'.ljust(32, b'\0'), order)
    mark = b'IM' if order == '<' else b'MI'
    return (
        b'MATLAB 5.0'.ljust(124) + struct.pack(f'{order}H', 0x100) + mark + array(kind, sizes, names + field, b'GTcls', order)
    )


@pytest.mark.parametrize('order', ['<', '>'])
def test_both_byte_orders(tmp_path, order):
    numbers = np.arange(6, dtype=f'{order}i2')
    path = write(tmp_path, file_of(array(10, (2, 3), element(3, numbers.tobytes(), order), order=order), order))
    assert np.array_equal(read_field(path, 'GTcls', 'Segmentation'), [[0, 2, 4], [1, 3, 5]])
    assert np.array_equal(loadmat(path)['GTcls'][0]['Segmentation'][0], [[0, 2, 4], [1, 3, 5]])


def cells_in_cells(depth: int) -> bytes:
    """As many elements inside each other, their sizes made from the inside."""
    head = element(6, struct.pack('<2I', 1, 0)) + element(5, struct.pack('<2i', 1, 1)) + element(1, b'')
    sizes = [len(head) * (depth - level) + 8 * (depth - level - 1) for level in range(depth)]
    return b''.join(struct.pack('<2I', 14, size) + head for size in sizes)


def bomb() -> bytes:
    packed = zlib.compress(bytes(1 << 26), 9)
    return saved()[:128] + struct.pack('<2I', 15, len(packed)) + packed


def many_bombs() -> bytes:
    packed = zlib.compress(bytes((1 << 24) - 64), 9)
    return saved()[:128] + (struct.pack('<2I', 15, len(packed)) + packed) * 50


NUMBERS = element(2, bytes(42))
DAMAGED = {
    'cells in cells': (lambda: file_of(cells_in_cells(30000)), 'no array of real numbers'),
    'a variable of cells in cells': (lambda: saved()[:128] + cells_in_cells(30000), 'it has no GTcls'),
    'sizes that lie': (lambda: file_of(array(9, (1 << 30, 1 << 30), NUMBERS)), '42 bytes for numbers of shape'),
    'negative sizes': (lambda: file_of(array(9, (-6, -7), NUMBERS)), '42 bytes for numbers of shape'),
    'many sizes': (lambda: file_of(array(9, (1,) * 5000, NUMBERS)), 'no head of an array'),
    'complex numbers': (lambda: file_of(array(9, (6, 7), NUMBERS + NUMBERS, flags=0x800)), 'real numbers'),
    'a sparse label': (lambda: file_of(array(5, (6, 7), NUMBERS)), 'real numbers'),
    'numbers of no type': (lambda: file_of(array(9, (6, 7), element(8, bytes(42)))), 'real numbers'),
    'many structs': (lambda: file_of(array(9, (6, 7), NUMBERS), sizes=(1 << 30, 1 << 30)), 'no struct of one element'),
    'no struct': (lambda: file_of(array(9, (6, 7), NUMBERS), kind=3), 'no struct of one element'),
    'a bomb': (bomb, 'unpacks to more than'),
    'many bombs': (many_bombs, 'unpacks to more than'),
    'version 4': (lambda: struct.pack('<5i', 0, 1, 1, 0, 6) + b'GTcls\0' + bytes(200), 'no file of MATLAB 5'),
    'HDF5': (lambda: b'\x89HDF\r\n\x1a\n' + bytes(200), 'no file of MATLAB 5'),
    'a large file': (lambda: saved() + bytes(matlab.MAX_BYTES), 'more than'),
    'a tag cut off': (lambda: saved(packed=False)[:300], 'cut off'),
}


@pytest.mark.parametrize('case', DAMAGED)
def test_damage_is_refused(tmp_path, case):
    content, message = DAMAGED[case]
    with pytest.raises(DataError, match=message) as error:
        read_field(write(tmp_path, content()), 'GTcls', 'Segmentation')
    assert 'x.mat: not readable as a label of SBD' in str(error.value) and '\n' not in str(error.value)


MUTATE = """
import random, resource, sys, zlib
from pathlib import Path
from twinseg.common.data.matlab import read_field
from twinseg.common.errors import DataError

resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
path, start, packed = Path(sys.argv[1]), Path(sys.argv[1]).read_bytes(), sys.argv[2] == 'packed'
body = zlib.decompress(start[start.index(b'\\x78', 128):]) if packed else start
random, read, refused = random.Random(0), 0, 0
for case in range(1500):
    damaged = bytearray(body)
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(damaged))
        change = random.randrange(4)
        if change == 0:
            damaged[at] = random.choice((0, 1, 14, 15, 127, 128, 255))
        elif change == 1:
            damaged[at : at + 4] = random.choice((0, 1, 8, 1 << 16, 1 << 31, (1 << 32) - 1)).to_bytes(4, 'little')
        elif change == 2:
            del damaged[at : at + random.randint(1, 16)]
        else:
            damaged[at:at] = damaged[at : at + random.randint(1, 16)]
    if packed:
        data = zlib.compress(damaged)
        damaged = start[:128] + (15).to_bytes(4, 'little') + len(data).to_bytes(4, 'little') + data
    path.write_bytes(damaged)
    try:
        read_field(path, 'GTcls', 'Segmentation')
        read += 1
    except DataError as error:
        assert len(str(error)) < 500 + len(str(path)) and chr(10) not in str(error)
        refused += 1
print(read, refused)
"""


@pytest.mark.parametrize('packed', ['packed', 'plain'])
def test_mutated_files_are_read_or_refused(tmp_path, packed):
    """In a process of its own with 1 GB: neither a crash nor another error than a refusal."""
    start = file_of(array(9, (6, 7), element(2, LABEL.tobytes(order='F'))))
    if packed == 'packed':
        data = zlib.compress(start[128:])
        start = start[:128] + struct.pack('<2I', 15, len(data)) + data
    path = write(tmp_path, start)
    done = subprocess.run(
        [sys.executable, '-c', MUTATE, str(path), packed], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    read, refused = map(int, done.stdout.split())
    assert read > 50 and refused > 500
