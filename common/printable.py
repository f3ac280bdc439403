"""Text for people: one line, no control characters, whatever bytes a file or its name is made of.

Python holds bytes that are no UTF-8 as surrogates (PEP 383), which no encoder takes. Messages and pages show them by
``printable``; what is written as UTF-8 by the error handler ``ESCAPED``.
"""

import codecs
import unicodedata
from collections.abc import Sequence

LONGEST = 500  # characters of a line for the user
MOST_NAMES = 8  # names that a line lists
ESCAPED = 'twinseg.escaped'  # error handler of encoders: what cannot be encoded is written as ``printable`` shows it
JOINERS = '\u200c\u200d'  # invisible, but parts of emoji and of words


def printable(value: object) -> str:
    """The text of a value for a terminal or a page: bytes that are no UTF-8, control characters and what turns the direction of
    writing are shown as escapes such as ``\\xff``, ``\\n``, ``\\u202e``; all else stays as it is."""
    text = str(value)
    return text if text.isascii() and text.isprintable() else ''.join(_shown(letter) for letter in text)


def one_line(text: str, longest: int = LONGEST) -> str:
    """A text as one printable line: what a file made of control characters is shown as escapes, and of a text that is longer
    than ``longest`` characters the middle is left out, for it begins with what is wrong and ends with what to change."""
    start = text[: 4 * longest] + text[max(4 * longest, len(text) - 4 * longest) :]  # a text can have the length of a file
    start = printable(' '.join(start.split()))
    if len(start) <= longest:
        return start
    end = longest // 3
    return f'{start[: longest - end - 5]} ... {start[len(start) - end :]}'


def listed(names: Sequence[str]) -> str:
    """The first names, and the count of all where there are more."""
    return ', '.join(names[:MOST_NAMES]) + (f', ... ({len(names)} in all)' if len(names) > MOST_NAMES else '')


def _shown(letter: str) -> str:
    if unicodedata.category(letter) in ('Cc', 'Cf', 'Cs', 'Zl', 'Zp') and letter not in JOINERS:
        return _escape(letter)
    return letter


def _escape(letter: str) -> str:
    if '\udc80' <= letter <= '\udcff':  # a byte that is no UTF-8
        return f'\\x{ord(letter) - 0xDC00:02x}'
    return letter.encode('unicode_escape', 'surrogatepass').decode() if ord(letter) < 0xD800 else f'\\U{ord(letter):08x}'


def _encoded_otherwise(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return ''.join(map(_escape, error.object[error.start : error.end])), error.end


codecs.register_error(ESCAPED, _encoded_otherwise)
