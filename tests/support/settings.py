"""Values for every key of the configuration, made from its type."""

import re
from typing import Annotated, Any, Literal, Sequence, Union, get_args, get_origin

from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from twinseg.common import config
from twinseg.common.errors import UserError
from twinseg.common.settings.messages import MAX_NUMBER
from twinseg.common.settings.of_task import OTHER_TASKS, TaskName

WORDS = [  # text that YAML takes for something else, or that is hard to write
    *('on', 'off', 'yes', 'No', 'null', '~', '', ' ', 'true', '1', '-1', '1e3', '1e-4', '.5', '1.', '0x10', '010', '0b1'),
    *('1_000', '.inf', '-.INF', '.nan', '2001-01-01', '2001-01-01 12:00:00', '12:30', '1:30.5', '=', '<<', '!!bool x'),
    *('&a', '*a', '- a', 'a: b', 'a #b', '#', '{', '[', "'", '"', '%', '@x', '`', '|', '>', '?', ': ', ',', '---', '...'),
    *('\\', 'a\\nb', 'a\nb', '\n', '\t', '\r\n', ' a', 'a ', 'ü', '道路', '🚗', '\x1b[31m', '\x00', '\x7f', '\x85', '\u2028'),
    *('\ufeff', '\udcff', 'x' * 200, 'long words ' * 40),
]
text = st.one_of(st.sampled_from(WORDS), st.text(st.characters(codec=None), max_size=12))
plain = st.one_of(st.none(), st.booleans(), st.integers(-65536, 65536), st.floats(allow_nan=False, allow_infinity=False), text)
tree = st.recursive(plain, lambda part: st.lists(part, max_size=3) | st.dictionaries(text, part, max_size=3), max_leaves=6)
SPECIAL: dict[str, st.SearchStrategy[Any]] = {  # keys whose values their type alone does not describe
    'preset': st.none(),  # it becomes model_args
    'model_args': st.dictionaries(text, tree, max_size=3),
    'device_target': st.sampled_from([None, 'CPU', 'GPU', 'Ascend', 'cpu']),
    'data_url': st.none() | text.filter(lambda path: not path.startswith('~')),
    'class_weight': st.sampled_from([None, 'enet', 'median_frequency', [1e-4], [0.5, 3.0]]),
    'loss': st.just('cross_entropy'),
    'losses': st.dictionaries(text, st.sampled_from(['ohem', 'dice', {'focal': 0.5, 'dice': 3}]), max_size=2),
    'mean': st.lists(st.floats(1.5, 255), min_size=3, max_size=3),
    'std': st.lists(st.floats(1.5, 1e300), min_size=3, max_size=3),
    'num_classes': st.integers(1, 255),
    'label_map': st.dictionaries(
        st.integers(-(10**9), 10**9) | st.sampled_from(['0,0,0', '255,1,20', 'transparent']), st.integers(0, 255)
    ),
    'classes': st.none() | st.lists(text, min_size=1, max_size=2),
    'train_split': text | st.lists(text.filter(bool), min_size=2, max_size=3, unique=True),
}
for _path in ('class_file', 'pretrained', 'work_dir'):
    SPECIAL[_path] = SPECIAL['data_url']


def values(annotation: Any, metadata: Sequence[Any] = ()) -> st.SearchStrategy[Any]:
    """Values that a type takes."""
    whole = Annotated.__class_getitem__((annotation, *metadata)) if metadata else annotation
    while get_origin(annotation) is Annotated:
        annotation, *more = get_args(annotation)
        metadata = [*metadata, *more]
    flat = [part for item in metadata for part in (item.metadata if isinstance(item, FieldInfo) else [item])]
    names = ('gt', 'ge', 'le', 'min_length', 'max_length')
    limits = {name: getattr(item, name) for item in flat for name in names if hasattr(item, name)}
    arguments = get_args(annotation)
    if get_origin(annotation) is Union:
        return st.one_of(*map(values, arguments))
    if get_origin(annotation) is Literal:
        return st.sampled_from(arguments)
    if get_origin(annotation) is list:
        lists = st.lists(values(arguments[0]), min_size=limits.get('min_length', 0), max_size=limits.get('max_length', 3))
        return lists.filter(lambda value: _is_valid(whole, value))
    if get_origin(annotation) is dict:
        return st.dictionaries(*map(values, arguments), min_size=limits.get('min_length', 0), max_size=3)
    if annotation is int:
        lowest = limits['gt'] + 1 if 'gt' in limits else limits.get('ge', -MAX_NUMBER)
        return st.integers(lowest, limits.get('le', MAX_NUMBER))
    if annotation is float:
        lowest, highest = limits.get('gt', limits.get('ge')), limits.get('le')
        numbers = st.floats(lowest, highest, exclude_min='gt' in limits, allow_nan=False, allow_infinity=False)
        numbers |= st.sampled_from([1e-4, 1e-300, 1.0, 1])
        return numbers.filter(lambda value: _is_valid(whole, value))
    return {bool: st.booleans(), str: text, type(None): st.none()}[annotation]


def _is_valid(kind: Any, value: Any) -> bool:
    try:
        TypeAdapter(kind).validate_python(value)
    except ValidationError:
        return False
    return True


def of_key(key: str) -> st.SearchStrategy[Any]:
    """Values of a key."""
    field = config.GROUPS[config.KEYS[key]].model_fields[key]
    return SPECIAL[key] if key in SPECIAL else values(field.annotation, field.metadata)


def _keys(task: TaskName, sets: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    """Flat keys of a task: some of all that there are, with a value each."""
    strategies = {key: of_key(key) for key in sorted(config.KEYS.keys() - {'set', *OTHER_TASKS[task]})}
    return st.fixed_dictionaries({'set': st.sampled_from(sets)}, optional=strategies).map(_without_contradictions)


def _without_contradictions(keys: dict[str, Any]) -> dict[str, Any]:
    """Without the keys that are refused for what others say. A value that is refused alone is seen by tests of one key."""
    while True:
        try:
            config.from_flat(keys)
            return keys
        except UserError as error:
            named = [key for key in keys if key != 'set' and re.search(rf'\b{key}\b', str(error))]
            if not named:
                raise
            keys = {key: value for key, value in keys.items() if key != min(named, key=str(error).index)}


flat_keys = st.one_of(
    _keys('segmentation', ['custom', 'cityscapes', 'toy_street']), _keys('classification', ['imagenet', 'image_folder'])
)
