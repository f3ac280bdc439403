"""What a value should have been, in plain words, from the type that refused it.

Pydantic says where a value fails; its wording never reaches a user. A type says of itself what it takes (``Said``), or it is
described from its parts: ``Annotated[int, Field(gt=0)]`` is "a whole number above 0".
"""

import math
import re
import types
from typing import Annotated, Any, Literal, Mapping, NamedTuple, NoReturn, Optional, Sequence, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from twinseg.common.errors import nearest
from twinseg.common.printable import one_line

MAX_SHOWN = 80  # characters of a value in a message
MAX_NUMBER = (1 << 31) - 1  # largest whole number where no smaller limit has a reason: frameworks hold them in 32 bits
SMALL = 360  # limits up to here are always named
KINDS = {int: 'a whole number', float: 'a number', str: 'text', bool: 'true or false', type(None): 'null', Any: 'any value'}
SEVERAL = {int: 'whole numbers', float: 'numbers', str: 'texts', bool: 'true or false'}
NUMBER = re.compile(r'[-+]?[0-9]*\.?[0-9]+([eE][-+]?[0-9]+)?')
REFUSED = 'refused'  # type of the errors of ``refuse``
AS_KEY = ' as a key'
UNIONS = (Union, types.UnionType)


class Said(NamedTuple):
    """Metadata of an annotated type: what it takes, as it follows "expected"."""

    text: str


class Problem(NamedTuple):
    """What is wrong with a value; ``key``: the field, None where it is about no single one."""

    key: Optional[str]
    text: str


def refuse(text: str, key: Optional[str] = None) -> NoReturn:
    """Refuses a value in a validator of pydantic; ``key``: the field that it is about, by default the one that is validated."""
    raise PydanticCustomError(REFUSED, '{text}', {'text': text, 'key': key})


def first_problem(error: ValidationError, kind: type[BaseModel]) -> Problem:
    """What is wrong with the first field that ``kind`` refused."""
    errors = error.errors(include_url=False)
    first = errors[0]
    key = str(first['loc'][0]) if first['loc'] else None
    own = next((one for one in errors if one['type'] == REFUSED and one['loc'][:1] == first['loc'][:1]), None)
    if own is not None:
        return Problem(own['ctx']['key'] or key, own['ctx']['text'])
    if first['type'] == 'value_error':  # a validator's own words
        return Problem('.'.join(map(str, first['loc'])) or None, first['msg'].removeprefix('Value error, '))
    if key is None:
        return Problem(None, f'expected a table of keys and values, found {shown(first["input"])}')
    deepest = max((one for one in errors if one['loc'][:1] == first['loc'][:1]), key=lambda one: len(one['loc']))
    loc = deepest['loc']
    while len(loc) > 1 and (group := _group(kind, loc[0])) is not None:
        kind, loc = group, loc[1:]
        key = f'{key}.{loc[0]}'
    field = kind.model_fields.get(str(loc[0]))
    if field is None:
        return Problem(key, f'unknown; there are {", ".join(kind.model_fields)}')
    place = _place(loc[1:], field.annotation)
    value = deepest['input'] if place else first['input']
    kinds = _contents(field.annotation, place == AS_KEY) if place else set(_choices(field.annotation))
    expected = described(field.annotation, field.metadata, value)
    if deepest['type'] == 'missing':
        return Problem(key, f'is missing; expected {expected}')
    return Problem(key, f'expected {expected}, found {shown(value)}{place}{_hint(kinds, value)}')


def described(annotation: Any, metadata: Sequence[Any] = (), value: Any = None, several: bool = False) -> str:
    """What a type takes, as it follows "expected"; ``several`` in the plural. A large limit is
    named where the ``value`` exceeds it."""
    while get_origin(annotation) is Annotated:
        annotation, *more = get_args(annotation)
        metadata = [*metadata, *more]
    flat = [part for item in metadata for part in (item.metadata if isinstance(item, FieldInfo) else [item])]
    said = next((item.text for item in flat if isinstance(item, Said)), None)
    if said is not None:
        return said
    names = ('gt', 'ge', 'lt', 'le', 'min_length')
    limits = {name: getattr(item, name) for item in flat for name in names if hasattr(item, name)}
    arguments = get_args(annotation)
    if get_origin(annotation) in UNIONS:
        return ' or '.join(described(part, metadata, value, several) for part in arguments if part is not type(None))
    if get_origin(annotation) is Literal:
        return ('one of ' if len(arguments) > 1 else '') + ', '.join(map(str, arguments))
    if get_origin(annotation) is list:
        count = f'{limits["min_length"]} ' if 'min_length' in limits else ''
        return f'{"lists" if several else "a list"} of {count}{described(arguments[0], (), value, True)}'
    if get_origin(annotation) is dict:
        of_keys, of_values = (described(part, (), value, True) for part in arguments)
        return f'{"tables" if several else "a table"} of {of_keys} and {of_values}'
    if _is_model(annotation):
        return 'a table of keys and values'
    return (SEVERAL if several else KINDS).get(annotation, KINDS[Any]) + _bounds(limits, value)


