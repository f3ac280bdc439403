"""``twinseg demo``: a page on this machine that shows what networks see in an image, side by side, and where they differ.

Built with gradio. It listens on this machine alone unless told otherwise, takes files up to a limit, asks no other server, and
sends nothing on.
"""

import os
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Optional

import numpy as np
from PIL import Image

from twinseg.common.backend import available
from twinseg.common.config import Data
from twinseg.common.data.toy_street import ToyStreet
from twinseg.common.deploy.load import load
from twinseg.common.errors import DataError, UserError, require
from twinseg.common.images.drawing import OPACITY, error_map
from twinseg.common.inference.model import Model, Result
from twinseg.common.inference.runs import load_run, stored_config
from twinseg.common.printable import printable
from twinseg.common.tasks.segmentation import Segmentation
from twinseg.common.weights import by_name

LOCAL = '127.0.0.1'
PORT = 7860
MAX_UPLOAD = '20mb'
MAX_PIXELS = 1 << 25  # pixels of an image: 33 million, a photo of a large camera
TITLES = {'pytorch': 'PyTorch', 'mindspore': 'MindSpore'}
BUTTONS = ['download', 'fullscreen']  # of a picture: none that sends it elsewhere
MOST_WAITING = 16  # requests in line


@dataclass(frozen=True)
class Choice:
    """A network that the page offers: a checkpoint in a backend, or an exported file."""

    path: Path
    backend: Optional[str] = None  # None: an exported file

    @property
    def title(self) -> str:
        return f'{printable(self.path.name)}{f" in {TITLES[self.backend]}" if self.backend else ""}'


def choices(checkpoints: Sequence[Path], models: Sequence[Path]) -> list[Choice]:
    """Each checkpoint in every installed backend, then exported files; without any, the checkpoints that ship. UserError for
    what is not there."""
    names = list(checkpoints) or ([] if models else [Path(name) for name in by_name.shipped()])
    for path in names:
        by_name.find_checkpoint(path)
    for path in models:
        if not path.is_file():
            raise UserError(f'{path}: no such file')
    return [*(Choice(path, backend) for path in names for backend in available()), *map(Choice, models)]


class Networks:
    """Networks that are opened when they are first asked for, and run one at a time."""

    def __init__(self, offered: Sequence[Choice], device: Optional[str] = None):
        self.offered, self.device = {choice.title: choice for choice in offered}, device
        self._opened: dict[str, Model] = {}
        self._lock = threading.Lock()

    def predict(self, title: str, image: np.ndarray) -> tuple[Result, float]:
        """What the network of a title sees, and the seconds that it took, without opening it."""
        with self._lock:
            if title not in self._opened:
                choice = self.offered[title]
                self._opened[title] = _open(choice, self.device)
            began = time.perf_counter()
            result = self._opened[title].predict(image)
            return result, time.perf_counter() - began


def _open(choice: Choice, device: Optional[str]) -> Model:
    """The network of a choice; MindSpore runs operator by operator, for images have many sizes, and each would be compiled."""
    if choice.backend is None:
        return load(choice.path)
    config = stored_config(choice.path).replace(graph_mode=1 if choice.backend == 'mindspore' else 0)
    return Model(load_run(choice.path, choice.backend, device, config).trained())


def read(path: str) -> np.ndarray:
    """An image that was dropped, uint8 (H, W, 3), upright; DataError where it is none, or too large."""
    try:
        with Image.open(path) as opened:
            width, height = opened.size
    except Exception as error:  # Pillow's decoders raise much
        raise DataError(f'this is not an image that can be read ({type(error).__name__})') from None
    if width * height > MAX_PIXELS:
        raise DataError(f'{width} x {height} pixels; at most {MAX_PIXELS} pixels are taken')
    from twinseg.common.data.reading import read_image

    return read_image(Path(path))


def describe(results: Sequence[tuple[str, Result, float]]) -> str:
    """A table as HTML: the networks, their times, and the classes of each with their shares; of two the share that differs."""
    rows = []
    for title, result, seconds in results:
        if isinstance(result, Segmentation):
            classes = ', '.join(f'{escape(name)} {100 * share:.1f} %' for name, share in result.shares.items())
        else:
            classes = ', '.join(f'{escape(guess.name)} {100 * guess.probability:.1f} %' for guess in result.classes)
        rows.append(f'<tr><td>{escape(title)}</td><td>{1000 * seconds:.0f} ms</td><td class="classes">{classes}</td></tr>')
    table = f'<table id="results"><tr><th>network</th><th>time</th><th>classes</th></tr>{"".join(rows)}</table>'
    if len(results) == 2 and (share := different(results[0][1], results[1][1])) is not None:
        table += f'<p id="different">{100 * share:.3f} % of the pixels differ.</p>'
    return table


