"""Pictures as parts of a page."""

import base64

import cv2
import numpy as np


def data_uri(image: np.ndarray, suffix: str) -> str:
    """RGB uint8 (H, W, 3) -> a data URI; ``suffix`` is ``.png`` or ``.jpg``."""
    _, content = cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    kind = {'.png': 'png', '.jpg': 'jpeg'}[suffix]
    return f'data:image/{kind};base64,{base64.b64encode(content.tobytes()).decode()}'
