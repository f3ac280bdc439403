"""What the pixels of label files mean: class ids, or the colours of classes, become train ids (docs/own_data.md)."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Mapping, Optional, Sequence

import cv2
import numpy as np

from twinseg.common.data.reading import Samples, read_samples
from twinseg.common.errors import DataError

IGNORE = 255  # train id of the pixels that neither losses nor metrics count
UNMAPPED = 254  # marks pixels whose id the label map does not have, so train ids are 0 to 253, and IGNORE
LISTED = 8  # ids or colours that an error names
Colour = tuple[int, int, int]  # RGB, 0 to 255
log = logging.getLogger(__name__)


@dataclass
class LabelRules:
    """The meaning of a data set's label files.

    ``ids``: id in a file (grey value or palette index) -> train id. ``colours``: RGB colour -> train id; none where colours
    mean nothing. ``pixels`` says which of the two a file holds: ids, colors, or auto: RGB files colours, palette files what
    ``indexed`` says, others ids. A colour that is not among the ``colours`` is an error, ignored, or taken for the nearest one
    (``unknown``). ``transparent`` is the train id of transparent pixels, which are an error without it. ``names``: of the
    classes. ``class_colours``: colours of the classes where these are known, to be compared with a palette PNG's. ``keys``:
    whether keys of the configuration change all this (set: custom).
    """

    data: str  # name of the data set
    ids: Mapping[int, int]
    names: Sequence[str]
    colours: Mapping[Colour, int] = field(default_factory=dict)
    pixels: Literal['auto', 'ids', 'colors'] = 'auto'
    indexed: Literal['ids', 'colors'] = 'ids'
    unknown: Literal['error', 'ignore', 'nearest'] = 'error'
    transparent: Optional[int] = None
    class_colours: Mapping[Colour, int] = field(default_factory=dict)
    keys: bool = False

    def __post_init__(self):
        self._table = np.full(256, UNMAPPED, np.uint8)
        self._table[list(self.ids)] = list(self.ids.values())
        self._warned = False

    def facts(self) -> list[object]:
        """What a digest of these rules is made from (JSON-able)."""
        colours = sorted((list(colour), train) for colour, train in self.colours.items())
        return [sorted(self.ids.items()), colours, self.pixels, self.unknown, self.transparent]

    def read(self, path: Path, upright: bool = True) -> np.ndarray:
        """A label file as train ids, uint8 (H, W). DataError for a broken file, an id or a colour that means nothing, and what
        else cannot be a label."""
        return self.train_ids(read_samples(path, upright), path)

    def train_ids(self, samples: Samples, path: Path) -> np.ndarray:
        """Train ids, uint8 (H, W), of what a label file stores."""
        train_ids = self._opaque(samples, path)
        if samples.alpha is not None and not samples.alpha.all():
            hidden = samples.alpha == 0
            if self.transparent is None:
                answer = "set label_map: {transparent: 255} (ignored; or a class's number), or " if self.keys else ''
                raise DataError(
                    f'{path}: {100 * hidden.mean():.1f} % of the pixels are transparent, and what these mean is not said; '
                    f'{answer}save the label without transparency'
                )
            train_ids = np.where(hidden, np.uint8(self.transparent), train_ids)
        return train_ids

    def _opaque(self, samples: Samples, path: Path) -> np.ndarray:
        """Train ids without a look at the transparency."""
        values, by_colour = samples.values, self.pixels == 'colors'
        if samples.lossy:
            if not (self.colours and self.unknown == 'nearest'):
                answer = '; where there is nothing else, give palette and set unknown_colors: nearest' if self.keys else ''
                raise DataError(
                    f'{path}: a label in a lossy format (JPEG or its like), which changes ids and colours at every border; '
                    f'save labels as PNG{answer}'
                )
            by_colour = True
        if samples.palette is not None:
            if by_colour or (self.pixels == 'auto' and self.indexed == 'colors'):
                if values.max() >= len(samples.palette):
                    raise DataError(
                        f'{path}: broken: its palette has {len(samples.palette)} colours, and none for {values.max()}'
                    )
                return self._by_colour(samples.palette[values], path)
            self._compare_palette(samples, path)
            return self._by_id(values, path, samples)
        if values.ndim == 2:
            return self._by_colour(_repeated(values, path), path) if by_colour else self._by_id(values, path)
        if self.pixels == 'ids' or (not self.colours and not by_colour):
            if not _is_grey(values):
                raise DataError(self._colours_unexplained(values, path))
            return self._by_id(values[..., 0], path)
        return self._by_colour(values, path)

    def _by_id(self, values: np.ndarray, path: Path, samples: Optional[Samples] = None) -> np.ndarray:
        """Train ids of grey values or indices (H, W) of any number type."""
        values = _eight_bit_ids(values, path)
        train_ids = cv2.LUT(values, self._table)
        if (train_ids == UNMAPPED).any():
            present = np.unique(values)
            outside = [int(i) for i in present if self._table[i] == UNMAPPED]
            hint = 'correct the label, or map the ids (set: custom, label_map)'
            if samples is not None and samples.palette is not None and self.colours:
                shown = [tuple(samples.palette[i].tolist()) for i in present if i < len(samples.palette)]
                if all(colour in self.colours for colour in shown):
                    hint = "the file's palette shows the data set's colours: set label_pixels: colors to read by them"
            raise DataError(
                f'{path}: ids outside the label map of {self.data}: {outside} (ids found: {present.tolist()}, '
                f'ids known: {_ranges(self.ids)}); {hint}'
            )
        return train_ids

    def _by_colour(self, pixels: np.ndarray, path: Path) -> np.ndarray:
        """Train ids of RGB pixels (H, W, 3) by the data set's colours; of grey ones by their ids, where these are none of its
        colours, and the two ways of reading cannot contradict each other."""
        if not self.colours:
            raise DataError(f'{path}: label_pixels: colors, but no colours are given; set palette to those of the classes')
        if pixels.dtype != np.uint8:
            if pixels.dtype != np.uint16 or (pixels % 257).any():
                if _is_grey(pixels) and self._grey_agrees():
                    return self._by_id(pixels[..., 0], path)
                raise DataError(
                    f'{path}: colours of more than 8 bits, which are none of 8 bits; save the label with 8 bits a channel'
                )
            pixels = (pixels // 257).astype(np.uint8)
        codes, known = _colour_codes(pixels), np.array(list(self.colours), np.uint8)
        known_codes, train_ids = _colour_codes(known), np.array(list(self.colours.values()), np.uint8)
        order = np.argsort(known_codes)
        rows = order[np.minimum(np.searchsorted(known_codes[order], codes), len(order) - 1)]
        found = train_ids[rows]
        unknown = known_codes[rows] != codes
        if not unknown.any():
            return found
        if self.unknown == 'ignore':
            return np.where(unknown, np.uint8(IGNORE), found)
        strange_codes, places, counts = np.unique(codes[unknown], return_inverse=True, return_counts=True)
        strange = np.stack([strange_codes >> 16, strange_codes >> 8 & 255, strange_codes & 255], -1)
        if self.unknown == 'nearest':
            found[unknown] = train_ids[_nearest(strange, known)][places]
            return found
        if self._grey_agrees() and _is_grey(pixels) and set(np.unique(pixels).tolist()) <= set(self.ids):
            return self._by_id(pixels[..., 0], path)
        raise DataError(self._colours_unknown(path, strange, counts))

    def _grey_agrees(self) -> bool:
        """True where no grey is a class's colour and another class's id."""
        greys = {colour[0]: train for colour, train in self.colours.items() if len(set(colour)) == 1}
        return self.pixels == 'auto' and all(self.ids.get(grey, train) == train for grey, train in greys.items())

    def _compare_palette(self, samples: Samples, path: Path) -> None:
        """Warns once of a palette that gives an index the colour of another class than the index."""
        assert samples.palette is not None
        if self._warned:
            return
        shown = {index: tuple(colour) for index, colour in enumerate(samples.palette.tolist()) if index in self.ids}
        greys = [colour[0] for colour in shown.values() if len(set(colour)) == 1]
        colours: Mapping = self.class_colours
        if len(greys) == len(shown) and sorted(greys) == list(shown):  # a grey ramp in another order
            colours = {(grey, grey, grey): self.ids[grey] for grey in greys}
        wrong = {
            index: colours[colour] for index, colour in shown.items() if colours.get(colour, self.ids[index]) != self.ids[index]
        }
        if not wrong:
            return
        used = [index for index in np.unique(samples.values).tolist() if index in wrong]
        if used:
            self._warned = True
            index = used[0]
            log.warning(
                '%s: a palette PNG is read by index, but its palette shows index %d (class %s here) in the colour of %s, %s: '
                'is its order that of the classes? %s',
                path,
                index,
                self._name(self.ids[index]),
                self._name(wrong[index]),
                list(shown[index]),
                'label_pixels: colors reads it by its colours' if self.keys else 'Correct the label.',
            )

    def _name(self, train_id: int) -> str:
        if train_id == IGNORE:
            return 'what is ignored'
        return repr(self.names[train_id]) if train_id < len(self.names) else f'class {train_id}'

    def _colours_unexplained(self, pixels: np.ndarray, path: Path) -> str:
        """The message for an RGB mask of a data set whose colours are not known."""
        colours, counts = np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0, return_counts=True)
        order = np.argsort(-counts, kind='stable')[:LISTED]
        shares = [f'{colours[i].tolist()} ({100 * counts[i] / counts.sum():.1f} %)' for i in order]
        found = f'{path}: an RGB mask of {len(colours)} colours, no class ids: {", ".join(shares)}{_more(len(colours))}'
        if self.pixels == 'ids':
            return f'{found}; label_pixels: ids expects grey values or palette indices'
        if not self.keys:
            return f'{found}; {self.data} has ids in one 8-bit channel (grey or palette); set: custom reads colours (palette)'
        wanted = ', '.join(f'colour of {name}' for name in self.names[:LISTED])
        return f'{found}; set palette: [{wanted}{_more(len(self.names))}]'

    def _colours_unknown(self, path: Path, strange: np.ndarray, counts: np.ndarray) -> str:
        """The message for colours, int (n, 3), that mean nothing."""
        order = np.argsort(-counts, kind='stable')[: LISTED // 2]
        colours = list(self.colours)
        nearest = [colours[i] for i in _nearest(strange[order], np.array(colours))]
        near = ', '.join(
            f'{count} like {self._name(self.colours[colour])} {list(colour)}' for count, colour in zip(counts[order], nearest)
        )
        origin = 'palette and label_map' if self.keys else self.data
        listed = f'{strange[order].tolist()}{_more(len(strange), LISTED // 2)}'
        text = f'{path}: {len(strange)} colours that belong to no class: {listed} (pixels: {near}); expected those of {origin}'
        if len(strange) > 100:
            text += '; so many come from a lossy format, or from resizing with interpolation'
        if self.keys:
            text += (
                f"; name them in label_map ('{','.join(map(str, strange[order[0]]))}': 255 ignores one), or set "
                'unknown_colors: ignore or nearest'
            )
            if (strange == strange[:, :1]).all():
                text += ', or label_pixels: ids if these are ids'
        return text


def read_label(path: Path, colours: Optional[np.ndarray] = None) -> np.ndarray:
    """The ids in a label file, uint8 (H, W): grey values or palette indices; with ``colours``, uint8 (n, 3), also RGB files,
    where the id is the colour's row. DataError for a broken file, other colours, and values that are no ids from 0 to 255."""
    rows = {} if colours is None else {(red, green, blue): row for row, (red, green, blue) in enumerate(colours.tolist())}
    samples = read_samples(path)
    if samples.values.ndim == 3 and (rows or not _is_grey(samples.values)):
        return LabelRules('this label', {}, [], rows).train_ids(samples, path)
    return _eight_bit_ids(samples.values if samples.values.ndim == 2 else samples.values[..., 0], path)