def different(one: Result, other: Result) -> Optional[float]:
    """The share of the pixels with other class names; None where the two cannot be compared."""
    if isinstance(one, Segmentation) and isinstance(other, Segmentation) and one.classes == other.classes:
        return float((one.mask != other.mask).mean())
    return None


def page(networks: Networks) -> Any:
    """The page, a ``gradio.Blocks``."""
    require('gradio', 'demo')
    os.environ.setdefault('GRADIO_ANALYTICS_ENABLED', 'False')
    import gradio as gr

    titles = list(networks.offered)
    second = next((title for title in titles[1:] if networks.offered[title].path == networks.offered[titles[0]].path), None)

    def predict(path: Optional[str], one: str, other: Optional[str], opacity: float) -> tuple[Any, ...]:
        if path is None:
            raise gr.Error('Drop an image first.')
        try:
            image = read(path)
            results = [(title, *networks.predict(title, image)) for title in (one, other) if title]
        except UserError as error:
            raise gr.Error(str(error)) from None
        return (results, *draw(results, opacity))

    def draw(results: Optional[list[tuple[str, Result, float]]], opacity: float) -> tuple[Any, ...]:
        if not results:
            return None, None, None, ''
        drawn = [
            result.overlay(opacity=opacity) if isinstance(result, Segmentation) else result.overlay()
            for _, result, _ in results
        ]
        apart = None
        if len(results) == 2 and different(results[0][1], results[1][1]) is not None:
            apart = error_map(results[0][1].image, results[0][1].mask, results[1][1].mask)  # type: ignore[union-attr]
        return drawn[0], drawn[1] if len(drawn) == 2 else None, apart, describe(results)

    with gr.Blocks(title='TwinSeg', analytics_enabled=False) as blocks:
        gr.Markdown(
            '# TwinSeg\nDrop an image or take one from the camera; two networks look at it, and you see where they differ.'
        )
        state = gr.State()
        with gr.Row():
            with gr.Column():
                given = gr.Image(type='filepath', sources=['upload', 'webcam', 'clipboard'], label='image', elem_id='image')
                one = gr.Dropdown(titles, value=titles[0], label='network')
                other = gr.Dropdown(
                    [('none', ''), *((title, title) for title in titles)], value=second or '', label='beside it'
                )
                opacity = gr.Slider(0, 1, OPACITY, step=0.05, label='opacity')
                start = gr.Button('Predict', variant='primary', elem_id='predict')
                gr.Examples(_examples(), given, label='drawn street scenes')
            with gr.Column():
                first = gr.Image(label='network', interactive=False, buttons=BUTTONS)
                beside = gr.Image(label='beside it', interactive=False, buttons=BUTTONS)
                apart = gr.Image(label='where they differ, in red', interactive=False, buttons=BUTTONS)
                table = gr.HTML(elem_id='table')
        shown = [first, beside, apart, table]
        start.click(predict, [given, one, other, opacity], [state, *shown], api_name='predict')
        opacity.release(draw, [state, opacity], shown, api_name=False)
    blocks.queue(max_size=MOST_WAITING, default_concurrency_limit=1)
    return blocks


def serve(networks: Networks, host: str = LOCAL, port: Optional[int] = None, wait: bool = True) -> Any:
    """Shows the page at http://HOST:PORT until the process is interrupted; without ``wait`` returns the page at once.
    UserError where the port is taken."""
    blocks = page(networks)
    try:
        blocks.launch(
            server_name=host,
            server_port=port,
            share=False,
            inbrowser=False,
            quiet=True,
            max_file_size=MAX_UPLOAD,
            prevent_thread_lock=True,
            show_error=True,
        )
    except OSError:
        raise UserError(
            f'--port {port or f"{PORT} and those after it"}: taken, or {host} is no address of this machine'
        ) from None
    print(f'http://{host}:{blocks.server_port}  (Ctrl-C ends it)', flush=True)
    if wait:
        blocks.block_thread()
    return blocks


def _examples() -> list[str]:
    """Files of drawn street scenes, which need no data."""
    folder = Path(tempfile.mkdtemp(prefix='twinseg-demo-'))
    scenes = ToyStreet(Data(image_size=[256, 512], val_samples=2), 'val')
    paths = []
    for index in range(len(scenes)):
        image, _ = scenes.read(index)
        Image.fromarray(image).save(folder / f'street{index + 1}.png')
        paths.append(str(folder / f'street{index + 1}.png'))
    return paths
