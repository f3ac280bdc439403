"""Help pages: groups, whole sentences, examples; the schema of configurations; what ``list`` and ``recipe`` print; facts."""

import json
import re
import shlex
from pathlib import Path

import pytest

from twinseg.common import cli, config
from twinseg.common.cli import help as pages
from twinseg.common.settings import recipes, schema, yaml_text

NAMES = [name for sentences in pages.GROUPS.values() for name in sentences]
WIDTH = 80


def printed(capsys, *words: str) -> str:
    assert cli.main(list(words)) == 0
    return capsys.readouterr().out


def test_every_command_has_one_group_and_a_whole_sentence(capsys):
    assert set(cli.COMMANDS) <= set(NAMES) and len(set(NAMES)) == len(NAMES)
    page = printed(capsys, '-h')
    for title, sentences in pages.GROUPS.items():
        assert f'\n{title}:' in page
        for name, sentence in sentences.items():
            assert sentence.endswith('.') and (name not in cli.COMMANDS or sentence.split()[0] in page)
    assert '...' not in page.partition('Options:')[2] and max(map(len, page.splitlines())) <= WIDTH


@pytest.mark.parametrize('name', cli.COMMANDS)
def test_a_commands_page_ends_with_two_examples_of_options_that_it_has(name, capsys):
    page = printed(capsys, name, '-h')
    assert page == printed(capsys, name, '--help')
    verb = re.findall(r'\n\n  ([A-Z]\w+) ', page)[0]
    assert verb.endswith('s'), f'{verb}: the first sentence says what the command does: Writes, Compares, ...'
    examples = page.rpartition('Examples:\n')[2].strip().splitlines()
    assert len(examples) == 2
    for line in examples:
        words = shlex.split(line)
        assert words[:2] == ['twinseg', name]
        assert [word for word in words if word.startswith('--') and word not in page.partition('Examples:')[0]] == []


def test_options_of_a_page_are_in_groups(capsys):
    page = printed(capsys, 'predict', '-h')
    assert (
        page.index('Network:')
        < page.index('--checkpoint')
        < page.index('Views:')
        < page.index('--slide')
        < page.index('Output:')
    )


def test_lists_are_filtered(capsys):
    listed = json.loads(printed(capsys, 'list', 'recipes', '--dataset', 'camvid', '--json'))['recipes']
    assert listed and all(config.load(row['config']).data.set == 'camvid' for row in listed)
    both = json.loads(printed(capsys, 'list', 'recipes', 'stdc1', '--dataset', 'camvid', '--json'))['recipes']
    assert 0 < len(both) < len(listed) and all('stdc1' in str(row).lower() for row in both)
    assert [row['key'] for row in json.loads(printed(capsys, 'list', 'keys', 'crop_size', '--json'))['keys']][:1] == [
        'crop_size'
    ]


@pytest.mark.parametrize('what', ['recipes', 'keys', 'weights'])
def test_lists_fit_a_terminal_of_80_columns(what, capsys, monkeypatch):
    from rich.console import Console

    from twinseg.common import console

    monkeypatch.setattr(console, 'console', Console(width=WIDTH))
    lines = printed(capsys, 'list', what).splitlines()
    assert max(len(line) for line in lines if '://' not in line) <= WIDTH


@pytest.mark.parametrize(
    'words, said',
    [
        (['list', 'recips'], "did you mean 'recipes'"),
        (['list', 'recipes', '--dataset', 'camvids'], "did you mean 'camvid'"),
        (['list', 'networks', '--dataset', 'camvid'], 'are for `twinseg list recipes`'),
        (['recipe', 'fast_scnn_toy_street', '--schema'], 'leave CONFIG'),
        (['recipe', '--print'], 'give CONFIG'),
    ],
)
def test_what_does_not_exist_is_named(words, said, capsys):
    assert cli.main(words) == 2
    assert said in capsys.readouterr().err


def test_a_printed_recipe_is_a_configuration(capsys, tmp_path):
    path = tmp_path / 'mine.yaml'
    path.write_text(printed(capsys, 'recipe', 'fast_scnn_toy_street', '--print', '--set', 'seed=7'))
    assert config.load(path) == config.load('fast_scnn_toy_street', ['seed=7'])


def test_facts_are_two_columns_with_units(capsys):
    from twinseg.common import console

    console.show_facts(
        {
            'path': 'net.onnx',
            'bytes': 5_577_759,
            'input_shape': [1, 3, 64, 128],
            'difference': 5.114e-07,
            'mIoU lost': 0.7701,
            'float32': {'mIoU': 59.18},
            'ir_version': 8,
        }
    )
    assert capsys.readouterr().out.splitlines() == [
        'path:        net.onnx',
        'bytes:       5.6 MB',
        'input_shape: 1 x 3 x 64 x 128',
        'difference:  5.11e-07 of the largest logit',
        'mIoU lost:   0.77 points',
        'float32:     mIoU 59.2',
        'ir_version:  8',
    ]


def test_the_schema_is_that_of_the_keys(capsys):
    shown = printed(capsys, 'recipe', '--schema')
    assert shown == schema.FILE.read_text(encoding='utf-8'), 'run `twinseg recipe --schema > common/configs/schema.json`'
    assert set(config.KEYS) <= set(json.loads(shown)['properties'])


@pytest.mark.parametrize('path', sorted(recipes.RECIPES.rglob('*.yaml')), ids=lambda path: path.stem)
def test_every_recipe_names_the_schema_and_keeps_it(path: Path):
    text = path.read_text(encoding='utf-8')
    (named,) = re.findall(rf'^{re.escape(schema.MODELINE)}(.+)$', text, re.MULTILINE)
    assert (path.parent / named).resolve() == schema.FILE.resolve()
    content, known = yaml_text.parse(text, str(path)), json.loads(schema.FILE.read_text(encoding='utf-8'))
    assert set(content) <= set(known['properties'])
    try:
        import jsonschema
    except ImportError:
        return
    jsonschema.Draft7Validator(known).validate(content)