def _nearest(colours: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Of each of the ``colours`` (n, 3) the row of the nearest ``known`` one, int64 (n,): smallest squared distance in RGB."""
    best, rows = np.full(len(colours), np.inf), np.zeros(len(colours), np.int64)
    for row, colour in enumerate(known.astype(np.int64)):
        distances = ((colours - colour) ** 2).sum(-1)
        nearer = distances < best
        best[nearer], rows[nearer] = distances[nearer], row
    return rows


def _eight_bit_ids(values: np.ndarray, path: Path) -> np.ndarray:
    """Whole numbers from 0 to 255 of any type as uint8; DataError lists the others."""
    if values.dtype == np.uint8:
        return np.ascontiguousarray(values)
    ids = values.astype(np.uint8) if values.dtype.kind != 'f' else np.nan_to_num(values).clip(0, 255).astype(np.uint8)
    wrong = ids != values
    if wrong.any():
        found, counts = np.unique(values[wrong], return_counts=True)
        listed = ', '.join(f'{value} ({count} pixels)' for value, count in zip(found[:LISTED].tolist(), counts))
        raise DataError(
            f'{path}: values that are no class ids: {listed}{_more(len(found))}; expected whole numbers from 0 to 255'
        )
    return ids


def _repeated(values: np.ndarray, path: Path) -> np.ndarray:
    """Grey values as RGB."""
    return np.repeat(_eight_bit_ids(values, path)[..., None], 3, -1)


def _is_grey(pixels: np.ndarray) -> bool:
    return bool((pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 1] == pixels[..., 2]).all())


def _colour_codes(pixels: np.ndarray) -> np.ndarray:
    """RGB colours (..., 3) as one integer each, int32 (...)."""
    red, green, blue = (pixels[..., channel].astype(np.int32) for channel in range(3))
    return (red << 16) | (green << 8) | blue


def _more(count: int, listed: int = LISTED) -> str:
    return ', ...' if count > listed else ''


def _ranges(ids: Mapping[int, int]) -> str:
    """The keys in short: 0 to 11, 255."""
    runs: list[list[int]] = []
    for i in sorted(ids):
        if runs and runs[-1][1] == i - 1:
            runs[-1][1] = i
        else:
            runs.append([i, i])
    return ', '.join(f'{first} to {last}' if first < last else str(first) for first, last in runs)
