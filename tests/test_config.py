"""The configuration: inheritance, overrides, what is refused and how, and the recipes."""

import json
import math
import os
import re
from pathlib import Path

import hypothesis
import pytest
import yaml

from tests.support import settings
from twinseg.common import config
from twinseg.common.config import Config, from_flat, load, override, parse_override
from twinseg.common.errors import UserError
from twinseg.common.settings import foreign_keys, presets, recipes, yaml_text
from twinseg.common.settings.of_task import CLASSIFICATION
from twinseg.common.settings.presets import preset_arguments


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
        ('set: [toy_street]', r"set: expected one of toy_street, cityscapes, .*, found \['toy_street'\]"),
        ('arch: [enet]', r"arch: expected text, found \['enet'\]"),
        ('in_channel: 4', r'x\.yaml: in_channel: 4: not a setting here'),
        ('base_lr: fast', "base_lr: expected a number above 0, found 'fast'$"),
        ('base_lr: -1', 'base_lr: expected a number above 0, found -1$'),
        ('epochs: 2.5', 'epochs: expected a whole number above 0, found 2.5$'),
        ('epochs: true', 'epochs: expected a whole number above 0, found true$'),
        ('batch_size: "8"', "batch_size: expected a whole number above 0, found '8': leave the quotes out$"),
        ('with_ema: 1', 'with_ema: expected true or false, found 1$'),
        ('amp_level: O4', "amp_level: expected one of O0, O1, O2, O3, found 'O4'; did you mean"),
        ('crop_size: [512]', r'crop_size: expected \[height, width\] in pixels, .*, found \[512\]$'),
        ('crop_size: [512, 0]', 'crop_size: expected .* found 0 as entry 2$'),
        ('auxiliary_weights: {aux16: heavy}', "auxiliary_weights: expected .* found 'heavy' for 'aux16'$"),
        ('epochs: 1\nmax_iters: 1', 'epochs or max_iters, not both'),
        ('warmup_iters: 1\nwarmup_length: 1', 'not both'),
        ('base_lr: 0.1\nbase_lr: 0.2', 'line 2: the key base_lr is given twice'),
        ('- a\n- b', 'flat "key: value" lines'),
        ('just words', 'flat "key: value" lines'),
        ('1: 2', 'flat "key: value" lines'),
        ('a: [', 'not readable as YAML'),
        ('x: &a [1]\ny: *a', 'line 1: anchors are not allowed'),
        ('x: *a', 'line 1: aliases are not allowed'),
        ('x: !!python/object/apply:os.system [exit]', 'line 1: the tag !!python/object/apply:os.system is not allowed'),
        ('base: nowhere.yaml', "base: 'nowhere.yaml' is no file here or beside it, and no recipe"),
        ('base: 3', 'base: expected the name of a recipe or a file, or a list of such names, found 3$'),
        ('base: x.yaml', 'leads back to the file itself'),
        ('a: ' + '[' * 5000, 'lists are nested more than 50 deep'),
        ('#' * (config.MAX_BYTES + 1), 'more than'),
    ],
)
def test_what_is_wrong_is_named_in_one_line(write, text, message):
    with pytest.raises(UserError, match=message) as found:
        load(write(text))
    assert 'x.yaml' in str(found.value) and '\n' not in str(found.value)


def test_billion_laughs_are_refused(write):
    lines = ['a0: &a0 [x, x]'] + [f'a{i}: &a{i} [*a{i - 1}, *a{i - 1}]' for i in range(1, 40)]
    with pytest.raises(UserError, match='anchors'):
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
        ('base_lr=[', '--set base_lr: not readable as YAML: line 1: '),
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
    assert load(write(f'base: {recipes.find("stdc1_toy_street")}')).runtime.recipe is None


def test_near_names_of_recipes_are_offered():
    with pytest.raises(UserError, match="did you mean 'stdc1_toy_street'"):
        load('stdc1_toystreet')


def test_dump_reads_back(write):
    for found in (Config(), load('stdc1_in1k-pre_4xb12-80k_cityscapes-512x1024'), load('fast_scnn_camvid-360x480')):
        assert load(write(config.dump(found))) == found
        assert from_flat(found.flat()) == found
    awkward = {'classes': ['a: b', 'no', 'null', '1e-4'], 'lr_mult': {'head.': 1e-5}, 'data_url': '#x, y\n'}
    assert load(write(config.dump(from_flat(awkward)))).flat().items() >= awkward.items()


