"""Images and labels from files: one set of rules for every data set, both tasks and prediction (docs/own_data.md).

A file is opened as one of a closed list of kinds, none of which starts a program or reads another file. ``read_image`` gives
8-bit RGB, ``read_samples`` what a label file stores, unchanged. Both turn a file as its own EXIF data says, unless told
otherwise.
"""

import contextlib
import logging
import os
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Optional, TypeVar

import cv2
import numpy as np
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile, DibImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from twinseg.common.errors import DataError
from twinseg.common.settings.limits import MAX_PIXELS

try:
    import PIL.AvifImagePlugin  # noqa: F401 - Pillow knows a plugin that is imported
except ImportError:  # Pillow before 11.3
    pass

logging.getLogger('PIL').setLevel(logging.CRITICAL)  # what it logs of a broken file is a DataError here
opencv_logging = cv2 if hasattr(cv2, 'setLogLevel') else cv2.utils.logging  # type: ignore[attr-defined] # OpenCV 5
opencv_logging.setLogLevel(0)  # it would print a line for every tag of a GeoTIFF; failures are DataError here

KINDS = (
    *(JpegImageFile, PngImageFile, TiffImageFile, WebPImageFile, BmpImageFile, DibImageFile, GifImageFile, PpmImageFile),
    Jpeg2KImageFile,
)
FORMATS = [str(kind.format) for kind in KINDS]  # Pillow's others are rare, and one of them, EPS, starts Ghostscript
FORMATS += ['AVIF'] if 'AVIF' in Image.OPEN else []
DEEP_GREY = ('I;16', 'I;16L', 'I;16B', 'I;16N')  # Pillow's modes of 16-bit grey
LOSSY = ('JPEG', 'MPO', 'JPEG2000', 'AVIF')  # formats that change class ids, or may have
LOSSY_COMPRESSIONS = (6, 7, 50001)  # compressions of TIFF: JPEG in two forms, WebP
FULL_RANGE = 1 << 14  # 16-bit photographs reach it; data of 10, 12 or 14 bits in a 16-bit file do not
ORIENTATION, SUBFILE, BITS, PHOTOMETRIC, SAMPLE_FORMAT = 274, 254, 258, 262, 339  # tags of EXIF and of TIFF
WIDTH, HEIGHT, COMPRESSION, SAMPLES = 256, 257, 259, 277  # further tags of TIFF
SIDEWAYS = (5, 6, 7, 8)  # orientations that exchange height and width
MIN_IS_WHITE, SIGNED = 0, 2  # values of PHOTOMETRIC and SAMPLE_FORMAT
STRIP = 1 << 22  # pixels that are made RGB at once
MAX_DEFLATE = 1032  # bytes that a byte of a PNG becomes at most; Pillow makes what is missing black
MAX_LENGTH = 1_000_000  # pixels of a side: libpng, which writes masks and overlays, takes no longer ones
MAX_UNUSUAL_BITS = 1 << 32  # bits of all samples of a TIFF that Pillow does not read: 512 MB
TIFFS = (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')  # first bytes; the last two are BigTIFF
PNG = b'\x89PNG\r\n\x1a\n'
STRANGE_TIFF = (
    'a TIFF, but broken, or of a kind that is not read (channels apart, or more than 4, 64-bit integers); save it as PNG'
)
OTHER_FILES = {  # first bytes of what users give for images -> what it is, and what to do
    b'%!': 'PostScript, which is a program and is not run; save it as PNG',
    b'%PDF': 'PDF; save its pictures as PNG',
    b'8BPS': 'a file of Photoshop; save it as PNG',
    b'<': 'text (HTML, XML or SVG): a failed download?',
    b'version https://git-lfs': 'a pointer of Git LFS, not the file itself: run `git lfs pull`',
    b'\x93NUMPY': 'an array of NumPy; save it as PNG',
    b'\x89HDF': 'HDF5; save its arrays as PNG',
    b'PK\x03\x04': 'a zip archive; unpack it',
    b'\x1f\x8b': 'compressed with gzip; unpack it',
    **dict.fromkeys(TIFFS, STRANGE_TIFF),
}


@dataclass(frozen=True)
class ImageRules:
    """How the pixels of image files are understood. ``upright``: turned as the EXIF data say; ``white_level``: the sample value
    that becomes 255 in files of more than 8 bits, by default the largest that the file's kind can hold; ``most``: pixels of the
    largest image."""

    upright: bool = True
    white_level: Optional[float] = None
    most: int = MAX_PIXELS


AS_SEEN = ImageRules()
T = TypeVar('T')
_stderr = threading.Lock()  # held while it leads nowhere; a loader's worker must not begin then
os.register_at_fork(before=_stderr.acquire, after_in_parent=_stderr.release, after_in_child=_stderr.release)


class Extent(NamedTuple):
    """Height and width of an image as its EXIF ``orientation`` turns it, and that number, 1 to 8; 1: it is stored upright, or
    does not say."""

    size: tuple[int, int]
    orientation: int


class Samples(NamedTuple):
    """What a label file stores: ``values`` as they are in it, grey values or palette indices (H, W) of any number type, or RGB
    (H, W, 3) uint8 or uint16; where the file has them, ``alpha`` (H, W) and the RGB colours of the indices, uint8 (n, 3). A
    ``lossy`` file is of a format that changes values."""

    values: np.ndarray
    alpha: Optional[np.ndarray] = None
    palette: Optional[np.ndarray] = None
    lossy: bool = False


class _Decoded(NamedTuple):
    """A decoded file.

    ``image``: pixels as Pillow has them. ``channels``: samples (H, W) or (H, W, 3 or 4), red first, where Pillow cuts or does
    not read them. ``turn``: the EXIF orientation by which either is still to be turned. ``bits`` of a stored sample,
    ``min_is_white`` and ``signed`` say what the samples mean; ``largest``: the largest value of a PGM or PPM, by which Pillow
    has scaled it; ``lossy``: whether the format changes samples, or may have.
    """

    image: Optional[Image.Image]
    turn: int
    bits: int
    format: str
    channels: Optional[np.ndarray] = None
    min_is_white: bool = False
    signed: bool = False
    largest: int = 0
    lossy: bool = False

    @property
    def mode(self) -> str:
        """Pillow's name of the kind of pixels; of ``channels`` none."""
        return self.image.mode if self.image is not None and self.channels is None else ''


def read_image(source: Path | BinaryIO, name: str | Path | None = None, rules: ImageRules = AS_SEEN) -> np.ndarray:
    """An image file as RGB, uint8 (H, W, 3), read-only.

    8-bit files are what Pillow's ``convert('RGB')`` makes of them: grey is repeated, a palette looked up, transparency dropped;
    colour profiles are not applied. More bits are divided by the ``white_level``. DataError, with the ``name``, by default that
    of the file, for a missing or broken file, one that is no image, too large or ambiguous.
    """
    name = source if name is None and isinstance(source, Path) else name
    decoded = _decode(source, name, rules.upright, alone=False, most=rules.most)
    if decoded.channels is None and decoded.bits <= 8 and decoded.mode not in ('I', 'F', *DEEP_GREY):
        assert decoded.image is not None
        pixels = _rgb_pixels(decoded.image, name)
    else:
        pixels = _eight_bits(decoded, rules.white_level, name)
    return _turned(pixels, decoded.turn)


def read_samples(path: Path, upright: bool = True) -> Samples:
    """What a label file stores, exactly: Pillow's changes to grey values of 1, 2 and 4 bits and to inverted ones are undone.
    DataError for a broken file, and for one whose pixels can be no labels."""
    decoded = _decode(path, path, upright, alone=True)
    image, mode, alpha, palette = decoded.image, decoded.mode, None, None
    if decoded.channels is not None:
        values = decoded.channels
    elif mode in ('1', 'L', 'I', 'F', *DEEP_GREY):
        values = _grey(decoded)
    elif mode in ('P', 'PA', 'LA', 'RGB', 'RGBA', 'RGBX'):
        if decoded.largest > 255:  # Pillow has cut them to 8 bits
            raise DataError(f'{path}: a PPM of more than 8 bits a channel; save the label as PNG')
        values = _unscaled(np.asarray(image), decoded.largest, 255)
    else:
        raise DataError(
            f'{path}: pixels of kind {mode}; expected a label of class ids (grey or palette) or of RGB colours, as PNG'
        )
    if values.ndim == 3 and values.shape[2] in (2, 4):
        alpha = None if mode == 'RGBX' else values[..., -1]
        values = values[..., 0] if values.shape[2] == 2 else values[..., :3]
    if image is not None and mode in ('P', 'PA'):
        palette = np.array(image.getpalette('RGB'), np.uint8).reshape(-1, 3)
    alpha = None if alpha is None else _turned(alpha, decoded.turn)
    return Samples(_turned(values, decoded.turn), alpha, palette, decoded.lossy)


def read_extent(source: Path | BinaryIO, name: str | Path | None = None) -> Extent:
    """Size and orientation of an image file, by its header alone where that says both. DataError as of ``read_image``."""

    def measured(image: Optional[Image.Image], file: BinaryIO, head: bytes) -> Extent:
        turn = 1 if image is None else _orientation(image)
        if image is None or isinstance(image, TiffImageFile):  # versions of Pillow differ in which side is the width
            tags = _tags(file, head)
            turn, stored = _valid(tags.get(ORIENTATION, turn)), (int(tags[HEIGHT]), int(tags[WIDTH]))
        else:
            stored = image.height, image.width
        return Extent((stored[1], stored[0]) if turn in SIDEWAYS else stored, turn)

    return _opened(source, source if name is None and isinstance(source, Path) else name, MAX_PIXELS, measured)


def _decode(source: Path | BinaryIO, name: Any, upright: bool, alone: bool, most: int = MAX_PIXELS) -> _Decoded:
    """The first image of a file; ``alone``: a file with several is an error, else only a TIFF with several of one size."""

    def decoded(image: Optional[Image.Image], file: BinaryIO, head: bytes) -> _Decoded:
        if image is None:
            return _unusual_tiff(file, head, name, upright)
        _check_frames(image, name, alone)
        return _loaded(image, file, head, name, upright)

    return _opened(source, name, most, decoded)


def _opened(source: Path | BinaryIO, name: Any, most: int, use: Callable[[Optional[Image.Image], BinaryIO, bytes], T]) -> T:
    """What ``use`` makes of an image, its file and the first bytes of that; of a TIFF that Pillow does not know, without an
    image. DataError for whatever goes wrong, and for more pixels than ``most``."""
    head = b''
    try:
        if isinstance(source, Path) and not source.is_file() and source.exists():  # opening a FIFO would wait for ever
            raise DataError(f'{name}: no file, but a folder or a device; not readable as an image')
        with source.open('rb') if isinstance(source, Path) else source as file:
            head, size = file.read(32), file.seek(0, os.SEEK_END)
            file.seek(0)
            try:
                with _limit(most) if most > MAX_PIXELS else contextlib.nullcontext():
                    image = Image.open(file, formats=FORMATS)
            except Image.UnidentifiedImageError:
                if head[:4] not in TIFFS:
                    raise
                return use(None, file, head)
            with image:
                if image.width * image.height > most:
                    raise DataError(f'{name}: {image.width}x{image.height} pixels, more than the limit of {most}')
                if max(image.size) > MAX_LENGTH:
                    raise DataError(f'{name}: {image.width}x{image.height} pixels; a side has at most {MAX_LENGTH}')
                if image.format == 'PNG' and image.height * (image.width // 8) > MAX_DEFLATE * size:
                    raise DataError(f'{name}: {size} bytes cannot hold {image.width}x{image.height} pixels; get the file again')
                return use(image, file, head)
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f'{name}: no such file') from None
    except OSError as error:
        if error.errno is None or isinstance(error, Image.UnidentifiedImageError):
            raise _unreadable(error, head, name) from None
        raise DataError(f'{name}: not readable: {error.strerror}; see to the disk or the mount') from None
    except Image.DecompressionBombError as error:
        raise DataError(f'{name}: {error}') from None
    except Exception as error:  # Pillow's decoders raise anything for a broken file
        raise _unreadable(error, head, name) from None


def _unreadable(error: Exception, head: bytes, name: Any) -> DataError:
    """The error of a broken file, or of one of another kind."""
    reason = f'truncated or broken ({" ".join(str(error).split()) or type(error).__name__})'
    if isinstance(error, Image.UnidentifiedImageError):
        reason = _other_file(head) or f'truncated or broken, or none of {", ".join(FORMATS)}'
    return DataError(f'{name}: not readable as an image, {reason}')


@contextmanager
def _limit(most: int) -> Iterator[None]:
    """Pillow's own limit of pixels, lifted where ``most`` is more than usual: it is checked before pixels are decoded."""
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, most
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


@contextmanager
def _quiet_libtiff() -> Iterator[None]:
    """Libtiff, in Pillow, prints lines of its own where it fails; Pillow raises an error, too, and that is enough."""
    with _stderr:
        try:
            kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        except OSError:  # stderr is closed
            yield
            return
        try:
            os.dup2(nowhere, 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            os.close(nowhere)


def _check_frames(image: Image.Image, name: Any, alone: bool) -> None:
    """DataError where the first image is not all that the file says; thumbnails, overviews and, unless it must be ``alone``,
    the later frames of an animation do not count."""
    if isinstance(image, TiffImageFile):
        size, count = image.size, 1
        try:
            while alone or count < 2:
                image.seek(count)
                if image.size == size and not int(image.tag_v2.get(SUBFILE, 0)) & 5:  # bits: reduced size, mask of transparency
                    raise DataError(
                        f'{name}: a TIFF with several pages of one size; expected one: save each page as a file of its own'
                    )
                count += 1
        except DataError:
            raise
        except Exception:  # the end, or a page that is not readable, and not needed
            pass
        if count > 1 or image.tell():
            image.seek(0)
    elif alone and image.format in ('GIF', 'PNG', 'WEBP') and getattr(image, 'n_frames', 1) > 1:
        raise DataError(f'{name}: an animation of {image.n_frames} frames; expected one label')  # type: ignore[attr-defined]


def _loaded(image: Image.Image, file: BinaryIO, head: bytes, name: Any, upright: bool) -> _Decoded:
    bits, largest, tags = 8, 0, {}
    if image.format == 'PNG':
        if head[12:16] != b'IHDR':
            raise SyntaxError('no header where it belongs')
        bits = head[24]
    elif isinstance(image, TiffImageFile):
        tags = dict(image.tag_v2)
        bits = max(np.ravel(tags.get(BITS, 1)).tolist())
    elif isinstance(image, PpmImageFile) and image.tile[0].codec_name in ('ppm', 'ppm_plain') and image.mode != '1':
        largest = int(image.tile[0].args[1])  # type: ignore[index, arg-type]
    elif image.mode in DEEP_GREY:
        bits = 16
    with _quiet_libtiff() if image.format == 'TIFF' else contextlib.nullcontext():
        image.load()
    turn = _orientation(image) if upright or tags else 1
    stored = _valid(tags.get(ORIENTATION, turn))
    if turn == 1 and stored > 1 and not upright:  # Pillow has turned a TIFF
        turn = {6: 8, 8: 6}.get(stored, stored)
    elif not upright:
        turn = 1
    channels = None
    cut = bits == 16 and image.mode in ('RGB', 'RGBA')  # Pillow keeps 8 of 16 bits
    swapped = head[:2] == b'MM' and image.mode in ('I', 'F')  # Pillow swaps the bytes of compressed big-endian numbers twice
    if cut or swapped:
        channels, turn = _by_opencv(file, head, name), stored if upright else 1
    min_is_white = tags.get(PHOTOMETRIC) == MIN_IS_WHITE or head[:2] in (b'P1', b'P4')
    signed = bool(tags) and SIGNED in np.ravel(tags.get(SAMPLE_FORMAT, 1))
    lossy = _is_lossy(image, file, tags)
    return _Decoded(image, turn, bits, str(image.format), channels, min_is_white, signed, largest, lossy)


def _is_lossy(image: Image.Image, file: BinaryIO, tags: dict[int, Any]) -> bool:
    if image.format != 'WEBP':
        return image.format in LOSSY or tags.get(COMPRESSION) in LOSSY_COMPRESSIONS
    start, kind = 12, b''  # a chunk is kind, size, content, filled up to 2 bytes
    while kind not in (b'VP8 ', b'VP8L'):
        file.seek(start)
        kind, length = file.read(4), file.read(4)
        if len(length) < 4:
            return True
        size = int.from_bytes(length, 'little')
        start += 8 + size + size % 2
    return kind == b'VP8 '


def _tags(file: BinaryIO, head: bytes) -> dict[int, Any]:
    """The tags of a TIFF's first image."""
    directory = ImageFileDirectory_v2(head[: 16 if _is_big(head) else 8])
    file.seek(directory.next)
    directory.load(file)
    return dict(directory)


def _unusual_tiff(file: BinaryIO, head: bytes, name: Any, upright: bool) -> _Decoded:
    """A TIFF whose samples Pillow does not read: floating-point numbers of 64 bits, or as colours, big-endian integers, ..."""
    tags = _tags(file, head)
    bits, count = max(np.ravel(tags.get(BITS, 1)).tolist()), int(tags.get(SAMPLES, 1))
    pixels = int(tags[WIDTH]) * int(tags[HEIGHT])
    if pixels > MAX_PIXELS or pixels * count * bits > MAX_UNUSUAL_BITS:
        raise DataError(
            f'{name}: {tags[WIDTH]}x{tags[HEIGHT]} pixels, more than the limit of {MAX_PIXELS} (fewer if they are large)'
        )
    if bits not in (16, 32, 64) or count not in (1, 3, 4) or tags.get(PHOTOMETRIC, 1) != min(count, 2):
        raise DataError(f'{name}: not readable as an image, {STRANGE_TIFF}')
    stored = _valid(tags.get(ORIENTATION))
    channels = _by_opencv(file, head, name)
    signed = SIGNED in np.ravel(tags.get(SAMPLE_FORMAT, 1))
    return _Decoded(None, stored if upright else 1, bits, 'TIFF', channels, signed=signed)


def _by_opencv(file: BinaryIO, head: bytes, name: Any) -> np.ndarray:
    """Samples of a PNG or TIFF as OpenCV reads them, neither cut nor turned: (H, W), or (H, W, 3 or 4), red first."""
    file.seek(0)
    content, unsigned = bytearray(file.read()), False
    if head[:4] in TIFFS:  # OpenCV turns some kinds, and reads 32-bit integers only as signed ones
        tags = _numbers_of_tags(content, head)
        numbers = {tag: struct.unpack_from(form, content, at) for tag, (form, at) in tags.items()}
        unsigned = numbers.get(BITS, (0,))[0] == 32 and numbers.get(SAMPLE_FORMAT, (1,))[0] == 1
        for tag, number in ((ORIENTATION, 1), *([(SAMPLE_FORMAT, SIGNED)] if unsigned else [])):
            if tag in tags:
                form, at = tags[tag]
                struct.pack_into(form, content, at, *[number] * len(numbers[tag]))
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype == np.uint8 or pixels.ndim == 3 and pixels.shape[2] not in (3, 4):
        raise DataError(f'{name}: not readable as an image, {STRANGE_TIFF if head[:4] in TIFFS else "truncated or broken"}')
    pixels = pixels.view(np.uint32) if unsigned and pixels.dtype == np.int32 else pixels
    return pixels if pixels.ndim == 2 else pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]


def _orientation(image: Image.Image) -> int:
    try:
        return _valid(image.getexif().get(ORIENTATION))
    except Exception:  # broken EXIF data: the picture is not turned, as in viewers
        return 1


def _valid(value: Any) -> int:
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels (H, W, ...) turned so that what has the EXIF ``orientation`` is upright."""
    if orientation == 1:
        return pixels
    if orientation in SIDEWAYS:
        pixels = pixels.swapaxes(0, 1)
    rows = slice(None, None, -1) if orientation in (3, 4, 7, 8) else slice(None)
    columns = slice(None, None, -1) if orientation in (2, 3, 6, 7) else slice(None)
    return np.ascontiguousarray(pixels[rows, columns])


def _other_file(head: bytes) -> Optional[str]:
    if head[4:8] == b'ftyp' and head[8:11] in (b'hei', b'hev', b'mif', b'msf'):
        return 'HEIC, which is not read; convert it to JPEG (on an iPhone: Settings, Camera, Formats, Most Compatible)'
    return next((text for start, text in OTHER_FILES.items() if head.lstrip(b'\xef\xbb\xbf \r\n').startswith(start)), None)


def _is_big(head: bytes) -> bool:
    """True for a BigTIFF."""
    return head[:4] in TIFFS[2:]


def _numbers_of_tags(content: bytearray, head: bytes) -> dict[int, tuple[str, int]]:
    """Where the numbers of the first directory's 16-bit tags are in a TIFF: ``struct`` format and position."""
    order, big = '<' if head[:2] == b'II' else '>', _is_big(head)
    position, pointer, counter, size = (8, 'Q', 'Q', 8) if big else (4, 'I', 'H', 4)
    (start,) = struct.unpack_from(order + pointer, content, position)
    (entries,) = struct.unpack_from(order + counter, content, start)
    numbers: dict[int, tuple[str, int]] = {}
    for entry in range(start + struct.calcsize(counter), len(content), 4 + 2 * size):
        if entries <= len(numbers):
            break
        tag, kind, count = struct.unpack_from(f'{order}HH{pointer}', content, entry)
        at = entry + 4 + size
        if 2 * count > size:
            (at,) = struct.unpack_from(order + pointer, content, at)
        numbers[tag] = (f'{order}{min(count, 4)}H' if kind == 3 else '', at)
    return {tag: (form, at) for tag, (form, at) in numbers.items() if form}


# Images


def _rgb_pixels(image: Image.Image, name: Any) -> np.ndarray:
    """Pixels as RGB, uint8 (H, W, 3), read-only; those of a large image strip by strip, or they would be there five times."""
    if image.width * image.height <= STRIP:
        return np.asarray(_as_rgb(image, name))
    pixels, rows = np.empty((image.height, image.width, 3), np.uint8), max(1, STRIP // image.width)
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        pixels[top:bottom] = _as_rgb(image.crop((0, top, image.width, bottom)), name)
    pixels.flags.writeable = False
    return pixels


def _as_rgb(image: Image.Image, name: Any) -> Image.Image:
    if image.mode == 'RGB':
        return image
    image.info.pop('transparency', None)  # dropped; Pillow would warn of it
    try:
        return image.convert('RGB')
    except ValueError as error:
        raise DataError(f'{name}: pixels of kind {image.mode} cannot be made RGB ({error}); save them as RGB') from None


def _eight_bits(decoded: _Decoded, white_level: Optional[float], name: Any) -> np.ndarray:
    """Samples of more than 8 bits, divided by the white level: uint8 (H, W, 3)."""
    if decoded.channels is not None:
        samples = decoded.channels[..., :3] if decoded.channels.ndim == 3 else decoded.channels
    elif decoded.mode in ('I', 'F', *DEEP_GREY):
        samples = _grey(decoded, scaled=True)
    else:
        raise DataError(f'{name}: {decoded.bits}-bit samples of kind {decoded.mode}; save them as RGB, or with 8 bits')
    floating = samples.dtype.kind == 'f'
    lowest, highest = samples.min(), samples.max()
    found = f'samples from {lowest:g} to {highest:g}'
    white = white_level
    if white is None and not floating and (decoded.format in ('PPM', 'JPEG2000') or decoded.bits == 12):
        white = 4095 if decoded.bits == 12 else 65535  # the file says its range, by which Pillow has scaled it
    elif white is None and (decoded.bits != 16 or floating or decoded.signed):
        raise DataError(
            f'{name}: {found}, {"floating-point numbers" if floating else "integers"} whose white is not known; set '
            'white_level to the value that is white (1.0, 255, 65535, ...), or save 8 bits'
        )
    elif white is None and 0 < highest < FULL_RANGE:
        bits = max(int(highest).bit_length(), 8)
        raise DataError(
            f'{name}: {found} in a 16-bit file: data of {bits} bits? Set white_level to the value that is white: '
            f'{(1 << bits) - 1} for {bits} bits, 65535 where the picture is that dark'
        )
    white = 65535 if white is None else white
    if not (lowest >= 0 and highest <= white):  # not a number is refused, too
        raise DataError(f'{name}: {found}; expected 0 to {white:g} (white_level)')
    if samples.dtype == np.uint16:
        levels = np.rint(np.minimum(np.arange(1 << 16) * (255 / white), 255)).astype(np.uint8)[samples]
    else:
        levels = np.rint(samples * (255 / white)).astype(np.uint8)
    if decoded.min_is_white:
        levels = 255 - levels
    return np.repeat(levels[..., None], 3, -1) if levels.ndim == 2 else levels


# Labels


def _grey(decoded: _Decoded, scaled: bool = False) -> np.ndarray:
    """Grey samples (H, W) as they are stored, of the number type that Pillow has for them; ``scaled``: as Pillow gives them,
    where these are larger."""
    mode, values = decoded.mode, np.asarray(decoded.image)
    if mode == '1':
        return (values ^ decoded.min_is_white).astype(np.uint8)
    if mode == 'L':
        values = 255 - values if decoded.min_is_white else values
        if decoded.bits < 8:
            values = values // (255 // ((1 << decoded.bits) - 1))
        return _unscaled(values.view(np.int8) if decoded.signed else values, decoded.largest, 255)
    if mode in DEEP_GREY:
        return values.astype(np.uint16)
    if mode == 'I' and decoded.bits == 32 and not decoded.signed:
        return values.view(np.uint32)
    return values if scaled else _unscaled(values, decoded.largest, 65535)


def _unscaled(values: np.ndarray, largest: int, scale: int) -> np.ndarray:
    """Samples of a PGM whose ``largest`` value is another than 255 or 65535, before Pillow scaled them."""
    if not largest or largest == scale:
        return values
    return np.rint(values * (largest / scale)).astype(np.int32)
