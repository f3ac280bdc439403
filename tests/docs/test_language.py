"""A vocabulary of phrases that nobody in the field uses: pages, help, keys, messages, docstrings and comments have none."""

import ast
import importlib.util
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    *ROOT.glob('*.md'),
    *ROOT.glob('docs/**/*.md'),
    *(ROOT / folder / 'README.md' for folder in ('tests', 'common/weights/shipped')),
    *(ROOT / '.github').rglob('*.md'),
]
CODE = [
    path
    for folder in ('common', 'pytorch_impl', 'mindspore_impl', 'scripts', 'twinseg')
    for path in (ROOT / folder).rglob('*.py')
]
HISTORY = {'CHANGELOG.md', 'style.md'}  # what was written then; the page that quotes the words to avoid
READ = ('docs', 'examples', 'common', 'pytorch_impl', 'mindspore_impl', 'scripts', 'twinseg', 'ascend310_infer')  # and PAGES
RIGHT = 'cann,dout'  # words that codespell takes for misspelt ones
FENCE = re.compile(r'^```.*?^```', re.MULTILINE | re.DOTALL)
SPAN = re.compile(r'`[^`]*`')
NEW_LINE = '\n'
EVERYWHERE = {  # phrase -> what to write; a blank is any white space
    r'drawn anew': 'initialised at random; drawn again',
    r'what (?:the )?weights do not tell': 'settings that cannot be inferred from the weights',
    r'after (?:its|the) step, saved': 'let the current step finish, save and stop',
    r'learns? by the timeouts?': 'is noticed when a timeout expires',
    r'on behind the': 'skipping',
    r'stands? once': 'is written once',
    r'as (?:it|one) stands': 'is, or is written',
    r'of a crop': 'per crop',
    r'in the place of': 'instead of',
    r'(?:an)?other place': 'another folder',
    r'has the last word': 'decides',
    r'pass(?:ed|es)? over': 'skip, ignore',
    r'(?:recipe|run|is|are|exists?) no more(?! (?:than|of))': 'no longer',
    r'told apart': 'distinguished',
    r'is told of': 'is known of',
    r'kinds of ways': 'ways',
    r'in place of': 'instead of',
    r'(?:takes?|took|taking) the place of': 'replaces',
    r'anew': 'again',
    r'(?:are|is|was|were) met(?! by)': 'handled, or occur',
    r'stands? (?:here|there|once|twice|above|below|before|beside|behind|by themselves|by itself|in one)': 'is, or is written',
    r'(?:show|find)s? the place': 'show where',
    r'(?:ends?|stops?|step), saved': 'saves and ends',
    r'(?:a|an|one|networks?|checkpoints?|files?|programs?|runs?|classes) of (?:ours|yours|theirs)': 'your network, ...',
}
ON_PAGES = {  # those that the code still has
    **EVERYWHERE,
    r'as it is': 'unchanged',
    r'as they are': 'unchanged, or by themselves',
    r'(?:are|is) no (?:number|file|folder|image|network|program|recipe|run|UTF-8|dependency|page|name|list)': 'is not a ...',
    r'(?:is|are) not looked at': 'is not read, not used',
    r'know nothing of each other': 'independent',
    r'nobody waits': 'nothing waits',
    r'found (?:here|there)': 'that this machine has, that the folder has',
    r'sees to it': 'ensures',
    r"somebody(?! else)(?:'s)?": 'a name, or the passive',
}


class Text(NamedTuple):
    """A text and where it begins: file and line."""

    path: Path
    line: int
    text: str


def of_page(path: Path) -> Text:
    """A page without its code, and without names in backticks."""

    def blank(match: re.Match) -> str:
        return '\n' * match[0].count('\n')

    return Text(path, 1, SPAN.sub(blank, FENCE.sub(blank, path.read_text(encoding='utf-8'))))


def of_code(path: Path) -> Iterator[Text]:
    """The strings of a module that have several words (docstrings, help, descriptions of keys, messages), and its comments."""
    source = path.read_text(encoding='utf-8')
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.count(' ') > 1:
            yield Text(path, node.lineno, node.value)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield Text(path, token.start[0], token.string)


def faults(text: Text, vocabulary: Mapping[str, str]) -> list[str]:
    """What a text has of a vocabulary, with file and line and what to write instead."""
    return [
        f'{text.path}:{text.line + text.text.count(NEW_LINE, 0, match.start())}: {match[0]!r}: {advice}'
        for phrase, advice in vocabulary.items()
        for match in re.finditer(rf'\b{phrase}\b'.replace(' ', r'\s+'), text.text, re.IGNORECASE)
    ]


@pytest.mark.parametrize(
    'path', [page for page in PAGES if page.name not in HISTORY], ids=lambda path: str(path.relative_to(ROOT))
)
def test_pages_have_plain_words(path):
    assert not faults(of_page(path), ON_PAGES)


def test_code_has_plain_words():
    assert not [fault for path in CODE for text in of_code(path) for fault in faults(text, EVERYWHERE)]


@pytest.mark.parametrize(
    'text', ['a file is passed over', 'a head that is drawn\nanew', 'the zoo runs as it is', 'choose another place']
)
def test_a_phrase_is_noticed(text):
    assert faults(Text(ROOT, 1, text), ON_PAGES)


def test_names_and_code_are_left_out(tmp_path):
    page = tmp_path / 'page.md'
    page.write_text('A key, `as it is`.\n\n```bash\n# as it is\n```\nIt runs\nas it is.\n')
    assert [fault.split(':')[1] for fault in faults(of_page(page), ON_PAGES)] == ['7']


def test_comments_are_read(tmp_path):
    module = tmp_path / 'module.py'
    module.write_text("a = 'as it stands'  # in place of b\nb = 'in place of'\n")
    assert [fault.split(':')[1] for text in of_code(module) for fault in faults(text, EVERYWHERE)] == ['1', '2', '1']


@pytest.mark.skipif(importlib.util.find_spec('codespell_lib') is None, reason='codespell is not installed')
def test_no_word_is_misspelt():
    words = [sys.executable, '-m', 'codespell_lib', '--ignore-words-list', RIGHT, '--skip', '*.svg,*.png,*.safetensors,*/out/*']
    done = subprocess.run([*words, *map(str, PAGES), *READ], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