@pytest.mark.parametrize('path', recipes.recipes(), ids=lambda path: path.stem)
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


def through_json(found: Config) -> Config:
    """As a checkpoint and an exported file keep it."""
    return from_flat(json.loads(json.dumps(found.flat())))


def through_yaml(found: Config, folder: Path) -> Config:
    """As ``config.yaml`` keeps it."""
    (folder / 'config.yaml').write_text(config.dump(found), encoding='utf-8')
    return load(folder / 'config.yaml')


def test_every_recipe_survives_a_checkpoint(tmp_path):
    for path in recipes.recipes():
        recipe = load(path)
        assert through_json(recipe) == recipe == through_yaml(recipe, tmp_path), path
        assert through_json(recipe).flat() == recipe.flat(), path  # what was set stays set


GENERATED = hypothesis.settings(deadline=None, suppress_health_check=list(hypothesis.HealthCheck), derandomize=True)


@pytest.mark.parametrize('key', sorted(config.KEYS.keys() - {'set', 'preset'}))
def test_every_value_survives_json_and_yaml(key):
    """A value of each kind that the key's type takes, alone: none is left out by chance; a preset becomes model_args."""
    task = {'set': 'imagenet' if key in CLASSIFICATION else 'custom'}

    @hypothesis.settings(GENERATED, max_examples=12)
    @hypothesis.given(
        value=settings.of_key(key).filter(lambda value: value is not None) if key != 'preset' else settings.of_key(key)
    )
    def survives(value):
        found = from_flat({**task, key: value})
        written = yaml_text.parse(f'{key}: {yaml_text.written(found.flat().get(key))}', 'x')
        for read in (through_json(found), from_flat({**found.flat(), **written})):
            assert repr(read) == repr(found) and read.flat() == found.flat()

    survives()


@hypothesis.settings(GENERATED, max_examples=20)
@hypothesis.given(keys=settings.flat_keys)
def test_every_key_survives_a_checkpoint_and_config_yaml(tmp_path_factory, keys):
    folder = tmp_path_factory.getbasetemp()
    found = from_flat(keys)
    stored = through_json(found)
    assert stored == found and stored.flat() == found.flat()
    assert set(keys) <= set(found.flat())  # what was set stays set, also where it is the default
    written = through_yaml(found, folder)
    assert written == found and through_json(written) == found
    assert found.replace() == found == override(found, [])
    assert repr(stored) == repr(written) == repr(found)  # 1 and 1.0 and True are equal


@pytest.mark.parametrize('key', ['label_map'])
def test_numbers_as_keys_survive_json(key):
    """The keys whose tables have numbers as keys; JSON makes strings of them."""
    kinds = {name: str(config.GROUPS[group].model_fields[name].annotation) for name, group in config.KEYS.items()}
    assert [name for name, kind in kinds.items() if re.search(r'[dD]ict\[(typing.Union\[)?int', kind)] == [key]


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
        ({'arch': 'enet', 'preset': 5}, 'preset: expected text, found 5: put quotes around it'),
        (
            {'arch': 'enet', 'preset': 'davidtvs', 'model_args': 5},
            'model_args: expected a table of names and values, .* found 5$',
        ),
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


WRONG = [None, True, -1, 0, 1, 2.5, 1e300, -(10**30), math.inf, math.nan, '', 'x\x1b[31m\n', '8', 'x' * 10**6]
WRONG += [[], [1], ['x', 2], [[3.0]], [math.nan] * 3, [2.0, 1.0], {}, {1: 2}, {'a': [1]}, {'a': math.inf}, {'a': {2: 3}}]
WRONG += [[0.1] * 10**5]
PYDANTIC = re.compile(r'[Ii]nput|should|valid |instance|pydantic|constrained|literal\[|value_error|validation|type=')


@pytest.mark.parametrize('key', config.KEYS)
def test_every_key_refuses_in_plain_words(key):
    """... on one line that begins with file and key, whatever the value is."""
    refused = 0
    for value in WRONG:
        try:
            from_flat({key: value}, 'x.yaml')
        except UserError as error:
            refused += 1
            message = str(error)
            assert message.startswith(f'x.yaml: {key}: ') and len(message) <= 500, message
            assert message.isprintable() and not PYDANTIC.search(message), message
    assert refused > 5