def shown(value: Any) -> str:
    """A value as YAML has it, shortened, on one line, without what a terminal cannot show."""
    if value is None or isinstance(value, bool):
        return {None: 'null', True: 'true', False: 'false'}[value]
    if isinstance(value, float) and not math.isfinite(value):
        return f'{value}, which is not finite'
    return one_line(repr(_cut(value)), MAX_SHOWN)


def _cut(value: Any, depth: int = 0) -> Any:
    """As much of a value as is shown; ``depth``: of the lists and tables that it lies in."""
    if isinstance(value, str):
        return value[: MAX_SHOWN + 1]
    if isinstance(value, int) and value.bit_length() > 1024:  # Python refuses to write more than 4300 digits
        return f'a number of {value.bit_length()} bits'
    if depth == MAX_SHOWN and isinstance(value, (list, tuple, Mapping)):
        return '...'
    if isinstance(value, (list, tuple)):
        return [_cut(part, depth + 1) for part in value[:MAX_SHOWN]]
    if isinstance(value, Mapping):
        return {_cut(key): _cut(part, depth + 1) for key, part in list(value.items())[:MAX_SHOWN]}
    return value


def _bounds(limits: Mapping[str, Any], value: Any) -> str:
    """The limits of a number in words; a large one only where the ``value`` exceeds it."""
    lowest, above, most, below = (limits.get(name) for name in ('ge', 'gt', 'le', 'lt'))
    if most is not None and most > SMALL and not (isinstance(value, (int, float)) and value > most):
        most = None
    if lowest is not None:
        words = [f' of {lowest} or more' if most is None else f' from {lowest} to {most}']
    else:
        words = [f' above {above}'] if above is not None else []
        words += [f'{" and" if words else " of"} at most {most}'] if most is not None else []
    words += [f'{" and" if words else ""} below {below}'] if below is not None else []
    return ''.join(words)


def _place(loc: Sequence[int | str], annotation: Any) -> str:
    """Where in a value of a type something is, as words; ``loc``: pydantic's, without the field."""
    if not loc or not _contents(annotation):
        return ''
    if loc[-1] == '[key]':
        return AS_KEY
    if get_origin(_container(annotation)) is dict:
        return f' for {shown(loc[0])}'
    entries = [part for part in loc if isinstance(part, int)]
    return ''.join(f' {"of" if number else "as"} entry {part + 1}' for number, part in enumerate(reversed(entries)))


def _hint(kinds: set[Any], value: Any) -> str:
    """What is likely to have been meant, where these plain types and choices are taken."""
    words = [word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind) if isinstance(word, str)]
    if isinstance(value, str):
        near = nearest(value.lower(), {word.lower() for word in words})
        if near:
            return f'; did you mean {next(word for word in words if word.lower() == near)!r}?'
        if {int, float} & kinds and str not in kinds and NUMBER.fullmatch(value):
            return ': leave the quotes out'
    elif str in kinds and isinstance(value, bool):
        return ': YAML takes yes, no, on and off for true and false; put quotes around it'
    elif str in kinds and isinstance(value, (int, float)):
        return ': put quotes around it'
    return ''


def _choices(annotation: Any) -> list[Any]:
    """The types that a union is made of, or the one type itself, without metadata."""
    if get_origin(annotation) is Annotated:
        return _choices(get_args(annotation)[0])
    if get_origin(annotation) in UNIONS:
        return [kind for part in get_args(annotation) for kind in _choices(part)]
    return [annotation]


def _group(kind: type[BaseModel], key: int | str) -> Optional[type[BaseModel]]:
    """The model that a field of a model holds; None where it holds something else."""
    field = kind.model_fields.get(str(key))
    choices = _choices(field.annotation) if field else []
    return next((choice for choice in choices if _is_model(choice)), None)


def _is_model(kind: Any) -> bool:
    """Whether a type is a class of models; up to Python 3.10 list[x] is a class, too."""
    return isinstance(kind, type) and get_origin(kind) is None and issubclass(kind, BaseModel)


def _container(annotation: Any) -> Any:
    """The list or the table among the choices of a type; None where there is none."""
    return next((kind for kind in _choices(annotation) if get_origin(kind) in (list, dict)), None)


def _contents(annotation: Any, keys: bool = False) -> set[Any]:
    """The plain types of what the list or the table among the choices of a type holds, or of its keys."""
    parts = get_args(_container(annotation))
    return set(_choices(parts[0 if keys else -1])) if parts else set()
