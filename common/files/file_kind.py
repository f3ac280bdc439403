"""What kind of file somebody gives as weights, by its content and whatever its name ends in."""

import json
import re
import shlex
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from twinseg.common.errors import StateError, reason_of

CHECKPOINTS = 'checkpoints'  # folder of a run that holds its checkpoints
HEAD = 4096  # bytes that tell most kinds
LARGEST_INDEX = 16 << 20  # bytes of JSON that are looked into
LEGACY_START = b'\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.'  # PyTorch's magic number, pickled
LAST_OF_SSTABLE = b'\x57\xfb\x80\x8b\x24\x75\x47\xdb'  # how TensorFlow's .index files end
NUMPY = 'save them as safetensors: safetensors.numpy.save_file(dict(numpy.load(FILE)), OUT)'
FROM_THE_FRAMEWORK = 'networks are read from the weights that PyTorch or MindSpore saves'


@dataclass(frozen=True)
class Kind:
    """``name``: what the file is, in words. ``advice``: what to do instead of reading it; None where its weights are read."""

    name: str
    advice: Optional[str] = None

    @property
    def is_weights(self) -> bool:
        return self.advice is None

    def refusal(self, path: Path) -> StateError:
        """The error that says so."""
        return StateError(f'{path}: {self.name}; {self.advice}')


SAFETENSORS = Kind('a safetensors file')
TORCH = Kind('a PyTorch file')
TORCHSCRIPT = Kind('a TorchScript archive')
TORCH_LEGACY = Kind('a PyTorch file of the format before 1.6')
PICKLE = Kind('a pickle')
MINDSPORE = Kind('a MindSpore checkpoint')

STARTS = (  # first bytes, and the kind
    (LEGACY_START, TORCH_LEGACY),
    (b'version https://git-lfs', Kind('a pointer of Git LFS, instead of the file', 'fetch the file: git lfs pull')),
    (b'\x89HDF\r\n\x1a\n', Kind('an HDF5 file, as Keras saves weights', FROM_THE_FRAMEWORK)),
    (b'\x93NUMPY', Kind("one array in NumPy's format", 'a network has many: ' + NUMPY)),
    (b'\x1f\x8b', Kind('compressed with gzip', 'unpack it (gunzip, or tar -xzf) and give the file inside')),
    (b'\xfd7zXZ', Kind('compressed with xz', 'unpack it (unxz, or tar -xJf) and give the file inside')),
    (b'BZh', Kind('compressed with bzip2', 'unpack it (bunzip2, or tar -xjf) and give the file inside')),
    (b'\x28\xb5\x2f\xfd', Kind('compressed with zstd', 'unpack it (unzstd) and give the file inside')),
    (b'7z\xbc\xaf', Kind('a 7z archive', 'unpack it and give the file inside')),
    (b'Rar!', Kind('a RAR archive', 'unpack it and give the file inside')),
    (b'GGUF', Kind('a GGUF file', FROM_THE_FRAMEWORK)),
    (b'%PDF', Kind('a PDF document', 'look where the download led to')),
    (b'\x89PNG', Kind('a PNG image', 'give the file of weights')),
    (b'\xff\xd8\xff', Kind('a JPEG image', 'give the file of weights')),
    (b'PK\x05\x06', Kind('an empty zip archive', 'get the file again')),
    (b'model_checkpoint_path:', Kind("the list of a TensorFlow checkpoint's files", FROM_THE_FRAMEWORK)),
)
WEB_PAGE = Kind(
    'a web page instead of weights: the download was answered by a page (a login, a limit, an error)',
    'download it again, and look at the page where that fails',
)


def kind_of(path: Path) -> Kind:
    """The kind of a file. StateError where there is no file, or none that can be opened."""
    if path.is_dir():
        raise StateError(f'{path}: {_folder(path)}')
    if not path.is_file():
        raise StateError(f'{path}: no such file')
    try:
        with open(path, 'rb') as file:
            head = file.read(HEAD)
            size = file.seek(0, 2)
            file.seek(max(0, size - len(LAST_OF_SSTABLE)))
            end = file.read()
            if head.startswith(b'PK\x03\x04'):
                return _of_zip(path)
    except OSError as error:
        raise StateError(f'{path}: not readable: {reason_of(error)}') from None
    return _of_text(path, head, size) or _of_bytes(head, size, end)