@pytest.mark.parametrize(
    'text, message',
    [
        (
            'mean: [0.485, 0.456, 0.406]\nstd: [0.229, 0.224, 0.225]',
            'mean: [123.675, 116.28, 103.53], std: [58.395, 57.12, 57.375]',
        ),
        ('mean: [0.485, 0.456, 0.406]', 'mean: [0.485, 0.456, 0.406] is for pixels of 0 to 1, while those here are 0 to 255'),
        ('std: [0.229, 0.224, 0.225]', 'multiply by 255: std: [58.395, 57.12, 57.375]'),
        ('mean: [0, 0, 0]\nstd: [1, 1, 1]', 'std: [255.0, 255.0, 255.0]'),
        ('mean: [0.5, 0.5, 0.5]\nstd: [127.5, 127.5, 127.5]', 'mean: [127.5, 127.5, 127.5]'),
        ('mean: [300, 0, 0]', 'mean: expected [red, green, blue], each from 0 to 255, found 300 as entry 1'),
        ('std: [57, 0, 57]', 'std: expected [red, green, blue], each above 0, found 0 as entry 2'),
        ('std: [57, -57, 57]', 'std: expected [red, green, blue], each above 0, found -57 as entry 2'),
        ('scale_set: [0.5, 1]\nratio_range: [0.5, 1.5]', 'scale_set: give scale_set or ratio_range, not both'),
        ('scale_set: []', 'scale_set: expected a list of one to 100 factors, each above 0 and at most 100'),
        ('scale_set: [0.5, 0]', 'such as [0.5, 0.75, 1.0], found 0 as entry 2'),
        ('detail_target: decaying\noptimizer: adamw', 'detail_target: decaying follows optimizer: sgd, not adamw'),
        ('set: imagenet\nantialias: true', 'antialias: true has no effect with set: imagenet'),
        ('sync_bn: backbone', 'sync_bn: expected true or false or heads, found'),
        ('ratio_range: [2.0, 0.5]', 'ratio_range: expected the lowest value first, such as [0.5, 2.0], found [2.0, 0.5]'),
        ('contrast_range: [1.5, 0.5]', 'contrast_range: expected the lowest value first'),
        ('saturation_range: [1.5, 0.5]', 'saturation_range: expected the lowest value first'),
        ('cutout_ratio: [0.4, 0.1]', 'cutout_ratio: expected the lowest value first'),
        ('set: imagenet\nscale: [1.0, 0.08]', 'scale: expected the lowest value first'),
        ('set: imagenet\nratio: [1.3, 0.7]', 'ratio: expected the lowest value first'),
        ('set: imagenet\nratio: [0, 1]', 'ratio: expected [lowest, highest], each above 0'),
        ('ratio_range: [0, 1]', 'ratio_range: expected [lowest, highest], each above 0 and at most 100, found 0 as entry 1'),
        ('cutout_ratio: [0.1, 2]', 'cutout_ratio: expected [lowest, highest], each above 0 and at most 1'),
        ('class_weight: [1, 0]', 'class_weight: expected weights above 0, found 0 for class 1'),
        ('class_weight: [1, -1]', 'class_weight: expected median_frequency, enet, or a list'),
        ('class_weight: []', 'class_weight: expected one weight above 0 for each class, found []'),
        ('class_weight: [1, 2]\nnum_classes: 3', 'class_weight: 2 weights for 3 classes'),
        ('set: custom\nclasses: [a, b]\nclass_weight: [1, 2, 3]', 'class_weight: 3 weights for 2 classes'),
        ('base_lr: .inf', 'base_lr: expected a number above 0, found inf, which is not finite'),
        ('beta: [0.9, 1]', 'beta: expected a list of 2 numbers of 0 or more and below 1, found 1 as entry 2'),
        ('weight_decay: .nan', 'weight_decay: expected a number of 0 or more, found nan, which is not finite'),
        ('auxiliary_weights: {aux: .inf}', "found inf, which is not finite for 'aux'"),
        ('class_weight: [1, .inf]', 'found inf, which is not finite as entry 2'),
        ('model_args: {dropout: .nan}', 'model_args: expected numbers of at most 65536, found nan'),
        ('model_args: {channels: 1000000000}', 'model_args: expected numbers of at most 65536, found 1000000000'),
        (
            'crop_size: [200000, 200000]',
            'crop_size: expected [height, width] in pixels, such as [512, 1024], each from 1 to 32766',
        ),
        ('image_size: 20000', 'image_size: expected at most 67108864 pixels, such as [8192, 8192], found [20000, 20000]'),
        ('num_classes: 100000000', 'num_classes: expected a whole number above 0 and at most 65536, found 100000000'),
        ('num_classes: 256', 'num_classes: 256 classes; a segmentation has at most 255'),
        ('batch_size: 100000', 'batch_size: expected a whole number above 0 and at most 65536'),
        ('seed: 99999999999', 'seed: expected a whole number from 0 to 4294967295'),
        ('device_target: cuda', "device_target: expected one of CPU, GPU, Ascend, found 'cuda'"),
        (
            'classes: [road, no]',
            'found false as entry 2: YAML takes yes, no, on and off for true and false; put quotes around it',
        ),
        ('data_url: 5', 'data_url: expected text, found 5: put quotes around it'),
        ('data_url: ~nobody_here/x', 'data_url: ~nobody_here/x: there is no home folder ~nobody_here'),
        (
            'label_map: {road: 0}',
            "label_map: expected ids, colours such as '0,0,0' or the word transparent, found 'road' as a",
        ),
        ('label_map: {1: x}', "found 'x' for 1"),
        ('palette: [[0, 0, 300]]', 'found 300 as entry 3 of entry 1'),
        ('arch: {}', 'arch: expected text, found {}'),
        ('arch: DDRNet23\nmodel_args: 5', 'model_args: expected a table of names and values'),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(write, text, message):
    with pytest.raises(UserError) as error:
        load(write(text))
    assert message in str(error.value) and 'x.yaml: ' in str(error.value) and str(error.value).isprintable()


def test_every_range_has_the_lowest_value_first():
    """Lists of two numbers that are not a range are named here, so that a later range is not forgotten."""
    others = {'base_size', 'image_size', 'crop_size', 'eval_size', 'beta', 'detail_weights'}
    for key, group in config.KEYS.items():
        default = config.GROUPS[group].model_fields[key].default
        if isinstance(default, list) and len(default) == 2 and key not in others:
            task = {'set': 'imagenet'} if key in CLASSIFICATION else {}
            with pytest.raises(UserError, match=f'{key}: expected the lowest value first'):
                from_flat({key: default[::-1], **task})


def test_images_of_0_to_1_and_raw_ones_may_be_trained_on():
    """davidtvs divides by 255 and no more; Caffe's networks subtract the mean alone."""
    for mean, std in (([0, 0, 0], [255, 255, 255]), ([104, 117, 123], [1, 1, 1]), ([127.5] * 3, [127.5] * 3)):
        assert from_flat({'mean': mean, 'std': std}).augment.std == std


def test_what_a_run_was_trained_with_is_taken_as_it_is(write, tmp_path):
    """Earlier versions trained with what is refused today; such a run is still evaluated, reported and resumed."""
    keys = {
        'mean': [0.5] * 3,
        'std': [0.2] * 3,
        'ratio_range': [2.0, 0.5],
        'class_weight': [1.0, 0.0],
        'data_url': '~nobody_here',
    }
    with pytest.raises(UserError):
        from_flat(keys)
    run = from_flat(keys, trusted=True)
    assert run.replace(seed=3).augment == override(run, ['seed=3']).augment == run.augment
    for change in ('ratio_range=[3.0, 1.0]', 'class_weight=[0, 1]', 'std=[0.1, 0.1, 0.1]', 'data_url=~nobody_there'):
        with pytest.raises(UserError, match=f'^--set {change.split("=")[0]}: '):
            override(run, [change])
    with pytest.raises(UserError, match='config.yaml'):
        load(write(config.dump(run), 'config.yaml'))
    write('', 'metrics.jsonl')  # now it is a run's
    assert load(tmp_path / 'config.yaml') == run
    with pytest.raises(UserError, match='num_classes'):  # limits hold for everyone
        from_flat({'num_classes': 10**8}, trusted=True)


FOREIGN = {  # what people bring along -> what the answer names
    **{'ignore_index': 'label_map: {0: 255, 1: 0, 2: 1}', 'reduce_zero_label': 'label_map: {0: 255, 1: 0, 2: 1}'},
    **{'img_suffix': 'image_suffix', 'seg_map_suffix': 'label_suffix', 'data_root': 'data_url', 'img_dir': 'image_dir'},
    **{'ann_dir': 'label_dir', 'lr': 'base_lr', 'num_workers': 'num_parallel_workers', 'samples_per_gpu': 'batch_size'},
    **{'CLASSES': 'classes', 'PALETTE': 'palette', 'max_epochs': 'epochs', 'load_from': 'pretrained', 'betas': 'beta'},
    **{
        'workers': 'num_parallel_workers',
        'aa': 'auto_augment',
        'smoothing': 'label_smoothing',
        '_base_': 'base',
        'Epoch': 'epochs',
    },
}


@pytest.mark.parametrize('key, answer', FOREIGN.items())
def test_keys_of_other_tools_are_answered(write, key, answer):
    for attempt in (lambda: load(write(f'{key}: 1')), lambda: load('fast_scnn_toy_street', [f'{key}=1'])):
        with pytest.raises(UserError, match=rf"^(--set|.*x\.yaml): unknown key '{key}'.*\b{re.escape(answer)}"):
            attempt()


def test_answers_name_keys_that_there_are():
    known = {*config.KEYS, 'base'}
    assert set(foreign_keys.SAME.values()) <= known
    assert not (foreign_keys.SAME.keys() | foreign_keys.ANSWERS.keys()) & config.KEYS.keys()
    assert all(key == key.lower() for key in (*foreign_keys.SAME, *foreign_keys.ANSWERS))
    for text in foreign_keys.ANSWERS.values():
        named = set(re.findall(r'\b[a-z]+_[a-z_]+\b', text)) - {'sigmoid_cross_entropy'}
        assert named <= known, text


@pytest.mark.parametrize(
    'overrides, message',
    [
        (['batch_size=x'], "--set batch_size: expected a whole number above 0, found 'x'"),
        (['optimizer.base_lr=-1'], '--set base_lr: expected a number above 0, found -1'),
        (['learning_rate=x'], "--set learning_rate: expected a number above 0, found 'x'"),
        (['max_iters=5', 'epochs=5'], '--set epochs: give epochs or max_iters, not both'),
        (['mix_up=0.5'], '--set mix_up: 0.5 has no effect with set: toy_street'),
        (['data.img_suffix=.png'], "--set data.img_suffix: unknown key 'img_suffix': here it is image_suffix"),
        (['seed=' + '[' * 3000], '--set seed: line 1: lists are nested more than 50 deep'),
        (['seed=' + '9' * 5000], '--set seed: line 1: a number of 5000 digits'),
        (['seed=!!bool z'], '--set seed: line 1: the tag !!bool is not allowed'),
        (['set=cityscape'], "found 'cityscape'; did you mean 'cityscapes'?"),
        (['base=x'], "--set: unknown key 'base': it is a key of YAML files"),
        (['nothing'], "--set 'nothing': expected key=value"),
    ],
)
def test_errors_of_set_name_it_and_the_key(overrides, message):
    for attempt in (lambda: load('fast_scnn_toy_street', overrides), lambda: override(Config(), overrides)):
        with pytest.raises(UserError) as error:
            attempt()
        assert message in str(error.value) and str(error.value).startswith('--set') and len(str(error.value)) < 500


def test_an_error_names_the_file_that_has_the_key(write):
    write('base_lr: x\nseed: 1\n', 'below.yaml')
    with pytest.raises(UserError, match=r'below\.yaml: base_lr: expected'):
        load(write('base: below.yaml\narch: enet'))
    with pytest.raises(UserError, match=r'x\.yaml: seed: expected'):
        load(write('base: below.yaml\nbase_lr: 0.1\nseed: x'))
    assert load(write('base: below.yaml'), ['base_lr=0.1']).runtime.seed == 1


def test_names_of_files_may_have_any_bytes():
    """YAML knows no lone surrogates, by which Python holds bytes that are no UTF-8."""
    name = os.fsdecode(b'/data/stra\xdfe')
    found = override(Config(), [f'data_url={name}'])
    assert found.data.data_url == name and through_json(found) == found
