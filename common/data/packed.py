"""Samples as a few arrays. A million of them as objects would be a gigabyte in the trainer, and again in every loader process,
where counting references copies their pages."""

import os
from abc import abstractmethod
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, chain, islice
from typing import Any, Optional, TypeVar, overload

Item = TypeVar('Item', covariant=True)
ABSENT = '\0'  # in no name of a file
AT_ONCE = 1 << 14  # texts that are in memory a second time while they are packed


class Indexed(Sequence[Item]):
    """A sequence of ``length`` items, of which ``item(index)`` makes one, 0 <= index < length."""

    length: int

    @abstractmethod
    def item(self, index: int) -> Item: ...

    def __len__(self) -> int:
        return self.length

    @overload
    def __getitem__(self, index: int) -> Item: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Item]: ...

    def __getitem__(self, index: int | slice) -> Item | Sequence[Item]:
        numbers = range(self.length)[index]  # IndexError beyond the end
        return [self.item(number) for number in numbers] if isinstance(numbers, range) else self.item(numbers)


class Texts(Indexed[Optional[str]]):
    """Texts, or None, as one string of bytes; what they all begin with is in it once. ``start`` is put before each of them."""

    def __init__(self, texts: Iterable[Optional[str]], start: str = ''):
        given = texts if isinstance(texts, list) else list(texts)
        present = [text for text in given if text is not None] if None in given else given
        common = os.path.commonprefix([min(present), max(present)]) if present else ''
        self.start = start + common
        self.length = len(given)
        self.ends = array('q', [0])  # quicker than NumPy's to index
        contents = []
        for begin in range(0, len(given), AT_ONCE):
            parts = [ABSENT if text is None else text[len(common) :] for text in given[begin : begin + AT_ONCE]]
            content = ''.join(parts)
            lengths = map(len, parts if content.isascii() else map(_bytes, parts))
            self.ends.extend(islice(accumulate(lengths, initial=self.ends[-1]), 1, None))
            contents.append(_bytes(content))
        self.content = b''.join(contents)

    def item(self, index: int) -> Optional[str]:
        return self._text(self.ends[index], self.ends[index + 1])

    def __iter__(self) -> Iterator[Optional[str]]:
        return map(self._text, self.ends, islice(self.ends, 1, None))

    def _text(self, begin: int, end: int) -> Optional[str]:
        part = self.content[begin:end].decode('utf-8', 'surrogatepass')
        return None if part == ABSENT else self.start + part


class Packed(Indexed[Item]):
    """Items that ``make`` makes of their values, one from each of the ``columns``."""

    def __init__(self, make: Callable[..., Item], *columns: Sequence[Any]):
        self.make, self.columns, self.length = make, columns, len(columns[0])

    def item(self, index: int) -> Item:
        return self.make(*[column[index] for column in self.columns])

    def __iter__(self) -> Iterator[Item]:
        return map(self.make, *self.columns)


class Joined(Indexed[Item]):
    """Several sequences, one after the other."""

    def __init__(self, parts: Iterable[Sequence[Item]]):
        self.parts = tuple(parts)
        self.starts = list(accumulate(map(len, self.parts), initial=0))
        self.length = self.starts.pop()

    def item(self, index: int) -> Item:
        part = bisect_right(self.starts, index) - 1
        return self.parts[part][index - self.starts[part]]

    def __iter__(self) -> Iterator[Item]:
        return chain.from_iterable(self.parts)


def _bytes(text: str) -> bytes:
    return text.encode('utf-8', 'surrogatepass')  # names of files in any bytes hold surrogates
