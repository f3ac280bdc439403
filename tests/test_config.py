"""The configuration: inheritance, overrides, what is refused and how, and the recipes."""

import json
import re
from pathlib import Path

import pytest
import yaml

from twinseg.common import config, presets
from twinseg.common.config import Config, from_flat, load, override, parse_override
from twinseg.common.errors import UserError
from twinseg.common.presets import preset_arguments


@pytest.fixture
def write(tmp_path):
    def file(text: str, name: str = 'x.yaml') -> Path:
        (tmp_path / name).write_text(text, encoding='utf-8')
        return tmp_path / name

    return file


def test_keys_land_in_their_groups(write):
    found = load(write('arch: stdc1_seg\nbase_lr: 0.1\namp_level: O2\nepochs: 3\n'))
    assert (found.model.arch, found.optimizer.base_lr, found.precision.amp_level, found.schedule.epochs) == (
        'stdc1_seg',
        0.1,
        'O2',
        3,
    )


def test_no_key_stands_in_two_groups():
    assert len(config.KEYS) == sum(len(kind.model_fields) for kind in config.GROUPS.values())


@pytest.mark.parametrize('key', config.KEYS)
def test_every_key_is_described(key):
    """`twinseg list --keys` prints the description: at least two words, and not those of the key itself."""
    description = config.GROUPS[config.KEYS[key]].model_fields[key].description
    assert description and len(description.split()) > 1, f'{key} has no description'
    assert description.lower().replace(' ', '_') != key


def test_base_comes_first(write):
    write('base_lr: 0.1\nmomentum: 0.5\n', 'grandparent.yaml')
    write('base: grandparent.yaml\nbase_lr: 0.2\n', 'parent.yaml')
    found = load(write('base: parent.yaml\narch: stdc2_seg\n'))
    assert (found.model.arch, found.optimizer.base_lr, found.optimizer.momentum) == ('stdc2_seg', 0.2, 0.5)


@pytest.mark.parametrize('name', ['fast_scnn_toy_street', 'fastscnn/fast_scnn_toy_street.yaml'])
def test_base_may_be_a_recipe(write, name):
    """... from any folder; a file of that name beside the file comes first."""
    found = load(write(f'base: {name}\nbase_lr: 0.2\n'))
    assert (found.model.arch, found.optimizer.base_lr, found.data.set) == ('fast_scnn', 0.2, 'toy_street')
    if '/' not in name:
        write('arch: stdc1_seg\n', name)
        assert load(write(f'base: {name}\n')).model.arch == 'stdc1_seg'


@pytest.mark.parametrize(
    'text, expected',
    [
        ('base_lr=0.5', ('base_lr', 0.5)),
        ('optimizer.base_lr=0.5', ('base_lr', 0.5)),
        ('base_lr=1e-4', ('base_lr', 1e-4)),
        ('crop_size=[64, 128]', ('crop_size', [64, 128])),
        ('set=camvid', ('set', 'camvid')),
        ('lr_mult={head: 10}', ('lr_mult', {'head': 10})),
        ('data_url=/a=b', ('data_url', '/a=b')),
        ('epochs=null', ('epochs', None)),
        ('with_ema=true', ('with_ema', True)),
        (' base_lr = 1', ('base_lr', 1)),
    ],
)
def test_overrides_are_yaml(text, expected):
    assert parse_override(text) == expected


def test_overrides_win(write):
    path = write('base_lr: 0.1\nepochs: 3\n')
    assert load(path, ['base_lr=0.2']).optimizer.base_lr == 0.2
    assert override(load(path), ['optimizer.base_lr=0.2']) == load(path, ['base_lr=0.2'])
    assert load(path).replace(base_lr=0.2) == load(path, ['base_lr=0.2'])


@pytest.mark.parametrize(
    'below, above, expected',
    [
        ('epochs: 3', 'max_iters: 7', (None, 7)),
        ('max_iters: 7', 'epochs: 3', (3, None)),
        ('epochs: 3', 'max_iters: null', (3, None)),
    ],
)
def test_a_length_replaces_the_other_kind_of_length(write, below, above, expected):
    write(below, 'below.yaml')
    for found in (load(write(f'base: below.yaml\n{above}')), load(write(below), [above.replace(': ', '=')])):
        assert (found.schedule.epochs, found.schedule.max_iters) == expected


