"""Bytes, texts and values changed as somebody would who means harm."""

import json
import math
import random
import struct
from typing import Any

import yaml

NUMBERS = (0, 1, 2, 3, 127, 128, 255, 256, 32767, 65535, 65536, 1 << 20, 1 << 28, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)
HUGE = ((1 << 53), (1 << 63) - 1, 1 << 63, (1 << 64) - 1, 10**30)
TEXTS = (
    *('', ' ', '.', '..', '/', '-', '~', '~nobody/x', '../outside/kept.txt', '../../outside', '/etc/passwd', '/dev/zero'),
    *('\0', 'a\0b', 'a\nb', '\r', '\x1b[31mred', '\x07', '\u202eabc', '\u2028', '\udcff', '\ud800', '道路', 'é' * 200),
    *('x' * 300, 'x' * 5000, 'x/' * 2000, '%s%n', '{0}', '"', "'", '\\', 'nan', '-inf', '1e999', 'null', '[bold]', '*', '**'),
    *('__class__', 'model', 'module.x', '-1', '0', '1e30', '0x10', '2001-01-01', '!!bool x', '<<', '&a', '*a', 'con', 'a,b'),
)
# What JSON and YAML have only as text: replaced in it.
DIGITS, DEEP, MANY = '@digits@', '@deep@', '@many@'
RAW = {DIGITS: '9' * 5000, DEEP: '[' * 50_000 + ']' * 50_000, MANY: '[' + '0,' * 50_000 + '0]'}
SIGNED = ('<b', '<h', '<i', '<q', '>h', '>i', '>q')


