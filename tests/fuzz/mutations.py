"""Files changed as somebody would who means harm: by their structure, so that the first check is passed, or by their bytes."""

import contextlib
import functools
import io
import json
import pickletools
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from typing import Any, Optional

from safetensors import SafetensorError
from safetensors.numpy import load

from tests.fuzz.protobuf import encoded, fields
from tests.fuzz.values import Values, parsed, raw
from twinseg.common import checkpoint

Tree = dict[str, Optional[bytes]]  # files of a folder by name; None: a folder without anything in it
Unusual = tuple[str, str]  # name of what is no file, and what it is: a link's target, fifo, loop


class Mutator(Values):
    """Changes of files by what kind they are, and of folders."""

    # Weights

    def safetensors(self, content: bytes) -> bytes:
        """By its header; of our own checkpoints what they say of themselves, with the checksum made anew."""
        size = int.from_bytes(content[:8], 'little')
        header, rest = parsed(content[8 : 8 + size]), content[8 + size :]
        if not isinstance(header, dict) or self.rng.random() < 0.2:
            return self.bytes(content)
        stored = parsed(_get(_get(header, '__metadata__'), 'twinseg'))
        meta = parsed(_get(stored, 'meta'))
        if meta is not None and self.rng.random() < 0.8:
            stored['meta'] = raw(json.dumps(self.value(meta)))
            with contextlib.suppress(SafetensorError):
                number = 1 if _get(meta, 'format') in (None, 1) else checkpoint.FORMAT
                stored['checksum'] = checkpoint._checksum(load(content), stored['meta'], number)
            header['__metadata__']['twinseg'] = json.dumps(stored)
        else:
            header = self.value(header)
        text = raw(json.dumps(header)).encode('utf-8', 'surrogatepass')
        length = len(text) if self.rng.random() < 0.9 else self.number() & ((1 << 64) - 1)
        return length.to_bytes(8, 'little') + text + rest

    def pickle(self, content: bytes) -> bytes:
        """A pickle, by its operations."""
        if self.rng.random() < 0.2:
            return self.bytes(content)
        try:
            starts = [start for _, _, start in pickletools.genops(content)]
        except Exception:
            return self.bytes(content)
        ends = [*starts[1:], starts[-1] + 1]
        parts = [content[start:end] for start, end in zip(starts, ends)]
        rest = content[ends[-1] :]
        for _ in range(self.rng.choice((1, 1, 2, 3))):
            index = self.rng.randrange(len(parts))
            kind = self.rng.randrange(6)
            if kind == 0:
                del parts[index]
            elif kind == 1:
                parts[index:index] = [parts[index]] * self.rng.choice((1, 2, 1000))
            elif kind == 2:
                parts[index] = self.bytes(parts[index])
            elif kind == 3:
                other = self.rng.randrange(len(parts))
                parts[index], parts[other] = parts[other], parts[index]
            else:
                parts[index:index] = [self.rng.choice(OPERATIONS)]
            if not parts:
                break
        return b''.join(parts) + rest

    def torch(self, content: bytes) -> bytes:
        """A file of torch.save, or another pickle."""
        if content[:2] == b'PK':
            return self.zip(content)
        return self.pickle(content)

    def protobuf(self, content: bytes) -> bytes:
        """Any protobuf message, field by field: MindSpore's checkpoints, ONNX."""
        if self.rng.random() < 0.15:
            return self.bytes(content)
        return self._message(content, 0)

    def _message(self, content: bytes, depth: int) -> bytes:
        parts = fields(content)
        if not parts:
            return self.bytes(content)
        index = self.rng.randrange(len(parts))
        tag, kind, value = parts[index]
        choice = self.rng.random()
        if kind == 2 and choice < 0.7 and depth < 8 and isinstance(value, bytes):
            inner = self._message(value, depth + 1) if fields(value) else self._blob(value)
            parts[index] = (tag, kind, inner)
        elif choice < 0.8:
            del parts[index]
        elif choice < 0.9:
            parts[index:index] = [parts[index]] * self.rng.choice((1, 2, 2000 if len(content) < 1000 else 3))
        elif kind == 0:
            parts[index] = (tag, kind, self.number() & ((1 << 64) - 1))
        else:
            parts[index] = (self.rng.randrange(1, 30), kind, value)
        return b''.join(encoded(*one) for one in parts)

    def _blob(self, value: bytes) -> bytes:
        if value.isascii() and len(value) < 200 and self.rng.random() < 0.8:
            return self.text(value.decode()).encode('utf-8', 'surrogatepass')
        return self.bytes(value)

    # Archives

    def zip(self, content: bytes) -> bytes:
        """A zip, member by member: names, contents, kinds, what is declared."""
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                members = [(entry, archive.read(entry)) for entry in archive.infolist()]
        except Exception:
            return self.bytes(content)
        if self.rng.random() < 0.15:
            return self.bytes(content)
        file = io.BytesIO()
        victim = self.rng.randrange(len(members)) if members else 0
        kind = self.rng.randrange(9)
        with warnings.catch_warnings(), zipfile.ZipFile(file, 'w') as archive:
            warnings.simplefilter('ignore')  # of names that are there twice
            for index, (entry, body) in enumerate(members):
                new = zipfile.ZipInfo(entry.filename, (2020, 1, 1, 0, 0, 0))
                new.compress_type, new.external_attr = entry.compress_type, entry.external_attr
                if index == victim and kind == 0:
                    continue
                if index == victim and kind == 1:
                    new.filename = _name(self.text(new.filename))
                if index == victim and kind == 2:
                    new.external_attr = self.rng.choice((0o120777, 0o020666, 0o060666, 0o010666, 0o040777)) << 16
                    body = self.rng.choice((b'../outside/kept.txt', b'/dev/zero', body))
                if index == victim and kind == 3:
                    new.compress_type, body = zipfile.ZIP_DEFLATED, bytes(self.rng.choice((1 << 20, 1 << 25)))
                if index == victim and kind in (4, 5, 6):
                    body = self.file(new.filename, body)
                archive.writestr(new, body)
                if index == victim and kind == 7:
                    archive.writestr(new, body)
        data = bytearray(file.getvalue())
        if kind == 8:  # what local headers and the directory say
            heads = [at for mark in (b'PK\3\4', b'PK\1\2', b'PK\5\6') for at in _all(data, mark)]
            at = self.rng.choice(heads) + self.rng.randrange(4, 46)
            data[at : at + 4] = (self.number() & 0xFFFFFFFF).to_bytes(4, 'little')
        return bytes(data)

    def tar(self, content: bytes) -> bytes:
        """A tar, member by member."""
        if self.rng.random() < 0.2:
            return self.bytes(content)
        try:
            with tarfile.open(fileobj=io.BytesIO(content)) as archive:
                members = [(entry, (archive.extractfile(entry) or io.BytesIO()).read()) for entry in archive.getmembers()]
        except Exception:
            return self.bytes(content)
        file = io.BytesIO()
        victim = self.rng.randrange(len(members)) if members else 0
        kind = self.rng.randrange(8)
        form = self.rng.choice((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT))
        with tarfile.open(
            fileobj=file, mode=self.rng.choice(('w', 'w', 'w:gz', 'w:xz') if kind != 4 else ('w', 'w:gz')), format=form
        ) as archive:
            for index, (entry, body) in enumerate(members):
                if index == victim:
                    if kind == 0:
                        continue
                    if kind == 1:
                        entry.name = _name(self.text(entry.name)).replace('\0', '')
                    if kind == 2:
                        types = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE)
                        entry.type = self.rng.choice(types)
                        entry.linkname = self.rng.choice(('../outside/kept.txt', '/etc/passwd', '.', entry.name, ''))
                    if kind == 3:
                        body = self.file(entry.name, body)
                    if kind == 4:
                        body = bytes(1 << 25)
                    if kind == 5:
                        entry.pax_headers = {self.text('path').replace('\0', '') or 'x': self.text().replace('\0', '')}
                    if kind == 6:
                        entry.mtime = self.rng.choice((-1, 2**33 - 1))
                        entry.mode = 0o7777
                entry.size = len(body) if entry.isreg() else 0
                try:
                    archive.addfile(entry, io.BytesIO(body))
                    if index == victim and kind == 7:
                        archive.addfile(entry, io.BytesIO(body))
                except (ValueError, UnicodeError, OverflowError):
                    continue
        data = bytearray(file.getvalue())
        if kind == 5 and data[:2] != b'\x1f\x8b' and len(data) >= 512:  # a size that the member has not
            data[124:136] = self.rng.choice((b'77777777777\0', b'-0000000001\0', b'\x80' + b'\xff' * 11))
            data[148:156] = b' ' * 8
            data[148:156] = b'%06o\0 ' % sum(data[:512])
        return bytes(data)

    # Images

    def png(self, content: bytes) -> bytes:
        """By its chunks, with their checksums made anew."""
        if self.rng.random() < 0.3:
            return self.bytes(content)
        chunks, at = [], 8
        while at + 8 <= len(content):
            size = int.from_bytes(content[at : at + 4], 'big')
            chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + size]))
            at += 12 + size
        index = self.rng.randrange(len(chunks))
        kind, body = chunks[index]
        choice = self.rng.randrange(6)
        if choice == 0:
            del chunks[index]
        elif choice == 1:
            chunks[index:index] = [chunks[index]] * self.rng.choice((1, 5000))
        elif choice == 2:
            other = self.rng.randrange(len(chunks))
            chunks[index], chunks[other] = chunks[other], chunks[index]
        elif choice == 3:
            bomb = _bomb()
            extra = ((b'zTXt', b'a\0\0' + bomb), (b'iCCP', b'a\0\0' + bomb), (b'tEXt', b'a\0' + bytes(5000)), (b'eXIf', body))
            extra += (
                (b'acTL', b'\xff' * 8),
                (b'PLTE', body),
                (b'tRNS', body),
                (b'iTXt', b'a\0\1\0\0\0' + bomb),
                (b'IDAT', bomb),
            )
            chunks[index:index] = [self.rng.choice(extra)]
        else:
            chunks[0 if choice == 4 else index] = (
                (chunks[0][0], self.bytes(chunks[0][1])) if choice == 4 else (kind, self.bytes(body))
            )
        return content[:8] + b''.join(
            len(body).to_bytes(4, 'big') + kind + body + zlib.crc32(kind + body).to_bytes(4, 'big') for kind, body in chunks
        )

    def boxes(self, content: bytes) -> bytes:
        """MP4: by its boxes, and those in them."""
        if self.rng.random() < 0.4:
            return self.bytes(content)
        heads = [
            at
            for mark in (b'moov', b'trak', b'stbl', b'stsd', b'stco', b'stsz', b'mvhd', b'dref', b'avc1')
            for at in _all(content, mark)
        ]
        if not heads:
            return self.bytes(content)
        data, at = bytearray(content), self.rng.choice(heads) + self.rng.choice((-4, 0, 4, 8, 12, 16, 20, 24))
        data[at : at + 4] = (self.number() & 0xFFFFFFFF).to_bytes(4, 'big')
        return bytes(data)

    # Files and folders

    def file(self, name: str, content: bytes) -> bytes:
        """A file, by what its name says that it is."""
        suffix = name.rpartition('.')[2].lower()
        kinds: dict[str, Callable[[bytes], bytes]] = {
            **dict.fromkeys(('json',), self.json),
            **dict.fromkeys(('jsonl',), self.jsonl),
            **dict.fromkeys(('yaml', 'yml'), self.yaml),
            **dict.fromkeys(('txt', 'md'), self.lines),
            **dict.fromkeys(('safetensors',), self.safetensors),
            **dict.fromkeys(('pth', 'pt'), self.torch),
            **dict.fromkeys(('pkl',), self.pickle),
            **dict.fromkeys(('ckpt', 'onnx'), self.protobuf),
            **dict.fromkeys(('zip',), self.zip),
            **dict.fromkeys(('tar', 'tgz'), self.tar),
            **dict.fromkeys(('png',), self.png),
            **dict.fromkeys(('mp4', 'mov'), self.boxes),
        }
        try:
            return kinds.get(suffix, self.bytes)(content)
        except Exception:  # it is changed for the second time, and no file of its kind any more
            return self.bytes(content)

    def tree(self, files: Tree, changes: tuple[str, ...] = ('',)) -> tuple[Tree, Optional[Unusual]]:
        """A folder with one file changed, or the folder itself; and what is to lie in it that is no file: a link, a FIFO."""
        files = dict(files)
        names = [name for name, content in files.items() if content is not None and name.startswith(changes)]
        if not names:
            return files, None
        name = self.rng.choice(names)
        content = files[name] or b''
        kind = self.rng.random()
        if kind < 0.8 or len(names) == 1 and kind < 0.92:
            files[name] = self.file(name, content)
        elif kind < 0.84:
            del files[name]
        elif kind < 0.88:
            files[name] = files[self.rng.choice(names)]
        elif kind < 0.92:
            new = _name(self.text(name))
            if _is_inside(new) and not any(
                f'{other}/'.startswith(f'{new}/') or f'{new}/'.startswith(f'{other}/') for other in files
            ):
                files[new] = files.pop(name)
        elif kind < 0.94:
            files[name] = None
        elif kind < 0.96:
            files[name] = self.rng.choice(
                (b'', b'\0' * 100, b'\xff\xfe', b'%!PS\n(canary) (w) file\n', b'#EXTM3U\n../outside/kept.txt\n')
            )
        else:
            del files[name]
            return files, (
                name,
                self.rng.choice(('fifo', 'loop', '../outside/kept.txt', '/dev/zero', '/dev/null', '..', 'absent')),
            )
        return files, None