@pytest.mark.parametrize(
    'text, message',
    [
        ('bas_lr: 0.1', "unknown key 'bas_lr'; did you mean 'base_lr'"),
        ('qqqq: 0.1', "unknown key 'qqqq'; `twinseg list --keys`"),
        ('learning_rates: 1', "unknown key 'learning_rates'"),
        ('set: [toy_street]', r"set: Input should be 'toy_street', "),
        ('arch: [enet]', 'arch: Input should be a valid string'),
        ('in_channel: 4', r'x\.yaml: in_channel: 4: not a setting here'),
        ('base_lr: fast', r"base_lr: .*valid number \(found 'fast'\)"),
        ('base_lr: -1', r'base_lr: .*greater than 0 \(found -1'),
        ('epochs: 2.5', r'epochs: .*integer'),
        ('epochs: true', r'epochs: .*integer'),
        ('batch_size: "8"', r'batch_size: .*integer'),
        ('with_ema: 1', r'with_ema: .*boolean'),
        ('amp_level: O4', r"amp_level: .*'O0', 'O1', 'O2' or 'O3' \(found 'O4'\)"),
        ('crop_size: [512]', r'crop_size: .*at least 2'),
        ('crop_size: [512, 0]', r'crop_size\.1: .*greater than 0'),
        ('auxiliary_weights: {aux16: heavy}', r'auxiliary_weights\.aux16'),
        ('epochs: 1\nmax_iters: 1', 'epochs or max_iters, not both'),
        ('warmup_iters: 1\nwarmup_length: 1', 'not both'),
        ('base_lr: 0.1\nbase_lr: 0.2', 'line 1: the key base_lr is given twice'),
        ('- a\n- b', 'flat "key: value" lines'),
        ('just words', 'flat "key: value" lines'),
        ('1: 2', 'flat "key: value" lines'),
        ('a: [', 'not readable as YAML'),
        ('x: &a [1]\ny: *a', 'aliases are not allowed'),
        ('x: !!python/object/apply:os.system [exit]', 'not readable as YAML'),
        ('base: nowhere.yaml', "base: 'nowhere.yaml' is no file beside it and no recipe"),
        ('base: 3', 'base: 3 is no file'),
        ('base: x.yaml', 'leads back to the file itself'),
        ('a: ' + '[' * 5000, 'not readable as YAML'),
        ('#' * (config.MAX_BYTES + 1), 'larger than'),
    ],
)
def test_what_is_wrong_is_named_in_one_line(write, text, message):
    with pytest.raises(UserError, match=message) as found:
        load(write(text))
    assert 'x.yaml' in str(found.value) and '\n' not in str(found.value)


def test_billion_laughs_are_refused(write):
    lines = ['a0: &a0 [x, x]'] + [f'a{i}: &a{i} [*a{i - 1}, *a{i - 1}]' for i in range(1, 40)]
    with pytest.raises(UserError, match='aliases'):
        load(write('\n'.join(lines)))


def test_binary_files_are_refused(tmp_path):
    (tmp_path / 'x.yaml').write_bytes(b'\xff\xfe\x00\x01')
    with pytest.raises(UserError, match='not readable'):
        load(tmp_path / 'x.yaml')


@pytest.mark.parametrize(
    'text, message',
    [
        ('base_lr', 'expected key=value'),
        ('=1', 'expected key=value'),
        ('optimizer.bas_lr=1', "unknown key 'bas_lr'; did you mean 'base_lr'"),
        ('data.base_lr=1', "unknown key 'base_lr'"),
        ('base_lr=[', 'not YAML'),
        ('nothing=1', "unknown key 'nothing'"),
    ],
)
def test_wrong_overrides_are_named(text, message):
    with pytest.raises(UserError, match=message):
        load('fast_scnn_toy_street', [text])


def test_a_group_with_an_unknown_key_is_named():
    with pytest.raises(UserError, match='did you mean'):
        from_flat({'base_Lr': 1})


@pytest.mark.parametrize('name', ['stdc1_toy_street', 'stdc/stdc1_toy_street', 'stdc/stdc1_toy_street.yaml'])
def test_recipes_are_found_by_name(name):
    assert load(name).model.arch == 'stdc1_seg'


def test_a_configuration_remembers_its_recipe(write):
    found = load('stdc1_toy_street', ['base_lr=1'])
    assert found.runtime.recipe == 'stdc/stdc1_toy_street'
    assert load(write(config.dump(found))).runtime.recipe == 'stdc/stdc1_toy_street'
    assert load(write(f'base: {config.find("stdc1_toy_street")}')).runtime.recipe is None


def test_near_names_of_recipes_are_offered():
    with pytest.raises(UserError, match="did you mean 'stdc1_toy_street'"):
        load('stdc1_toystreet')


def test_dump_reads_back(write):
    for found in (Config(), load('stdc1_in1k-pre_4xb12-80k_cityscapes-512x1024'), load('fast_scnn_camvid-360x480')):
        assert load(write(config.dump(found))) == found
        assert from_flat(found.flat()) == found
    awkward = {'classes': ['a: b', 'no', 'null', '1e-4'], 'lr_mult': {'head.': 1e-5}, 'data_url': '#x, y\n'}
    assert load(write(config.dump(from_flat(awkward)))).flat().items() >= awkward.items()


