"""What the readers of all labelling tools share: JSON and coordinates of strangers within limits, images looked up by name, and
the types that they return."""

import base64
import io
import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any, Callable, Mapping, Optional, Sequence, Union

import numpy as np
from PIL import Image, UnidentifiedImageError

from twinseg.common.data.listing import IMAGE_SUFFIXES, is_image, list_files, same_name
from twinseg.common.data.reading import SIDEWAYS, read_extent
from twinseg.common.errors import DataError
from twinseg.common.files import read_bounded
from twinseg.common.settings.limits import MAX_PIXELS

MAX_JSON = 512 << 20  # bytes of a JSON file; instances_train2017.json of COCO has 449 million
MAX_COORDINATE = 100_000  # pixels from the image's corner; Pillow's and pycocotools' times grow with it
MAX_OUTLINE = 1 << 23  # pixels of all outlines of an image together: about a second's drawing
MAX_CORNERS = 1 << 15  # corners of an outline; Pillow's time grows with their square, to 5 seconds
MAX_PAINTED = 1 << 33  # pixels that all objects of an image cover together: a few seconds' drawing
SHOWN = 80  # characters of a stranger's text that a message shows
DOCUMENTS = ('.json', '.txt', '.xml')  # suffixes of annotations, lists and label maps
BYTES = ('utf-8', 'surrogateescape')  # as names of files are read: any bytes
Point = tuple[float, float]  # x, y in pixels
Draw = Callable[[Mapping[str, int], int], np.ndarray]  # ids by label, id of the pixels without an object -> ids, uint8 (H, W)


@dataclass(frozen=True)
class AnnotatedImage:
    """An image and the objects on it.

    ``size`` is its height and width as EXIF turns it; ``name`` its path below the annotations' folder, without suffix;
    ``group`` the folder, list or file that may name its split; ``labels`` the label of every object, in any order. ``draw``
    gives the ids of the label file; ``digest`` changes with what it draws. ``content`` reads the image file where it is
    nowhere but in the annotation.
    """

    source: Path
    image: Path
    size: tuple[int, int]
    name: str
    group: str
    labels: Sequence[str]
    draw: Draw
    digest: str
    content: Optional[Callable[[], bytes]] = None


@dataclass
class Annotations:
    """What a reader found: the images, the classes in the tool's order, where it has one, their colours, and what is left out,
    a sentence each."""

    images: list[AnnotatedImage] = field(default_factory=list)
    classes: Optional[list[str]] = None
    colours: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


