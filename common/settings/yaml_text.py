"""YAML as configurations need it: plain values only, read within bounds, every failure a UserError.

Read as YAML 1.1 (PyYAML), with three differences: 1e-4 is a number; dates, and numbers to the base of 60, are text; a whole
number that begins with 0 is refused, since versions of YAML disagree about it. Anchors, tags and repeated keys are refused.
"""

import re
from contextlib import suppress
from typing import Any, Callable, Iterator, NamedTuple

import yaml

from twinseg.common.errors import UserError
from twinseg.common.printable import one_line

MAX_NODES = 100_000  # values and keys; a recipe has about 100
MAX_DEPTH = 50  # lists in lists; a recipe has 3
MAX_QUOTED = 200  # characters of the text in a message
MAX_DIGITS = 400  # characters of a number; the largest float written out has 309
MAX_WHOLE = 1 << 63  # whole numbers beyond 64 bits fit no framework

NULL = re.compile(r'(~|null|Null|NULL|)')
TRUE = re.compile(r'(yes|Yes|YES|true|True|TRUE|on|On|ON)')
FALSE = re.compile(r'(no|No|NO|false|False|FALSE|off|Off|OFF)')
WHOLE = re.compile(r'[-+]?(0b[01][01_]*|0x[0-9a-fA-F][0-9a-fA-F_]*|[0-9][0-9_]*)')
DECIMAL = re.compile(r'[-+]?([0-9][0-9_]*(\.[0-9_]*)?|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?')
SPECIAL = re.compile(r'[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)')


class _Dumper(yaml.SafeDumper):
    """Quotes the strings that ``parse`` would take for numbers; it quotes what YAML 1.1 takes for dates and the like anyway."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = '"' if '\n' in text else None  # PyYAML would break the line there
    return dumper.represent_scalar('tag:yaml.org,2002:str', text, style=style)


_Dumper.add_representer(str, _text)
_Dumper.add_implicit_resolver('tag:yaml.org,2002:float', re.compile(rf'^{DECIMAL.pattern}$'), list('-+.0123456789'))


_FAST: Any = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)  # libyaml's parser, where PyYAML was built with it


class _Open(NamedTuple):
    """A list or a table that is being read."""

    value: Any
    keys: list[Any]  # in a table: the key that waits for its value


def parse(text: str, where: str) -> Any:
    """The value that a text holds: None, true or false, numbers, text, lists and tables of these.

    UserError, which begins with ``where`` and gives the line, for a text that is not YAML or exceeds the limits above. Takes
    time in proportion to the text.
    """
    with suppress(yaml.YAMLError, _Refused, ValueError, OverflowError, RecursionError):
        return _value(yaml.parse(text, Loader=_FAST))
    try:  # the message, and the verdict, are those of the parser that is everywhere
        return _value(yaml.parse(text, Loader=yaml.SafeLoader))
    except _Refused as error:
        raise UserError(f'{where}: {error}') from None
    except yaml.MarkedYAMLError as error:
        mark, problem = error.problem_mark or error.context_mark, error.problem or error.context or 'unknown'
        line = f'line {mark.line + 1}: ' if mark else ''
        raise UserError(f'{where}: not readable as YAML: {line}{one_line(problem, MAX_QUOTED)}') from None
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:  # characters that YAML does not allow
        raise UserError(f'{where}: not readable as YAML: {one_line(str(error), MAX_QUOTED)}') from None


def written(value: Any) -> str:
    """A value as YAML on one line, as ``parse`` reads it back; in ASCII where characters of it cannot be shown."""
    readable = _dumped(value, True)
    return readable if readable.isprintable() else _dumped(value, False)


def _dumped(value: Any, unicode: bool) -> str:
    text = yaml.dump([value], Dumper=_Dumper, sort_keys=False, default_flow_style=True, width=1 << 30, allow_unicode=unicode)
    return text.strip()[1:-1]


class _Refused(Exception):
    """What is wrong, and where."""


def _value(events: Iterator[Any]) -> Any:
    document: list[Any] = []
    stack = [_Open(document, [])]
    nodes = documents = 0
    for event in events:
        line = f'line {event.start_mark.line + 1}: ' if event.start_mark else ''
        if isinstance(event, yaml.AliasEvent):
            raise _Refused(f'{line}aliases are not allowed')
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise _Refused(f'{line}a second document begins; expected one')
        if isinstance(event, yaml.CollectionEndEvent):
            stack.pop()
        if not isinstance(event, yaml.NodeEvent):
            continue
        nodes += 1
        if nodes > MAX_NODES:
            raise _Refused(f'{line}more than {MAX_NODES} values, not a configuration')
        if isinstance(event, (yaml.ScalarEvent, yaml.CollectionStartEvent)) and event.tag is not None:
            tag = one_line(event.tag.replace('tag:yaml.org,2002:', '!!'), MAX_QUOTED)
            raise _Refused(f'{line}the tag {tag} is not allowed; leave it out')
        if event.anchor is not None:
            raise _Refused(f'{line}anchors are not allowed')
        if isinstance(event, yaml.ScalarEvent):
            new = _scalar(event.value, line) if event.implicit[0] else event.value
        else:
            new = [] if isinstance(event, yaml.SequenceStartEvent) else {}
            if len(stack) > MAX_DEPTH:
                raise _Refused(f'{line}lists are nested more than {MAX_DEPTH} deep, not a configuration')
        _add(stack[-1], new, line)
        if isinstance(event, yaml.CollectionStartEvent):
            stack.append(_Open(new, []))
    return document[0] if document else None


def _add(parent: _Open, new: Any, line: str) -> None:
    """Puts a value into the list or the table that it stands in."""
    if isinstance(parent.value, list):
        parent.value.append(new)
    elif parent.keys:
        parent.value[parent.keys.pop()] = new
    elif isinstance(new, (list, dict)):
        raise _Refused(f'{line}a {"list" if isinstance(new, list) else "table"} cannot be a key')
    elif new in parent.value:
        raise _Refused(f'{line}the key {one_line(str(new), MAX_QUOTED)} is given twice')
    else:
        parent.keys.append(new)


def _scalar(text: str, line: str) -> Any:
    """The value of a word without quotes."""
    constants: tuple[tuple[re.Pattern[str], Any], ...] = ((NULL, None), (TRUE, True), (FALSE, False))
    for pattern, constant in constants:
        if pattern.fullmatch(text):
            return constant
    if SPECIAL.fullmatch(text):
        return float(text.replace('.', ''))
    whole = WHOLE.fullmatch(text)
    if not whole and not DECIMAL.fullmatch(text):
        return text
    if len(text) > MAX_DIGITS:
        raise _Refused(f'{line}a number of {len(text)} digits; put quotes around it if it is a name')
    digits = text.replace('_', '')
    if not whole:
        return float(digits)
    magnitude = digits.lstrip('+-')
    if len(magnitude) > 1 and magnitude[0] == '0' and magnitude[1].isdecimal():
        raise _Refused(f'{line}{text} begins with 0: leave the 0 out, or put quotes around it if it is a name')
    base: Callable[[str], int] = int if magnitude.isdecimal() else lambda word: int(word, 0)
    number = base(digits)
    if not -MAX_WHOLE <= number < MAX_WHOLE:
        raise _Refused(f'{line}a number of {len(text)} digits, more than 64 bits hold')
    return number