@pytest.mark.parametrize('path', config.recipes(), ids=lambda path: path.stem)
class TestRecipes:
    def test_loads_and_has_a_length(self, path):
        found = load(path)
        assert found.schedule.epochs or found.schedule.max_iters
        assert load(path.stem) == found  # names are unique

    def test_opens_with_command_hardware_hours_score(self, path):
        comment = ' '.join(line for line in path.read_text().splitlines() if line.startswith('#'))
        command = r"(twinseg train|(EPOCHS='[0-9 ]+' )?bash scripts/train_camvid.sh)"
        assert re.search(rf'command: +{command} {path.parent.name}/{path.stem}\b', comment)
        for word in ('hardware:', 'hours:', 'score:'):
            assert word in comment


def test_every_recipe_survives_a_checkpoint():
    """A checkpoint keeps the configuration as JSON, config.yaml as YAML."""
    for path in config.recipes():
        recipe = load(path)
        assert from_flat(json.loads(json.dumps(recipe.flat()))) == recipe, path


def test_a_label_map_survives_a_checkpoint(write):
    """JSON makes strings of its keys."""
    custom = load(write('set: custom\nclasses: [road, kerb]\nlabel_map: {0: 255, 7: 0, 8: 1}\n'))
    assert from_flat(json.loads(json.dumps(custom.flat()))) == custom
    with pytest.raises(UserError, match='label_map'):
        from_flat({'set': 'custom', 'label_map': {'road': 0}})


def test_variants_differ_in_network_and_weights_only():
    one = yaml.safe_load(config.dump(load('stdc1_4xb12-80k_cityscapes-512x1024')))
    two = yaml.safe_load(config.dump(load('stdc2_in1k-pre_4xb12-80k_cityscapes-512x1024')))
    assert {key for key in one if one[key] != two[key]} == {'arch', 'pretrained', 'recipe'}


def test_a_preset_stands_for_the_publishers_arguments():
    """It becomes ``model_args`` when the configuration is read; single arguments, and the backbone, are the user's."""
    keys = {'arch': 'unet', 'preset': 'yassouali_resnet'}
    preset = preset_arguments('yassouali_resnet', 'unet')
    assert config.from_flat(keys).model.arguments() == preset
    assert config.from_flat({**keys, 'model_args': {'block': 'wide', 'x': 1}}).model.arguments() == {
        **preset,
        'block': 'wide',
        'x': 1,
    }
    assert config.from_flat({**keys, 'backbone': 'resnet18'}).model.arguments() == {**preset, 'backbone': 'resnet18'}
    assert config.from_flat({**keys, 'backbone': None}).model.arguments() == preset
    assert config.from_flat({**keys, 'preset': None}).model.arguments() == {}
    assert config.Model(arch='enet', preset='davidtvs').arguments() == preset_arguments('davidtvs', 'enet')
    recipe = config.load('enet_camvid-360x480', ['model_args={dropout: 0.5}'])
    assert recipe.model.arguments() == {**preset_arguments('davidtvs', 'enet'), 'dropout': 0.5}
    assert config.load('enet_camvid-360x480', ['preset=null', 'model_args={}']).model.arguments() == {}


def test_a_configuration_outlives_its_preset(monkeypatch):
    """What is written (``config.yaml``, checkpoints) holds the arguments themselves."""
    chosen = config.load('enet_camvid-360x480')
    arguments, written, flat = chosen.model.arguments(), config.dump(chosen), chosen.flat()
    monkeypatch.setitem(presets.PRESETS, 'davidtvs', {'enet': {'conv_bias': True, 'new': 1}})
    assert config.load('enet_camvid-360x480').model.arguments() != arguments
    for keys in (yaml.safe_load(written), flat):
        assert config.from_flat(keys).model.arguments() == arguments
    assert chosen.replace(seed=3).model.arguments() == arguments


@pytest.mark.parametrize(
    'keys, message',
    [
        ({'arch': 'enet', 'preset': 'davidtv'}, "preset: no preset 'davidtv' of enet: it has davidtvs, yassouali$"),
        ({'arch': 'unet', 'preset': 'davidtvs'}, "'davidtvs' of unet: it has mmseg, smp, .*; davidtvs is of enet$"),
        ({'arch': 'nonsense', 'preset': 'smp'}, "'smp' of nonsense: it has none; smp is of unet, pspnet, "),
        ({'arch': 'enet', 'preset': 5}, 'preset: Input should be a valid string'),
        ({'arch': 'enet', 'preset': 'davidtvs', 'model_args': 5}, 'model_args: Input should be a valid dict'),
    ],
)
def test_presets_that_there_are_not_are_refused(keys, message):
    with pytest.raises(UserError, match=message):
        config.from_flat(keys)


def test_presets_are_copies():
    preset_arguments('davidtvs', 'enet')['asymmetric_bias'].append(True)
    assert preset_arguments('davidtvs', 'enet')['asymmetric_bias'] == [False, False]


def test_backbone_is_an_argument_of_the_network():
    chosen = config.from_flat({'arch': 'pspnet', 'backbone': 'resnet18', 'model_args': {'channels': 128}})
    assert chosen.model.arguments() == {'backbone': 'resnet18', 'channels': 128}
    assert config.from_flat({}).model.arguments() == {}
