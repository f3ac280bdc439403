"""Protobuf messages field by field, whatever they mean."""

from typing import Any

Field = tuple[int, int, Any]  # number, kind, value: int of kind 0, else bytes
SIZES = {1: 8, 5: 4}  # bytes of the kinds of one size


def fields(content: bytes) -> list[Field]:
    """The fields of a message; none where it is none."""
    found: list[Field] = []
    at = 0
    while at < len(content):
        tag, at = _number(content, at)
        number, kind = tag >> 3, tag & 7
        if at < 0 or not number or kind not in (0, 1, 2, 5):
            return []
        value: Any
        if kind == 0:
            value, at = _number(content, at)
        else:
            size, at = _number(content, at) if kind == 2 else (SIZES[kind], at)
            value = content[at : at + size]
            at = -1 if at < 0 or len(value) < size else at + size
        if at < 0:
            return []
        found.append((number, kind, value))
    return found


def encoded(number: int, kind: int, value: Any) -> bytes:
    """A field."""
    tag = _varint(number << 3 | kind)
    if kind == 0:
        return tag + _varint(value)
    return tag + (_varint(len(value)) if kind == 2 else b'') + value


def _number(content: bytes, at: int) -> tuple[int, int]:
    """A number of variable length and where it ends; -1 where it has no end."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(content):
            break
        byte, at = content[at], at + 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    return 0, -1


def _varint(value: int) -> bytes:
    out = b''
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])
