"""Pictures as arrays and as parts of a page."""

import base64

import cv2
import numpy as np

WIDTH = 512  # pixels of a picture in a page


def colour_labels(label: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Class ids uint8 (H, W) -> RGB uint8 (H, W, 3); ids without a colour, such as the ignored 255, are black."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = palette
    return table[label]


def shrink(image: np.ndarray, smooth: bool = False) -> np.ndarray:
    """At most WIDTH pixels wide; ``smooth`` averages pixels, without it colours stay what they are."""
    height, width = image.shape[:2]
    if width <= WIDTH:
        return image
    size = (WIDTH, max(1, round(height * WIDTH / width)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if smooth else cv2.INTER_NEAREST)


def data_uri(image: np.ndarray, suffix: str) -> str:
    """RGB uint8 (H, W, 3) -> a data URI; ``suffix`` is ``.png`` or ``.jpg``."""
    _, content = cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    kind = {'.png': 'png', '.jpg': 'jpeg'}[suffix]
    return f'data:image/{kind};base64,{base64.b64encode(content.tobytes()).decode()}'