def _reduce(module: bytes, name: bytes, argument: bytes) -> bytes:
    return b'c' + module + b'\n' + name + b'\n(X' + len(argument).to_bytes(4, 'little') + argument + b'tR'


@functools.cache
def _bomb() -> bytes:
    return zlib.compress(bytes(1 << 25))


OPERATIONS = (  # of pickles: calls of a program, and what is deep, shared, long or without an end
    *(_reduce(*call) for call in ((b'os', b'system', b'canary'), (b'builtins', b'exec', b'import os; os.system("canary")'))),
    *(
        _reduce(*call)
        for call in ((b'torch', b'load', b'x'), (b'numpy', b'load', b'../outside/kept.txt'), (b'a.b', b'c', b'd'))
    ),
    *(
        b'cbuiltins\neval\n',
        b'cposix\nsystem\n',
        b'(i__main__\nx\n',
        b'ctorch._utils\n_rebuild_tensor_v2\n',
        b'\x93',
        b'R',
        b'b',
        b'Q',
    ),
    *(b'(' * 100_000, b']' + b'\x85' * 20_000, b')' + b'2\x86' * 60, b'N' + b'\x85' * 100_000, b'}' + b'2\x86' * 18 + b'Ks'),
    *(
        b'\x8b\xff\xff\xff\x7f',
        b'\x8d' + b'\xff' * 8,
        b'\x8e' + b'\xff' * 7 + b'\x7f',
        b'\x95' + b'\xff' * 8,
        b'T\xff\xff\xff\x7f',
    ),
    *(
        b'I' + b'9' * 5000 + b'\n',
        b'F1e999\n',
        b'Fnan\n',
        b'L' + b'9' * 5000 + b'L\n',
        b'K\0',
        b'N',
        b'}',
        b']',
        b'0',
        b'.',
        b's',
        b'u',
    ),
    *(
        b'h\xff',
        b'j\xff\xff\xff\xff',
        b'r\xff\xff\xff\x7f',
        b'\x94',
        b'Pabc\n',
        b'V\\ud800\n',
        b'X\4\0\0\0\x1b[31',
        b'\x88',
        b'(t',
    ),
)


def _get(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, dict) else None


def _all(content: bytes, mark: bytes) -> list[int]:
    positions, at = [], content.find(mark)
    while at >= 0:
        positions.append(at)
        at = content.find(mark, at + 1)
    return positions


def _name(text: str) -> str:
    return text.encode('utf-8', 'replace').decode()


def _is_inside(name: str) -> bool:
    """Whether a file of this name can lie in the case's folder."""
    parts = name.split('/')
    return (
        '\0' not in name
        and not name.startswith('/')
        and len(parts) < 100
        and all(0 < len(part.encode()) < 256 and part not in ('.', '..') for part in parts)
    )
