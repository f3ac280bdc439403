#!/usr/bin/env python3
"""Writes the other side of a model file, or compares both: python scripts/twin.py [--check] FILE...

A model file is one text in two dialects: pytorch_impl/models/NAME.py and mindspore_impl/models/NAME.py are equal after the
substitution of ``WORDS``. FILE may be of either side. Exit status 1: the two differ (``--check``), or ruff wants the written
text otherwise, because the words differ in length; 2: FILE is no model file, or has words of the other side.
"""

import argparse
import difflib
import re
import subprocess
import sys
from pathlib import Path

WORDS = {  # pytorch_impl -> mindspore_impl
    'twinseg.pytorch_impl.': 'twinseg.mindspore_impl.',
    'from torch import ': 'from mindspore import ',
    'nn.Module': 'nn.Cell',
    'forward': 'construct',
}
SIDES = {  # folder -> the other folder and how words change on the way there
    'pytorch_impl': ('mindspore_impl', WORDS),
    'mindspore_impl': ('pytorch_impl', {theirs: ours for ours, theirs in WORDS.items()}),
}
FOREIGN = re.compile(r'^\s*(import|from) (torch|mindspore)\b(?! import (Tensor|nn|Tensor, nn)$)|\b(torch|mindspore)\.\w', re.M)


class NoTwin(Exception):
    """A file whose other side cannot be written."""


def _pattern(words: dict[str, str]) -> re.Pattern[str]:
    return re.compile('|'.join(rf'(?<!\w){re.escape(word)}' + ('' if word[-1] in '. ' else r'\b') for word in words))


def other_side(path: Path) -> tuple[Path, str]:
    """Path and text of the other side of a model file; NoTwin where there cannot be one."""
    path = path.resolve()
    side = path.parents[1].name if len(path.parts) > 3 else ''
    if path.parent.name != 'models' or path.suffix != '.py' or side not in SIDES or not path.is_file():
        raise NoTwin(f'{path}: no model file; they are {" and ".join(f"{name}/models/*.py" for name in SIDES)}')
    folder, words = SIDES[side]
    text = path.read_text(encoding='utf-8')
    back = {after: before for before, after in words.items()}
    for pattern, reason in (
        (_pattern(back), 'is a word of the other side'),
        (FOREIGN, 'uses the framework itself; what a network needs of it is in layers/'),
    ):
        if match := pattern.search(text):
            line = text.count('\n', 0, match.start()) + 1
            raise NoTwin(f'{path}:{line}: {match.group().strip()!r} {reason}')
    return path.parents[2] / folder / 'models' / path.name, _pattern(words).sub(lambda match: words[match.group()], text)


def compare(path: Path) -> bool:
    """True where the other side has the text that it should have; shows the difference."""
    other, expected = other_side(path)
    present = other.read_text(encoding='utf-8') if other.is_file() else ''
    difference = difflib.unified_diff(
        present.splitlines(keepends=True), expected.splitlines(keepends=True), str(other), f'{other}, from {path}'
    )
    sys.stdout.writelines(difference)
    return present == expected


def write(path: Path) -> bool:
    """Writes the other side; False where ruff would change it."""
    other, text = other_side(path)
    other.write_text(text, encoding='utf-8')
    for arguments in (['format', '--diff'], ['check', '--select', 'E501,I']):
        if subprocess.run([sys.executable, '-m', 'ruff', *arguments, '--quiet', other]).returncode:
            print(f'{other}: written, but ruff wants it otherwise: change {path} so that both sides fit', file=sys.stderr)
            return False
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or '').partition('\n')[0])
    parser.add_argument('files', nargs='+', type=Path, metavar='FILE')
    parser.add_argument('--check', action='store_true', help='compare, and show what differs')
    options = parser.parse_args()
    try:
        done = [(compare if options.check else write)(path) for path in options.files]
    except NoTwin as error:
        print(error, file=sys.stderr)
        return 2
    return 0 if all(done) else 1


if __name__ == '__main__':
    sys.exit(main())
