"""A hook of mkdocs.yml: the pages of the site that are not in docs/, which are the reference, made from the code, the notebooks
of examples/, and the pages of the repository's root.

Links between pages are written for readers of the repository; here they become links of the site. A link to a file that is
not a page, such as a module, becomes its text.
"""

import json
import os
import re
import sys
from pathlib import Path
from typing import Any, Iterable, Mapping

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

OUTSIDE = {  # pages outside docs/ -> their address
    'README.md': 'project/readme.md',
    'README_CN.md': 'project/readme_cn.md',
    'CHANGELOG.md': 'project/changelog.md',
    'CONTRIBUTING.md': 'project/contributing.md',
    'SECURITY.md': 'project/security.md',
    'tests/README.md': 'project/tests.md',
    'tests/golden/README.md': 'project/golden.md',
    'common/weights/shipped/README.md': 'project/shipped.md',
}
NOTEBOOKS = {f'examples/{path.name}': f'tutorials/{path.stem}.md' for path in sorted((ROOT / 'examples').glob('*.ipynb'))}
LINK = re.compile(r'(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!https?:|mailto:)([^)#\s]*)(#[^)\s]+)?\)')
FENCE = re.compile(r'^(```.*?^```)', re.MULTILINE | re.DOTALL)
API = (
    'twinseg.common.deploy.load',
    'twinseg.common.inference.model',
    'twinseg.common.weights.convert',
    'twinseg.common.backend',
)
MORE = 'Further pages'
WIDTH = 80  # columns of a help text


def reference() -> dict[str, str]:
    """The pages that come from the code: address -> Markdown."""
    from twinseg.common.report import catalogue

    recipes = ('# Recipes and data sets', '`twinseg list` prints both.', '## Recipes', table(catalogue.configs()))
    return {
        'reference/commands.md': commands(),
        'reference/keys.md': keys(catalogue.keys()),
        'reference/recipes.md': '\n\n'.join([*recipes, '## Data sets', table(catalogue.datasets())]) + '\n',
        'reference/python.md': python(),
    }


def tutorials() -> dict[str, str]:
    """The notebooks as pages: address -> Markdown."""
    return {address: tutorial(ROOT / name) for name, address in NOTEBOOKS.items()}


def tutorial(notebook: Path) -> str:
    """The cells of a notebook in Markdown, behind the title the way to the file; commands are those of a shell."""
    parts = []
    for cell in json.loads(notebook.read_text(encoding='utf-8'))['cells']:
        text = ''.join(cell['source'])
        if cell['cell_type'] == 'code':
            language, text = ('bash', text[1:]) if text.startswith('!') else ('python', text)
            text = f'```{language}\n{text}\n```'
        parts.append(text)
    title, _, rest = parts[0].partition('\n')
    file = f'*This page is the notebook `{notebook.relative_to(ROOT)}`, which the tests run cell by cell.*'
    return '\n\n'.join([title, file, rest.strip(), *parts[1:]]) + '\n'


def commands() -> str:
    """What ``--help`` says, command by command."""
    import click
    from typer.main import get_command

    from twinseg.common import cli

    parts = ['# Commands', 'What `twinseg COMMAND --help` says.']
    for name, command in get_command(cli.make_app()).commands.items():  # type: ignore[attr-defined]
        if not command.hidden:
            context = click.Context(command, info_name=f'twinseg {name}', max_content_width=WIDTH, terminal_width=WIDTH)
            parts += [f'## {name}', f'```text\n{command.get_help(context).rstrip()}\n```']
    return '\n\n'.join(parts) + '\n'


def keys(rows: Iterable[Mapping[str, Any]]) -> str:
    """The keys of a recipe, a table for each group."""
    parts, group = ['# Keys of a recipe', 'From the schema; `twinseg list --keys` prints the same.'], None
    lines: list[str] = []
    for row in rows:
        if row['group'] != group:
            group = row['group']
            lines = [f'\n## {group}\n', line(['key', 'meaning']), '|---|---|']
            parts.append('')
            parts += lines
        kind = row['type'].replace(' | ', ' or ')
        about = f'{row["about"]}<br><small>{kind}; default `{yaml_of(row["default"])}`</small>'
        parts.append(line([f'`{row["key"]}`', about]))
    return '\n'.join(parts) + '\n'


def yaml_of(value: Any) -> str:
    """A default in the spelling of a recipe."""
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


def python() -> str:
    """The Python API, from the docstrings."""
    parts = [
        '# Python',
        '`twinseg.load`, `twinseg.weights` and `twinseg.get_backend` are what other programs use; they stay stable.',
    ]
    return '\n\n'.join([*parts, *(f'::: {module}' for module in API)]) + '\n'


def table(rows: list[dict[str, Any]]) -> str:
    columns = list(rows[0])
    return '\n'.join([line(columns), '|' + '---|' * len(columns), *(line(row[column] for column in columns) for row in rows)])


def line(cells: Iterable[Any]) -> str:
    return '| ' + ' | '.join(str(cell).replace('|', '\\|').replace('\n', ' ') for cell in cells) + ' |'


def turned(markdown: str, page: str) -> str:
    """The Markdown of a page, by its address, with links of the site."""
    source = next((name for name, address in {**OUTSIDE, **NOTEBOOKS}.items() if address == page), f'docs/{page}')
    parts = FENCE.split(markdown)  # every second one is code
    return ''.join(
        part if index % 2 else LINK.sub(lambda match: link(match, source, page), part) for index, part in enumerate(parts)
    )


def link(match: re.Match, source: str, page: str) -> str:
    """A link of ``source`` (from the root) as one of ``page`` (an address)."""
    image, text, target, anchor = match.groups(default='')
    if not target:
        return match[0]
    path = os.path.normpath(os.path.join(os.path.dirname(source), target))
    address = path.removeprefix('docs/') if path.startswith('docs/') else {**OUTSIDE, **NOTEBOOKS}.get(path)
    if address is None:
        return text
    return f'{image}[{text}]({os.path.relpath(address, os.path.dirname(page) or ".")}{anchor})'


# --- events of MkDocs -------------------------------------------------------------------------------------------------------


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages; names in the navigation those of docs/ that no section has."""
    from mkdocs.structure.files import File

    outside = {address: (ROOT / name).read_text(encoding='utf-8') for name, address in OUTSIDE.items()}
    for address, text in {**reference(), **tutorials(), **outside}.items():
        files.append(File.generated(config, address, content=text))
    if rest := further(config['nav'], (file.src_uri for file in files.documentation_pages())):
        config['nav'] = [*config['nav'], {MORE: rest}]
    return files


def further(nav: Any, pages: Iterable[str]) -> list[str]:
    """The pages that the navigation does not have."""
    return sorted(set(pages) - set(named(nav)))


def named(nav: Any) -> list[str]:
    """The pages of a navigation, at any depth."""
    if isinstance(nav, str):
        return [nav]
    return [page for one in (nav.values() if isinstance(nav, dict) else nav) for page in named(one)]


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    return turned(markdown, page.file.src_uri)