class Values:
    """Changes made by ``rng``, a generator of its own for each case."""

    def __init__(self, rng: random.Random):
        self.rng = rng

    def number(self) -> int:
        value = self.rng.choice(NUMBERS + HUGE)
        return -value if self.rng.random() < 0.2 else value

    def text(self, old: str = '') -> str:
        kind = self.rng.random()
        if old and kind < 0.2:
            return old + self.rng.choice(TEXTS)
        if old and kind < 0.3:
            return self.rng.choice(TEXTS) + old
        return self.rng.choice(TEXTS)

    # Bytes

    def bytes(self, content: bytes) -> bytes:
        """Any content: cut, flipped, with other numbers, with parts that are twice there, gone, or exchanged."""
        data = bytearray(content)
        for _ in range(self.rng.choice((1, 1, 1, 2, 4, 16))):
            size = len(data)
            start = self._position(size)
            end = min(size, start + self.rng.choice((1, 2, 4, 8, 64, 1024)))
            kind = self.rng.randrange(9)
            if kind == 0:
                del data[start:]
            elif kind == 1 and size:
                data[min(start, size - 1)] ^= 1 << self.rng.randrange(8)
            elif kind in (2, 3, 4):
                form = self.rng.choice(SIGNED)
                width = struct.calcsize(form)
                value = self.number() & ((1 << 8 * width) - 1)
                data[start : start + width] = value.to_bytes(width, 'little' if form[0] == '<' else 'big')
            elif kind == 5:
                del data[start:end]
            elif kind == 6:
                data[start:start] = data[start:end] * self.rng.choice((1, 2, 100))
            elif kind == 7:
                data[start:end] = self.rng.randbytes(end - start)
            else:
                data += self.rng.choice((b'\0' * 1000, b'\xff' * 16, bytes(data[:256])))
        return bytes(data)

    def _position(self, size: int) -> int:
        """A place in a file, often in its head or at its end, where lengths and tables are."""
        near = self.rng.random()
        if near < 0.4:
            return self.rng.randrange(min(size, 128) + 1)
        return size - self.rng.randrange(min(size, 128) + 1) if near < 0.5 else self.rng.randrange(size + 1)

    # Values: JSON, YAML, lines

    def value(self, tree: Any) -> Any:
        """A copy of a value of JSON with some of its parts changed."""
        root = [json.loads(json.dumps(tree, default=str))]
        for _ in range(self.rng.choice((1, 1, 1, 2, 3))):
            spots = list(_spots(root))
            holder, key = self.rng.choice(spots)
            old = holder[key]
            kind = self.rng.random()
            if kind < 0.55:
                holder[key] = self._other(old)
            elif kind < 0.65 and isinstance(holder, dict):
                del holder[key]
            elif kind < 0.75 and isinstance(holder, dict):
                holder[self.text(str(key))] = holder.pop(key)
            elif kind < 0.8 and isinstance(holder, list) and holder is not root:
                holder[key:key] = [old] * self.rng.choice((1, 2, 1000))
            elif kind < 0.85 and isinstance(holder, list) and holder is not root:
                del holder[key]
            elif kind < 0.95:
                other, name = self.rng.choice(spots)
                holder[key] = other[name] if other is not root else self._other(old)
                if holder[key] is holder or _contains(holder[key], holder):
                    holder[key] = old
            else:
                holder[key] = self.rng.choice(([old], {'a': old}, [[old]], {'': old}))
        return root[0]

    def _other(self, old: Any) -> Any:
        kind = self.rng.random()
        if isinstance(old, str) and kind < 0.5:
            return self.text(old)
        if type(old) in (int, float) and kind < 0.5:
            return self.rng.choice((self.number(), -1, float(self.number()), math.nan, math.inf, 1e308, 0.5, 1e-320, str(old)))
        values = (None, True, False, [], {}, '', 0, -1, math.nan, 1e308, DIGITS, DEEP, MANY, [None], {'': None}, [[0]])
        return self.rng.choice((*values, self.number(), self.text()))

    def json(self, content: bytes) -> bytes:
        """A text of JSON, by its values, now and then by its bytes."""
        if self.rng.random() < 0.15:
            return self.bytes(content)
        value = parsed(content)
        if value is None:
            return self.bytes(content)
        text = json.dumps(self.value(value))
        if self.rng.random() < 0.05:
            text = text.replace(', ', f', "twice": {text[:50]!r}, ', 1)
        return raw(text).encode(self.rng.choice(('utf-8',) * 12 + ('utf-16', 'utf-8-sig')), 'surrogatepass')

    def yaml(self, content: bytes) -> bytes:
        """A text of YAML, by its values, its lines, or its bytes."""
        kind = self.rng.random()
        if kind < 0.3:
            return self.lines(content)
        if kind < 0.4:
            return self.bytes(content)
        if kind < 0.5:
            extra = ('<<: *a', 'a: &a [*a]', f'? {"[" * 3000}', '!!python/object/apply:os.system [canary]: 1', '- x', '\tx: 1')
            tags = ('!!binary "%%"', '!!bool z', '!!timestamp x', '!!python/name:os.system', '!x y', '!!set {a}', '!!omap [a]')
            many = '\n'.join(f'k{index}: {index}' for index in range(10_000))
            deep = ''.join(f'{" " * index}a:\n' for index in range(300))
            laugh = 'a0: &a0 [x]\n' + '\n'.join(f'a{i}: &a{i} [{", ".join([f"*a{i - 1}"] * 10)}]' for i in range(1, 12))
            key = content.split(b':')[0].decode(errors='replace') or 'seed'
            line = self.rng.choice((*extra, *(f'{key}: {tag}' for tag in tags), many, deep, laugh))
            return content + f'\n{line}\n'.encode()
        try:
            keys = yaml.safe_load(content)
        except yaml.YAMLError:
            return self.bytes(content)
        return raw(json.dumps(self.value(keys))).encode('utf-8', 'surrogatepass')

    def lines(self, content: bytes) -> bytes:
        """A text, by its lines and the words in them."""
        lines = content.split(b'\n')
        for _ in range(self.rng.choice((1, 1, 2, 5))):
            index = self.rng.randrange(len(lines)) if lines else 0
            kind = self.rng.randrange(7)
            if kind == 0 and lines:
                del lines[index]
            elif kind == 1:
                lines[index:index] = lines[index : index + 1] * self.rng.choice((1, 2, 1000))
            elif kind == 2:
                lines[index:index] = [self.text().encode('utf-8', 'surrogatepass')]
            elif kind == 3 and lines:
                lines[index] = self.bytes(lines[index])
            elif lines:
                words = lines[index].replace(b':', b' : ').split(b' ')
                words[self.rng.randrange(len(words))] = self.rng.choice(
                    (self.text().encode('utf-8', 'surrogatepass'), str(self.number()).encode(), RAW[DIGITS].encode())
                )
                lines[index] = b' '.join(words)
        return b'\n'.join(lines)

    def jsonl(self, content: bytes) -> bytes:
        """A file of a JSON text a line."""
        if self.rng.random() < 0.3:
            return self.lines(content)
        lines = content.split(b'\n')
        index = self.rng.randrange(len(lines))
        lines[index] = self.json(lines[index])
        return b'\n'.join(lines)


def _spots(value: Any) -> list[tuple[Any, Any]]:
    """Holders and keys of all parts of a value."""
    spots, left = [], [value]
    while left and len(spots) < 2000:
        holder = left.pop()
        for key in list(holder) if isinstance(holder, dict) else range(len(holder)):
            spots.append((holder, key))
            if isinstance(holder[key], (dict, list)):
                left.append(holder[key])
    return spots


def _contains(value: Any, part: Any) -> bool:
    return any(holder is part or holder[key] is part for holder, key in _spots([value]))


def parsed(text: Any) -> Any:
    """A value of JSON; None where it is none."""
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return None


def raw(text: str) -> str:
    for mark, long in RAW.items():
        text = text.replace(f'"{mark}"', long)
    return text
