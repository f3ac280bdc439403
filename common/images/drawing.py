"""Drawing: class colours over an image, a legend of the classes, pictures as parts of a page."""

import base64
from typing import Optional, Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

OPACITY = 0.5  # opacity of the class colours over the image
STRIP = 1 << 20  # pixels that are blended at once
READABLE = 320  # pixels of the narrowest picture with a legend
NOTEBOOK = 960  # pixels of the widest picture in a notebook
MAX_ENLARGED = 1 << 22  # pixels of the largest picture that a small image is enlarged to
MAX_WIDENED = 1 << 26  # pixels of the largest picture that gets white beside a narrow image, 200 MB
WRONG = (220, 30, 30)  # pixels of another class than the label's
INK, PAPER = (40, 40, 40), (255, 255, 255)


def encoded(image: np.ndarray, suffix: str = '.png') -> bytes:
    """An RGB image (H, W, 3) or a grey one (H, W), uint8, as the content of a ``.png`` or ``.jpg`` file.

    OpenCV's PNG compresses runs of equal bytes: of overlays and class ids it makes files as small as zlib's level 6 does, in a
    sixth of the time.
    """
    options = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
    pixels = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return cv2.imencode(suffix, pixels, options if suffix == '.png' else [])[1].tobytes()


def blend(image: np.ndarray, ids: np.ndarray, palette: np.ndarray, opacity: float = OPACITY) -> np.ndarray:
    """An RGB image (H, W, 3) with the classes' colours over it and a pale line between classes.

    ``ids`` uint8 (H, W), ``palette`` uint8 (C, 3); pixels with an id beyond the palette (255: ignored) stay as they are.
    """
    mixed = np.empty_like(image)
    rows = max(1, STRIP // image.shape[1])  # rows of a strip: a large image does not exist several times
    for top in range(0, len(image), rows):
        with_row_above = slice(max(top - 1, 0), top + rows)
        strip = _blend(image[with_row_above], ids[with_row_above], palette, opacity)
        mixed[top : top + rows] = strip[1 if top else 0 :]
    return mixed


def _blend(image: np.ndarray, ids: np.ndarray, palette: np.ndarray, opacity: float) -> np.ndarray:
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(palette)] = palette
    mixed = cv2.addWeighted(image, 1 - opacity, colours[ids], opacity, 0)
    edges = np.zeros(ids.shape, bool)
    edges[:, 1:] |= ids[:, 1:] != ids[:, :-1]
    edges[1:] |= ids[1:] != ids[:-1]
    mixed[edges] = mixed[edges] // 2 + 127
    outside = ids >= len(palette)
    mixed[outside] = image[outside]
    return mixed


def colour_labels(label: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Class ids uint8 (H, W) -> RGB uint8 (H, W, 3); ids without a colour, such as the ignored 255, are black."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = palette
    return table[label]


def error_map(image: np.ndarray, label: np.ndarray, ids: np.ndarray, ignore_index: int = 255) -> np.ndarray:
    """Where class ids (H, W) differ from the label, in red over the grey RGB image (H, W, 3); what is ignored is black."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    drawn = np.repeat((grey // 2 + 96)[..., None], 3, axis=2)
    drawn[label != ids] = WRONG
    drawn[label == ignore_index] = 0
    return drawn


def shrink(image: np.ndarray, width: int, smooth: bool = False) -> np.ndarray:
    """At most ``width`` pixels wide; ``smooth`` averages pixels, without it colours stay what they are."""
    if image.shape[1] <= width:
        return image
    size = (width, max(1, round(image.shape[0] * width / image.shape[1])))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if smooth else cv2.INTER_NEAREST)


def shares(ids: np.ndarray, classes: int) -> dict[int, float]:
    """Classes present, with their share of the pixels that have a class, largest first."""
    counts = np.bincount(ids.ravel(), minlength=256)[:classes]
    order = sorted(np.flatnonzero(counts), key=lambda i: (-counts[i], i))
    return {int(i): float(counts[i] / counts.sum()) for i in order}


def legend(width: int, names: Sequence[str], colours: np.ndarray, notes: Optional[Sequence[str]] = None) -> np.ndarray:
    """A white strip (h, width, 3) with a swatch and a name for every class, in as many columns as fit.

    ``notes`` are set in grey behind the names.
    """
    size = int(np.clip(width / 48, 13, 26))  # pixels of the letters
    font = ImageFont.load_default(size)
    notes = notes or [''] * len(names)
    texts = [f'{name} {note}'.rstrip() for name, note in zip(names, notes)]
    swatch, gap, line = size, size // 2, int(size * 1.7)
    cell = max((int(font.getlength(text)) for text in texts), default=0) + swatch + 3 * gap
    columns = max(1, min(len(texts), (width - gap) // cell)) if texts else 1
    rows = -(-len(texts) // columns)
    strip = Image.new('RGB', (width, rows * line + gap), PAPER)
    draw = ImageDraw.Draw(strip)
    for index, (name, note, colour) in enumerate(zip(names, notes, colours)):
        row, column = divmod(index, columns)
        left, top = gap + column * ((width - gap) // columns), gap // 2 + row * line
        middle = top + line // 2
        draw.rectangle((left, middle - swatch // 2, left + swatch, middle + swatch // 2), tuple(int(c) for c in colour), INK)
        draw.text((left + swatch + gap, middle), name, INK, font, 'lm')
        draw.text((left + swatch + gap + font.getlength(name + ' '), middle), note, (130, 130, 130), font, 'lm')
    return np.array(strip)


def data_uri(image: np.ndarray, suffix: str) -> str:
    """RGB uint8 (H, W, 3) -> a data URI; ``suffix`` is ``.png`` or ``.jpg``."""
    kind = {'.png': 'png', '.jpg': 'jpeg'}[suffix]
    return f'data:image/{kind};base64,{base64.b64encode(encoded(image, suffix)).decode()}'


def overlay(
    image: np.ndarray,
    ids: np.ndarray,
    classes: Sequence[str],
    palette: np.ndarray,
    *,
    all_classes: bool = False,
    opacity: float = OPACITY,
) -> np.ndarray:
    """An RGB image with class colours and, below it, a legend of the classes present (with their share of the image),
    or of ``all_classes``, so that the pictures of a video have one size.

    A small image is enlarged by a whole factor so that the legend can be read; where that would make it too high, white is put
    on its right. A strip so long that the white would be most of a large picture has no legend.
    """
    height, width = image.shape[:2]
    factor = max(1, min(-(-READABLE // width), MAX_ENLARGED // (height * READABLE)))
    large = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR) if factor > 1 else image
    mask = ids.repeat(factor, 0).repeat(factor, 1) if factor > 1 else ids
    if all_classes:
        present, notes = list(range(len(classes))), None
    else:
        share_of_class = shares(ids, len(classes))
        present, notes = list(share_of_class), [_percent(share) for share in share_of_class.values()]
    picture = blend(large, mask, palette, opacity)
    if picture.shape[1] < READABLE:
        if len(picture) * READABLE > MAX_WIDENED:
            return picture
        picture = np.pad(picture, ((0, 0), (0, READABLE - picture.shape[1]), (0, 0)), constant_values=PAPER[0])
    return np.concatenate([picture, legend(picture.shape[1], [classes[i] for i in present], palette[present], notes)])


def _percent(share: float) -> str:
    return '<1 %' if share < 0.005 else f'{share:.0%}'.replace('%', ' %')
