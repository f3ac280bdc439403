"""What the pages name exists: links, files, commands and their options, networks, versions."""

import re
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.main import get_command

from twinseg.common import cli
from twinseg.common.backend import available, get_backend
from twinseg.common.data import matlab
from twinseg.common.deploy import sandbox
from twinseg.common.deploy.engines import memory_for
from twinseg.common.files import archive
from twinseg.common.host.version import version
from twinseg.common.printable import LONGEST

ROOT = Path(__file__).parents[2]
PAGES = [
    *ROOT.glob('*.md'),
    *ROOT.glob('docs/**/*.md'),
    *(ROOT / folder / 'README.md' for folder in ('tests', 'common/weights/shipped')),
]
LINK = re.compile(r'\]\((?!https?:)([^)#\s]+)?(#[^)\s]+)?\)')
PATH = re.compile(r'`((?:common|pytorch_impl|mindspore_impl|tests|scripts|docs|weights|ascend310_infer)/[\w/.-]+\.\w+)`')
COMMAND = re.compile(r'^(?:[A-Z_]+=\S+ )*twinseg ([a-z]+)([^#\n]*)', re.MULTILINE)
OF_ANY_COMMAND = {'--plugin', '--debug'}
FIGURE = re.compile(r'\b\d[\d,]*(?:\.\d+)? (?:mIoU|top-1|points|ms|minutes|hours|images a second|GB)\b')  # of a score or a time
MARK = re.compile(r'20\d\d-\d\d-\d\d,\s(?:the second run with |with )?commit\s[0-9a-f]{7}')
GENERATED = re.compile(r'^Made by `|`python scripts/\w+\.py --write', re.MULTILINE)
FIGURES_OF_NOTHING_MEASURED = {  # page -> what its figures are
    'README.md': 'those of files, which docs/test_readme.py compares',
    'README_CN.md': "README.md's",
    'CHANGELOG.md': 'those of the pages at that time',
    'SECURITY.md': 'limits of the code',
}
EXAMPLES = ('my_net', 'my_set', 'my_publisher')  # files that the guides make


@pytest.fixture(scope='module')
def commands() -> dict:
    """The commands of the program by name."""
    return get_command(cli.make_app()).commands


@pytest.mark.parametrize('page', PAGES, ids=lambda path: str(path.relative_to(ROOT)))
class TestPages:
    def test_links_lead_somewhere(self, page):
        for target, anchor in LINK.findall(page.read_text()):
            path = page.parent / target if target else page
            assert path.exists(), target
            titles = re.findall(r'^#+ (.*)$', path.read_text(), re.MULTILINE) if anchor else []
            anchors = [re.sub(r'[^\w -]', '', title.lower()).replace(' ', '-') for title in titles]
            assert not anchor or anchor[1:] in anchors, f'{target}{anchor}'

    def test_files_exist(self, page):
        named = [path for path in PATH.findall(page.read_text()) if not any(word in path for word in EXAMPLES)]
        assert not [path for path in named if not (ROOT / path).exists() and not (page.parent / path).exists()]

    def test_commands_and_options_exist(self, page, commands):
        blocks = '\n'.join(re.findall(r'^```bash\n(.*?)^```', page.read_text(), re.MULTILINE | re.DOTALL))
        for name, words in COMMAND.findall(blocks):
            assert name in commands, name
            known = {option for parameter in commands[name].params for option in parameter.opts} | OF_ANY_COMMAND
            assert set(re.findall(r'(?<=\s)--[a-z-]+', words)) <= known, f'twinseg {name}{words}'


@pytest.mark.parametrize('page', PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_measured_figures_have_a_date_and_a_commit(page):
    """Scores and times are those of a file that a command wrote, or the page says when and with which commit."""
    text = page.read_text(encoding='utf-8')
    figures = [] if str(page.relative_to(ROOT)) in FIGURES_OF_NOTHING_MEASURED else FIGURE.findall(text)
    assert not figures or MARK.search(text) or GENERATED.search(text), figures[:5]


@pytest.mark.parametrize('text', ['it takes 14 minutes', 'reaches 77.7 mIoU', '1,200 ms a step'])
def test_a_measured_figure_is_noticed(text):
    assert FIGURE.search(text) and not MARK.search(text)


def test_the_design_lists_every_command(commands):
    rows = re.findall(r'^\| (`[a-z`, ]+) \| (.*) \|$', (ROOT / 'docs' / 'design.md').read_text(), re.MULTILINE)
    listed = {name: about for names, about in rows for name in re.findall('`([a-z]+)`', names)}
    planned = {name for name, about in listed.items() if about.startswith('planned')}
    assert set(listed) - planned == {name for name, command in commands.items() if not command.hidden}


def test_the_limits_in_the_page_on_security_are_those_of_the_code():
    text = ' '.join((ROOT / 'SECURITY.md').read_text().split())
    assert f'grow beyond {archive.MAX_RATIO} times their size' in text
    assert f'by a reader of that one layout, up to {matlab.MAX_BYTES >> 20} MB' in text
    assert f'with {sandbox.MEMORY >> 30} GB and {sandbox.EXPANDED} times the file' in text
    assert f'{sandbox.SECONDS} seconds of a core and one more for each {sandbox.SECOND >> 20} MB' in text
    images = np.zeros(10, np.float32)
    assert f'with 1 GB and {(memory_for(images) - (1 << 30)) // images.size} bytes for each number of the images' in text
    assert f'in one line of at most {LONGEST} characters' in text


def test_the_design_lists_every_network():
    text = (ROOT / 'docs' / 'design.md').read_text()
    (names,) = re.findall(r'Names of networks: `([^`]*)`', text)
    for backend in available():
        assert set(names.split()) == set(get_backend(backend).MODELS)


def test_the_citation_has_the_version_of_the_package():
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    assert {'cff-version', 'message', 'title', 'authors'} <= citation.keys()
    assert f'\nversion = "{citation["version"]}"\n' in (ROOT / 'pyproject.toml').read_text()


def test_a_checkout_that_is_not_installed_has_the_same_version(monkeypatch):
    """A machine without a package registry trains and exports from one."""

    def absent(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    installed = version()
    monkeypatch.setattr(metadata, 'version', absent)
    assert version() == installed