class Problems:
    """Collects the DataErrors of many files, so that a user hears of all at once."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def __enter__(self) -> 'Problems':
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool:
        if isinstance(error, DataError):
            self.messages.append(str(error))
            return True
        return False

    def raise_any(self, count: int) -> None:
        """DataError that names the first of the problems, and says how many there are."""
        if len(self.messages) == 1:
            raise DataError(self.messages[0])
        if self.messages:
            raise DataError(f'{len(self.messages)} of {count} cannot be converted: {"; ".join(self.messages[:3])}')


def files_below(root: Path) -> list[Path]:
    """The images, JSON files, texts and XML files at or below a folder, as every data set lists files, sorted."""
    listing = list_files(root, (*IMAGE_SUFFIXES, *DOCUMENTS))
    return [listing.path(name) for name in listing.names]


class ImageIndex:
    """The images below a folder, looked up by the names that annotations give them.

    What an annotation says is never opened as a path: it is compared with the paths that are there, so that it cannot lead
    out of the folder.
    """

    def __init__(self, root: Path, files: Sequence[Path]):
        self.root, self.used = root, set[Path]()
        self.images = [path for path in files if is_image(path.name)]
        self._by_name: dict[str, list[Path]] = defaultdict(list)
        for path in self.images:
            for name in {_key(path.name), _key(path.stem)}:
                self._by_name[name].append(path)

    def find(self, name: str, source: Path) -> Optional[Path]:
        """The image that ``source`` names, with slashes or back slashes, with or without folders and suffix; None if there is
        none, DataError where several may be meant.

        Of several, those win whose folders are the named ones; then those beside the source; then those below a folder
        whose name is part of the source's; then those whose name is the same in case, too.
        """
        named = [part for part in PureWindowsPath(name).parts if part not in ('..', '.')]
        parts = [_key(part) for part in named]
        candidates = self._by_name.get(parts[-1], []) if parts else []
        preferences: tuple[Callable[[Path], bool], ...] = (
            lambda path: [_key(part) for part in path.parts[-len(parts) :]] == parts,
            lambda path: path.parent == source.parent,
            lambda path: any(len(part) > 2 and part in source.stem for part in path.parts[:-1]),
            lambda path: named[-1] in (path.name, path.stem),
        )
        for preferred in preferences:
            candidates = list(filter(preferred, candidates)) or candidates
        if len(candidates) > 1:
            raise DataError(
                f'{source}: the image {cut(name)} may be {candidates[0]} or {candidates[1]}; convert their folders one by one'
            )
        self.used.update(candidates)
        return candidates[0] if candidates else None

    def name(self, image: Path) -> str:
        """The image's path below the folder, without suffix."""
        return image.relative_to(self.root).with_suffix('').as_posix()

    def remarks(self, what: str) -> list[str]:
        """A sentence on the images that nothing named, if there are any."""
        unused = [path for path in self.images if path not in self.used]
        return [f'{len(unused)} images without {what} are left out, first {unused[0]}'] if unused else []


def _key(name: str) -> str:
    """A name as it is compared: whatever its case, and however its accents are written."""
    return same_name(name).casefold()


def read_json(path: Path) -> Any:
    """The content of a JSON file; DataError, which names the file, for what is none or too large. Numbers may be infinite."""
    try:
        content = read_bounded(path, MAX_JSON)
    except OSError as error:
        raise DataError(f'{path}: not readable ({error.strerror or error})') from None
    try:
        text = content.decode('utf-8-sig')
    except UnicodeDecodeError:
        kind = 'UTF-16' if content[:2] in (b'\xff\xfe', b'\xfe\xff') else 'no UTF-8'
        raise DataError(f'{path}: its text is {kind}; save it again as UTF-8') from None
    try:
        return json.loads(text)
    except RecursionError:
        raise DataError(f'{path}: nested too deeply for annotations') from None
    except ValueError as error:  # json.JSONDecodeError, and numbers of too many digits
        raise DataError(f'{path}: not readable as JSON ({_one_line(error)})') from None


def entry(content: Any, key: str, kind: type, path: Path) -> Any:
    """What a JSON object has under a key; DataError where it is no object, lacks the key or has another kind of value."""
    if not isinstance(content, dict):
        raise DataError(f'{path}: {_short(content)} where an object with {key} is expected')
    value = content.get(key)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        names = {dict: 'an object', list: 'a list', str: 'a text', int: 'a whole number'}
        raise DataError(f'{path}: {key} is {_short(value)}; expected {names[kind]}')
    return value


def optional(content: Any, key: str, default: Any, path: Path) -> Any:
    """The same of a key that may be absent, or null: then the ``default``, whose kind is that of the value."""
    missing = isinstance(content, dict) and content.get(key) is None
    return default if missing else entry(content, key, type(default), path)


def cut(text: str) -> str:
    """A text of a stranger, for a message."""
    return repr(text if len(text) <= SHOWN else f'{text[:SHOWN]}...')


def _short(value: Any) -> str:
    return 'missing' if value is None else f'{type(value).__name__} {str(value)[:40]!r}'


