"""YAML: the values that a text holds, and its bounds."""

import math
import time

import pytest
import yaml

from tests.support.settings import WORDS
from twinseg.common.errors import UserError
from twinseg.common.settings import recipes, yaml_text
from twinseg.common.settings.yaml_text import parse

SECONDS = 20  # the longest that a hostile text may take; none of these takes a tenth of it


@pytest.mark.parametrize(
    'text, value',
    [
        ('', None),
        ('# nothing', None),
        ('~', None),
        ('Yes', True),
        ('off', False),
        ('1e-4', 1e-4),
        ('1.', 1.0),
        ('.5', 0.5),
        ('1_000', 1000),
        ('0x10', 16),
        ('0b11', 3),
        ('-3', -3),
        ('-.inf', -math.inf),
        ('1e400', math.inf),
        ('2001-01-01', '2001-01-01'),
        ('2001-99-99', '2001-99-99'),
        ('12:30', '12:30'),
        ('=', '='),
        ("'1'", '1'),
        ('"\\u00fc"', 'ü'),
        ('a: |\n  b\n  c\n', {'a': 'b\nc\n'}),
        ('{a: [1, {b: null}], 3: c}', {'a': [1, {'b': None}], 3: 'c'}),
        ('? a\n: b', {'a': 'b'}),
    ],
)
def test_values(text, value):
    found = parse(text, 'x')
    assert found == value and type(found) is type(value)


def test_not_a_number():
    assert math.isnan(parse('.nan', 'x'))


@pytest.mark.parametrize('text', ['1', '1.5', 'true', 'null', 'a', '[a, 1, -0.5]', '{a: {b: c}}', '0x1F', '1.0e+3', '"1e3"'])
def test_values_are_pyyamls(text):
    """... where its YAML 1.1 has no oddities."""
    assert parse(text, 'x') == yaml.safe_load(text)


@pytest.mark.parametrize('word', [*WORDS, 5, -0.0, 1e-4, 1e16, 5e-324, 1.7e308, True, None, [], {}, [[]], {'': [None]}, {1: 2}])
def test_what_is_written_reads_back(word):
    """... here, and the words also in YAML 1.1 of other readers."""
    line = yaml_text.written(word)
    assert line.isprintable()
    assert repr(parse(f'a: {line}', 'x')) == repr({'a': word})
    if isinstance(word, str):
        assert yaml.safe_load(f'a: {line}') == {'a': word}


@pytest.mark.parametrize(
    'text, message',
    [
        ('a: [', "line 1: expected the node content, but found '<stream end>'"),
        ('a: b: c', 'line 1: mapping values are not allowed here'),
        ('\ta: 1', 'line 1: found character'),
        ('a: 1\na: 2', 'line 2: the key a is given twice'),
        ('{1: a, 1: b}', 'line 1: the key 1 is given twice'),
        ('a: &x 1', 'line 1: anchors are not allowed'),
        ('a: *x', 'line 1: aliases are not allowed'),
        ('a: !!bool z', 'line 1: the tag !!bool is not allowed'),
        ('a: !!int x', 'the tag !!int'),
        ('a: !!timestamp x', 'the tag !!timestamp'),
        ('a: !!map [a]', 'the tag !!map'),
        ('a: !!python/name:os.system x', 'the tag !!python/name:os.system'),
        ('? [a]\n: 1', 'a list cannot be a key'),
        ('{{a: 1}: 1}', 'a table cannot be a key'),
        ('a: 1\n---\nb: 2', 'line 2: a second document begins'),
        ('a: 010', 'line 1: 010 begins with 0'),
        ('a: ' + '9' * 5000, 'a number of 5000 digits'),
        ('a: 0x' + 'f' * 6000, 'a number of 6002 digits'),
        ('a: 1' + '0' * 30, 'a number of 31 digits, more than 64 bits hold'),
        ('a: \x00', 'not readable as YAML'),
        ('"\\ud8"', 'not readable as YAML'),
        ('"\\UFFFFFFFF"', 'not readable as YAML'),
        ('%YAML 9.9\n---\na', 'not readable as YAML'),
        ('[' * 100_000, 'nested more than 50 deep'),
        ('- ' * 1000, 'nested more than 50 deep'),
        ('{a: ' * 1000, 'nested more than 50 deep'),
    ],
    ids=lambda word: word[:20],
)
def test_what_is_refused(text, message):
    start = time.process_time()
    with pytest.raises(UserError) as error:
        parse(text, 'x.yaml')
    line = str(error.value)
    assert line.startswith('x.yaml: ') and message in line
    assert line.isprintable() and len(line) < 300
    assert time.process_time() - start < SECONDS


def test_the_number_of_values_is_limited(monkeypatch):
    assert yaml_text.MAX_NODES <= 100_000  # which take PyYAML some 3 seconds
    monkeypatch.setattr(yaml_text, 'MAX_NODES', 1000)
    with pytest.raises(UserError, match='line 1: more than 1000 values'):
        parse('[' + 'a, ' * 2000, 'x')


def test_many_keys_take_time_in_proportion():
    """Their repetition was once looked for by counting each among all: minutes."""
    start = time.process_time()
    assert len(parse(''.join(f'k{number}: 1\n' for number in range(10_000)), 'x')) == 10_000
    assert time.process_time() - start < SECONDS


@pytest.mark.parametrize('loader', ['CSafeLoader', 'SafeLoader'])
def test_both_parsers_read_the_same(monkeypatch, loader):
    if not hasattr(yaml, loader):
        pytest.skip('PyYAML without libyaml')
    texts = [path.read_text(encoding='utf-8') for path in recipes.recipes()[::10]]
    texts += ['a: [1, "2", yes]  # é\nb: {c: ~, d: 1e-4}\n', 'a: |\n  one\n  two\n', "- 'it''s'\n- \"\\u00e4\\n\"\n", '', '3']
    expected = [yaml_text._value(yaml.parse(text, Loader=yaml.SafeLoader)) for text in texts]
    monkeypatch.setattr(yaml_text, '_FAST', getattr(yaml, loader))
    assert [parse(text, 'a') for text in texts] == expected
