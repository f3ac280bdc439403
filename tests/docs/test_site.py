"""The site of docs/: the navigation reaches every page, links become the site's, the reference is the code's; it is built."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from scripts import docs_pages, figures
from scripts.figures import drawings
from twinseg.common import cli, config

ROOT = Path(__file__).parents[2]
SITE = yaml.load((ROOT / 'mkdocs.yml').read_text(encoding='utf-8'), yaml.BaseLoader)
FAQ, ENTRIES = ROOT / 'docs/faq.md', 25


@pytest.fixture(scope='module')
def reference() -> dict[str, str]:
    return docs_pages.reference()


def test_the_navigation_names_pages_that_exist(reference):
    docs = {str(path.relative_to(ROOT / 'docs')) for path in (ROOT / 'docs').rglob('*.md')}
    pages = docs_pages.named(SITE['nav'])
    assert len(pages) == len(set(pages))
    assert set(pages) - docs == {*reference, *docs_pages.NOTEBOOKS.values(), *docs_pages.OUTSIDE.values()}
    assert all((ROOT / name).is_file() for name in docs_pages.OUTSIDE)


def test_a_page_that_no_section_has_is_added():
    assert docs_pages.further([{'a': ['x.md', {'b': ['y.md']}]}], ['y.md', 'z.md', 'x.md', 'n.md']) == ['n.md', 'z.md']


@pytest.mark.parametrize(
    'page, written, expected',
    [
        ('faq.md', '[s](../SECURITY.md)', '[s](project/security.md)'),
        ('faq.md', '[c](concepts.md#scores)', '[c](concepts.md#scores)'),
        ('zh/index.md', '[c](../concepts.md)', '[c](../concepts.md)'),
        ('zh/index.md', '[r](../../README_CN.md#安装)', '[r](../project/readme_cn.md#安装)'),
        ('project/readme.md', '![p](docs/figures/masks.png)', '![p](../figures/masks.png)'),
        ('project/readme.md', '[d](docs/design.md#4-n) and [m](common/config.py)', '[d](../design.md#4-n) and m'),
        ('project/tests.md', '[d](../docs/design.md)', '[d](../design.md)'),
        ('fine_tune.md', '[n](../examples/fine_tune.ipynb)', '[n](tutorials/fine_tune.md)'),
        ('tutorials/fine_tune.md', '[g](../docs/fine_tune.md) [n](own_data.ipynb)', '[g](../fine_tune.md) [n](own_data.md)'),
        ('index.md', '[x](https://example.org/a.md) [y](#here)', '[x](https://example.org/a.md) [y](#here)'),
        ('index.md', '```bash\n[s](../SECURITY.md)\n```', '```bash\n[s](../SECURITY.md)\n```'),
    ],
)
def test_links_become_those_of_the_site(page, written, expected):
    assert docs_pages.turned(written, page) == expected


def test_the_reference_has_every_key_and_every_command(reference):
    keys = {key for kind in config.GROUPS.values() for key in kind.model_fields}
    assert not [key for key in keys if f'| `{key}` |' not in reference['reference/keys.md']]
    assert not [name for name in cli.COMMANDS if f'\n## {name}\n' not in reference['reference/commands.md']]
    assert all(
        len(row.replace('\\|', '').split('|')) == 4
        for row in reference['reference/keys.md'].splitlines()
        if row.startswith('| `')
    )


def test_a_notebook_becomes_a_page(tmp_path, monkeypatch):
    monkeypatch.setattr(docs_pages, 'ROOT', tmp_path)
    cells = [('markdown', ['# Title\n', '\n', 'Words.']), ('code', ['!twinseg list']), ('code', ['a = 1\n', 'a'])]
    book = {'cells': [{'cell_type': kind, 'source': source} for kind, source in cells]}
    (tmp_path / 'one.ipynb').write_text(json.dumps(book))
    title, file, *rest = docs_pages.tutorial(tmp_path / 'one.ipynb').split('\n\n')
    assert title == '# Title' and '`one.ipynb`' in file
    assert rest == ['Words.', '```bash\ntwinseg list\n```', '```python\na = 1\na\n```\n']


@pytest.mark.parametrize('name', drawings())
def test_drawings_are_those_of_the_code(name):
    """``python scripts/figures.py drawings`` writes them again."""
    assert (ROOT / 'docs/figures' / name).read_text(encoding='utf-8') == drawings()[name]


def test_panels_lie_in_rows_below_their_titles():
    panels = [figures.Panel(str(value), np.full((20, 40, 3), value, np.uint8)) for value in (10, 20, 30)]
    page = np.array(figures.grid(panels, 2))
    assert page.shape == (2 * (20 + figures.TITLE + figures.GAP) + figures.GAP, 2 * (40 + figures.GAP) + figures.GAP, 3)
    left, top = figures.GAP, 2 * (figures.GAP + figures.TITLE) + 20
    assert (page[top : top + 20, left : left + 40] == 30).all()


@pytest.mark.parametrize('content', ['[1]', '{"top1": 3}', 'no JSON'])
def test_scores_of_something_else_are_one_line(content, tmp_path, capsys):
    (tmp_path / 'enet_camvid.json').write_text(content)
    assert figures.main(['speed', str(tmp_path / 'enet_camvid.json'), '--out', str(tmp_path / 'out')]) == 2
    error = capsys.readouterr().err
    assert 'enet_camvid.json: expected what `twinseg eval' in error and error.count('\n') == 1
    assert not (tmp_path / 'out').exists()


def test_a_run_that_is_missing_is_one_line(tmp_path, capsys):
    pytest.importorskip('torch')
    assert figures.main(['masks', str(tmp_path / 'no'), '--out', str(tmp_path)]) == 2
    assert capsys.readouterr().err.count('\n') == 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize('path', sorted((ROOT / 'docs/zh').glob('*.md')), ids=lambda path: path.name)
def test_chinese_pages_have_the_parts_of_the_english_ones(path):
    """As many headings, comments and rows of tables, each with the same names."""
    parts = [
        [re.findall(r'`[^`]*`', line) for line in page.read_text(encoding='utf-8').splitlines() if line.startswith(('#', '|'))]
        for page in (path, ROOT / 'docs' / path.name)
    ]
    assert parts[0] == parts[1]


def test_every_question_is_answered_by_a_command():
    """That the commands and their options exist is shown in test_docs.py."""
    entries = FAQ.read_text(encoding='utf-8').split('\n## ')[1:]
    assert [entry.split('.')[0] for entry in entries] == [str(number) for number in range(1, ENTRIES + 1)]
    assert all('```bash\n' in entry for entry in entries)


@pytest.mark.skipif(importlib.util.find_spec('mkdocs') is None, reason='mkdocs is not installed: pip install -e ".[docs]"')
def test_the_site_is_built(tmp_path):
    words = [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--quiet', '--site-dir', str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / 'reference/keys.html').is_file() and (tmp_path / 'zh/index.html').is_file()