def points(value: Any, path: Path) -> list[Point]:
    """A list of [x, y] as numbers; DataError for anything else, and for coordinates beyond MAX_COORDINATE."""
    if not isinstance(value, list):
        raise DataError(f'{path}: points are {_short(value)}; expected a list of [x, y]')
    for point in value:
        if not isinstance(point, list) or len(point) != 2 or not all(type(number) in (int, float) for number in point):
            raise DataError(f'{path}: a point is {_short(point)}; expected [x, y]')
        if not all(-MAX_COORDINATE <= number <= MAX_COORDINATE for number in point):
            raise DataError(
                f'{path}: a point is {_short(point)}; coordinates are pixels, at most {MAX_COORDINATE} from the corner'
            )
    return [(float(x), float(y)) for x, y in value]


def check_effort(outlines: Sequence[Sequence[Point]], size: tuple[int, int], path: Path) -> None:
    """DataError where outlines are so long, or cover so many pixels of an image (height, width), that drawing them would take
    minutes."""
    length, area, squares = 0.0, 0.0, 0
    for outline in outlines:
        array = np.asarray(outline, np.float64).reshape(-1, 2)
        squares += len(array) ** 2
        if len(array):
            length += float(np.abs(np.diff(array, axis=0, append=array[:1])).sum()) + len(array)
            low, high = np.clip(array.min(0), 0, size[::-1]), np.clip(array.max(0), 0, size[::-1])
            area += float(np.prod(high - low + 1))
    if squares > MAX_CORNERS**2:
        raise DataError(f'{path}: outlines of {sum(map(len, outlines))} corners; at most {MAX_CORNERS} are drawn in one')
    if length > MAX_OUTLINE or area > MAX_PAINTED:
        raise DataError(
            f'{path}: outlines of {length:.3g} pixels around {area:.3g} pixels; at most {MAX_OUTLINE} and {MAX_PAINTED} are '
            'drawn in one image'
        )


def check_size(size: tuple[int, int], name: Union[str, Path]) -> None:
    """DataError for an image (height, width) of no pixels or too many."""
    if min(size) < 1 or size[0] * size[1] > MAX_PIXELS:
        raise DataError(f'{name}: {size[1]}x{size[0]} pixels; expected 1 to {MAX_PIXELS}')


def upright_size(image: Union[Path, bytes], said: Optional[tuple[int, int]], source: Path) -> tuple[int, int]:
    """Height and width of an image, a file or its content, as EXIF turns it; DataError where the annotation's (``said``) are
    others."""
    name = f'{source}: imageData' if isinstance(image, bytes) else image
    size, orientation = read_extent(io.BytesIO(image) if isinstance(image, bytes) else image, name)
    check_size(size, name)
    if said is None or said == size:
        return size
    found = f'{source}: it is drawn on {said[1]}x{said[0]} pixels, but {name} has {size[1]}x{size[0]}'
    if orientation in SIDEWAYS and said == size[::-1]:
        raise DataError(
            f'{found} when it is turned by its EXIF orientation ({orientation}), as viewers and labelling tools do; save the '
            'images upright (mogrify -auto-orient) and annotate them again'
        )
    raise DataError(f'{found}; both must be of one size')


def png_mask(content: bytes, name: str) -> np.ndarray:
    """The pixels of a PNG file that are neither transparent nor 0, bool (H, W); DataError, with the ``name``, for any other
    content."""
    try:
        with Image.open(io.BytesIO(content), formats=('PNG',)) as picture:
            check_size((picture.height, picture.width), name)
            if 'transparency' in picture.info or picture.mode in ('LA', 'RGBA', 'PA'):
                return np.asarray(picture.convert('RGBA'))[..., 3] > 0
            return np.asarray(picture if picture.mode in ('1', 'L', 'P') else picture.convert('L')) > 0
    except DataError:
        raise
    except Exception as error:  # Pillow fails in many ways on a broken file
        raise DataError(f'{name}: not readable as a PNG, truncated or broken ({_one_line(error)})') from None


def from_base64(text: str, name: str) -> bytes:
    """The bytes of a text in base64; DataError, with the ``name``, for another text."""
    try:
        return base64.b64decode(text)
    except ValueError:
        raise DataError(f'{name} is no base64') from None


def _one_line(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return 'none of the formats that are read'
    return ' '.join(str(error).split())[:200] or type(error).__name__
