"""``twinseg demo``: the page answers on this machine, refuses what is no image, and says what is missing without its extra."""

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.checkpoints import SIZE, write
from twinseg.common import cli
from twinseg.common.backend import available
from twinseg.common.doors import demo
from twinseg.common.errors import DataError, UserError

BROWSER = next((path for name in ('chromium', 'chromium-browser', 'google-chrome') if (path := shutil.which(name))), None)
needs_gradio = pytest.mark.skipif(importlib.util.find_spec('gradio') is None, reason='gradio is not installed')


@pytest.fixture(scope='module')
def networks(tmp_path_factory) -> demo.Networks:
    if not available():
        pytest.skip('no framework is installed')
    path = write(tmp_path_factory.mktemp('demo'), available()[0], 'fast_scnn')
    return demo.Networks(demo.choices([path], []), 'cpu')


@pytest.fixture(scope='module')
def page(networks):
    blocks = demo.serve(networks, port=None, wait=False)
    yield f'http://{demo.LOCAL}:{blocks.server_port}'
    blocks.close()


@pytest.fixture
def photo(tmp_path) -> Path:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)).save(tmp_path / 'photo.png')
    return tmp_path / 'photo.png'


def test_networks_are_offered_in_each_backend_and_files_once(networks, tmp_path):
    assert len(networks.offered) == len(available())
    (tmp_path / 'net.onnx').write_bytes(b'')
    titles = [choice.title for choice in demo.choices([], [tmp_path / 'net.onnx'])]
    assert titles == ['net.onnx']
    assert {choice.path.name for choice in demo.choices([], [])} >= {'enet_camvid', 'fast_scnn_camvid'}
    for wrong in (([Path('absent')], []), ([], [Path('absent.onnx')])):
        with pytest.raises(UserError, match='absent'):
            demo.choices(*wrong)


def test_what_is_no_image_or_too_large_is_refused(tmp_path, photo, monkeypatch):
    (tmp_path / 'text.png').write_text('no image')
    with pytest.raises(DataError, match='not an image that can be read'):
        demo.read(str(tmp_path / 'text.png'))
    monkeypatch.setattr(demo, 'MAX_PIXELS', 100)
    with pytest.raises(DataError, match='96 x 64 pixels; at most 100'):
        demo.read(str(photo))


def test_two_results_are_compared(networks, photo):
    title = next(iter(networks.offered))
    image = demo.read(str(photo))
    one, seconds = networks.predict(title, image)
    table = demo.describe([(title, one, seconds), ('<other>', one, seconds)])
    assert '0.000 % of the pixels differ' in table and '&lt;other&gt;' in table and all(name in table for name in one.shares)


def test_without_gradio_the_extra_is_named(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    assert cli.main(['demo']) == 2
    assert 'pip install "twinseg[demo]"' in capsys.readouterr().err


@needs_gradio
def test_the_page_predicts_for_a_client(page, photo, networks):
    from gradio_client import Client, handle_file

    client = Client(page, verbose=False)
    title = next(iter(networks.offered))
    *_, table = client.predict(handle_file(str(photo)), title, title, 0.5, api_name='/predict')
    result, _ = networks.predict(title, demo.read(str(photo)))
    assert all(name in table for name in result.shares) and '0.000 % of the pixels differ' in table


@needs_gradio
@pytest.mark.skipif(BROWSER is None or importlib.util.find_spec('playwright') is None, reason='needs Chromium and playwright')
def test_an_image_is_dropped_in_a_browser(page, photo, networks):
    """The classes of the mask are read from the page, which asks no other server."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=['--no-sandbox'])
        tab = browser.new_page(viewport={'width': 1280, 'height': 1400})
        asked = []
        tab.on('request', lambda request: asked.append(request.url))
        tab.goto(page)
        tab.set_input_files('#image input[type=file]', str(photo))
        tab.wait_for_selector('#image img')
        tab.click('#predict')
        text = tab.wait_for_selector('#results', timeout=120_000).inner_text()
        browser.close()
    result, _ = networks.predict(next(iter(networks.offered)), demo.read(str(photo)))
    assert all(name in text for name in result.shares)
    assert [url for url in asked if not url.startswith((page, 'data:', 'blob:'))] == []
