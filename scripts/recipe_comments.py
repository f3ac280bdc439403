"""Writes into the opening comment of every recipe what its key ``published`` says, and for ``twinseg list`` what both say.

python scripts/recipe_comments.py            writes
python scripts/recipe_comments.py --check    names the recipes whose comment says something else, and exits with 1
"""

import re
import sys

from twinseg.common.report import catalogue, counting
from twinseg.common.settings import published_scores, recipes
from twinseg.common.settings.published_scores import LABEL, Published


def with_comment(text: str, published: Published) -> str:
    """A recipe's text with the comment on published scores made again, behind the line of the score and its continuations."""
    lines = text.splitlines()
    start = next((number for number, line in enumerate(lines) if line.startswith(LABEL)), None)
    if start is None:
        start = end = _behind(lines, next(number for number, line in enumerate(lines) if line.startswith('# score:')))
    else:
        end = _behind(lines, start)
    return '\n'.join([*lines[:start], *published.comment, *lines[end:], ''])


def _behind(lines: list[str], number: int) -> int:
    """The number of the line behind a labelled line and the indented ones that continue it."""
    number += 1
    while number < len(lines) and re.match(r'#\s{8,}\S', lines[number]):
        number += 1
    return number


def main() -> int:
    others = []
    for path in recipes.recipes():
        published, text = published_scores.of_file(path), path.read_text(encoding='utf-8')
        if published is None:
            others.append(f'{path}: no key published')
        elif (new := with_comment(text, published)) != text:
            others.append(f'{path}: its comment says other published scores than its key')
            if '--check' not in sys.argv:
                path.write_text(new, encoding='utf-8')
    if '--check' not in sys.argv:
        catalogue.store(recipes=counting.configs())
    print('\n'.join(others))
    return int(bool(others) and '--check' in sys.argv)


if __name__ == '__main__':
    sys.exit(main())