def _of_bytes(head: bytes, size: int, end: bytes) -> Kind:
    if not size:
        return Kind('empty (0 bytes)', 'the download or copy has failed: get the file again')
    for start, kind in STARTS:
        if head.startswith(start):
            return kind
    if head[8:9] == b'{' and struct.unpack('<Q', head[:8])[0] <= 100_000_000:  # the longest header that safetensors reads
        return SAFETENSORS
    if re.match(rb'\x80[\x02-\x05]', head):
        return PICKLE
    if head[257:262] == b'ustar':
        return Kind('a tar archive', 'unpack it (tar -xf) and give the file inside')
    if head[4:8] == b'TFL3':
        return Kind('a TensorFlow Lite network', FROM_THE_FRAMEWORK)
    if end == LAST_OF_SSTABLE:
        return Kind("the index of a TensorFlow checkpoint's tensors", FROM_THE_FRAMEWORK)
    if re.match(rb'\x0a[\x03-\x20]\d+\.\d+', head):
        return Kind('an exported MINDIR network', '`--model` runs one; ' + FROM_THE_FRAMEWORK)
    if head.startswith(b'\n'):
        return MINDSPORE
    if re.match(rb'\x08[\x02-\x1f][\x12\x1a\x22\x28\x32\x3a\x42]', head):
        return Kind('an exported ONNX network', '`--model` runs one; ' + FROM_THE_FRAMEWORK)
    if head.startswith(b'\x08\x01\x12'):
        return Kind("TensorFlow's saved_model.pb", FROM_THE_FRAMEWORK)
    begins = ' '.join(f'{byte:02x}' for byte in head[:8])
    return Kind(
        f'neither safetensors nor a file of PyTorch or MindSpore (it begins with {begins})',
        'truncated, or another kind of file: get it again, or save the weights once more',
    )


def _of_text(path: Path, head: bytes, size: int) -> Optional[Kind]:
    start = head.removeprefix(b'\xef\xbb\xbf').lstrip().lower()
    if start.startswith((b'<!doctype html', b'<html', b'<head', b'<body')) or start.startswith(b'<?xml') and b'<html' in start:
        return WEB_PAGE
    if start.startswith(b'<?xml'):
        return Kind('an XML document', FROM_THE_FRAMEWORK)
    if start[:1] in (b'{', b'[') and head[8:9] != b'{':
        return _of_json(path, size)
    text = head.translate(None, bytes(range(32, 127)) + b'\t\r\n')
    if head and not text and not head.startswith(b'\n') and not any(head.startswith(known) for known, _ in STARTS):
        return Kind(f'a text ({head[:40].decode().split(chr(10))[0]!r}, ...)', 'give the file of weights')
    return None


def _of_json(path: Path, size: int) -> Optional[Kind]:
    try:
        content = json.loads(path.read_bytes()) if size <= LARGEST_INDEX else None
    except (ValueError, RecursionError, OSError):
        content = None
    shards = content.get('weight_map') if isinstance(content, dict) else None
    if not isinstance(shards, dict):
        return Kind('a JSON text', 'give the file of weights')
    files = sorted({str(name) for name in shards.values()})
    return Kind(
        f'the index of weights in {len(files)} files ({", ".join(files[:3])}{", ..." if len(files) > 3 else ""})',
        'join them first: safetensors.torch.save_file({k: v for f in FILES for k, v in safetensors.torch.load_file(f).items()},'
        ' OUT)',
    )


def _of_zip(path: Path) -> Kind:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError, EOFError) as error:
        return Kind(
            f'a PyTorch file or another zip archive that is not readable: {reason_of(error)}',
            'it is truncated or damaged: get it again',
        )
    last = {name.rpartition('/')[2] for name in names}
    if 'data.pkl' in last:
        return TORCHSCRIPT if 'constants.pkl' in last and any('/code/' in name for name in names) else TORCH
    if 'model.weights.h5' in last:
        return Kind('a Keras network', FROM_THE_FRAMEWORK)
    if 'archive_format' in last:
        return Kind('a program of torch.export (.pt2)', 'save the weights: torch.save(program.state_dict, FILE)')
    if last and all(name.endswith('.npy') for name in last):
        return Kind('arrays of NumPy (.npz)', NUMPY)
    first = ', '.join(names[:3])
    return Kind(
        f'a zip archive, but not of torch.save: it holds {first or "nothing"}', 'unpack it and give the file of weights'
    )


def _folder(path: Path) -> str:
    """What to do with a folder instead of a file."""
    if (path / '.metadata').is_file():
        return (
            'a folder of torch.distributed.checkpoint; make one file of it: '
            f'python -m torch.distributed.checkpoint.format_utils dcp_to_torch {shlex.quote(str(path))} OUT.pth'
        )
    if (path / 'saved_model.pb').is_file():
        return f"a folder of TensorFlow's; {FROM_THE_FRAMEWORK}"
    if (path / 'zero_to_fp32.py').is_file():
        return 'a folder of DeepSpeed; make one file of it with its zero_to_fp32.py'
    if (path / CHECKPOINTS).is_dir():
        return f'a run folder; give a file of its folder {CHECKPOINTS}'
    return 'a folder; give the file of weights in it'
