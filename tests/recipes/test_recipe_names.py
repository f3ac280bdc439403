"""Recipes by name: TwinSeg's names, mmsegmentation's, and what is said about others."""

from pathlib import Path

import pytest

from twinseg.common.config import load
from twinseg.common.errors import UserError
from twinseg.common.settings import recipes

STDC1 = 'stdc1_4xb12-80k_cityscapes-512x1024'
MMSEG = {  # names of mmsegmentation 1.2.2, configs/ -> of its versions before 1.0
    'stdc/stdc1_4xb12-80k_cityscapes-512x1024.py': 'stdc/stdc1_512x1024_80k_cityscapes.py',
    'stdc/stdc1_in1k-pre_4xb12-80k_cityscapes-512x1024.py': 'stdc/stdc1_in1k-pre_512x1024_80k_cityscapes.py',
    'stdc/stdc2_4xb12-80k_cityscapes-512x1024.py': 'stdc/stdc2_512x1024_80k_cityscapes.py',
    'fastscnn/fast_scnn_8xb4-160k_cityscapes-512x1024.py': 'fastscnn/fast_scnn_lr0.12_8x4_160k_cityscapes.py',
    'pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py': 'pspnet/pspnet_r50-d8_512x1024_40k_cityscapes.py',
    'pspnet/pspnet_r101-d8_4xb4-20k_voc12aug-512x512.py': 'pspnet/pspnet_r101-d8_512x512_20k_voc12aug.py',
    'fcn/fcn_r50-d8_4xb2-80k_cityscapes-512x1024.py': 'fcn/fcn_r50-d8_512x1024_80k_cityscapes.py',
    'deeplabv3plus/deeplabv3plus_r101-d8_4xb2-80k_cityscapes-512x1024.py': 'deeplabv3plus/'
    'deeplabv3plus_r101-d8_512x1024_80k_cityscapes.py',
    'upernet/upernet_r50_4xb4-40k_voc12aug-512x512.py': 'upernet/upernet_r50_512x512_40k_voc12aug.py',
    'unet/unet-s5-d16_fcn_4xb4-160k_cityscapes-512x1024.py': 'unet/fcn_unet_s5-d16_4x4_512x1024_160k_cityscapes.py',
    'ddrnet/ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024.py': None,
}


@pytest.mark.parametrize(
    'name',
    [
        STDC1,
        f'stdc/{STDC1}',
        f'stdc/{STDC1}.yaml',
        f'{STDC1}.py',
        f'configs/stdc/{STDC1}.py',
        f'./configs/stdc/{STDC1}.py',
        f'configs/stdc/{STDC1}',
        f'mmsegmentation/configs/stdc/{STDC1}.py',
        f'/home/x/mmsegmentation/configs/stdc/{STDC1}.py',
        f'configs\\stdc\\{STDC1}.py',
        f'mmseg::stdc/{STDC1}.py',
        f'common/configs/stdc/{STDC1}.yaml',
        'stdc1_512x1024_80k_cityscapes',
    ],
)
def test_a_recipe_has_many_names(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert recipes.find(name).stem == STDC1
    (tmp_path / 'mine.yaml').write_text(f'base: {name}\nbase_lr: 0.3\n')
    found = load('mine.yaml')
    assert (found.model.arch, found.optimizer.base_lr, found.schedule.max_iters) == ('stdc1_seg', 0.3, 80000)


@pytest.mark.parametrize('new, old', MMSEG.items(), ids=lambda name: str(name))
def test_mmsegmentations_names(new, old):
    path = recipes.named(f'configs/{new}')
    assert path is not None and path.stem == Path(new).stem
    assert old is None or recipes.named(f'configs/{old}') == path


@pytest.mark.parametrize('name', ['/data/configs/stdc/stdc1_toy_street.yaml', 'stdc/none', 'fcn/stdc1_toy_street', 'stdc', ''])
def test_other_paths_are_no_recipes(name):
    """A path of one's own that is not there is not answered with a recipe that happens to have its name."""
    assert recipes.named(name) is None


@pytest.mark.parametrize(
    'name, hint',
    [
        ('stdc1_toystreet', "did you mean 'stdc1_toy_street' or 'stdc2_toy_street'"),
        ('configs/stdc/stdc1_4xb12-80k_cityscape-512x1024.py', f"did you mean '{STDC1}'"),
        ('qqqq', 'twinseg list --configs'),
        ('~nobody_here/x.yaml', 'there is no home folder ~nobody_here'),
    ],
)
def test_near_names_are_offered(name, hint, tmp_path):
    with pytest.raises(UserError) as error:
        load(name)
    assert hint in str(error.value) and name in str(error.value)
    path = tmp_path / 'mine.yaml'
    path.write_text(f"base: '{name}'")
    with pytest.raises(UserError) as error:
        load(path)
    assert hint in str(error.value) and name in str(error.value)


def test_a_python_file_is_not_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = f"open('{tmp_path}/executed', 'w')"
    for name, answer in ((f'{STDC1}.py', f'its recipe here is stdc/{STDC1}$'), ('my_network.py', 'write its settings as YAML')):
        Path(name).write_text(text)
        with pytest.raises(UserError, match=f'{name}: a Python file is not executed; {answer}'):
            load(name)
        Path('mine.yaml').write_text(f'base: {name}')
        with pytest.raises(UserError, match=f'mine.yaml: base: .*{name}: a Python file is not executed; {answer}'):
            load('mine.yaml')
    assert not Path('executed').exists()


class TestBase:
    """Where ``base`` is looked for, and in which order its keys come."""

    @pytest.fixture(autouse=True)
    def folders(self, tmp_path, monkeypatch):
        """``own/`` beside ``here/``, the current folder; a file of each name."""
        for folder in ('own/sub', 'here', 'home'):
            (tmp_path / folder).mkdir(parents=True)
        monkeypatch.chdir(tmp_path / 'here')
        monkeypatch.setenv('HOME', str(tmp_path / 'home'))
        for number, path in enumerate(('own/both.yaml', 'here/both.yaml', 'own/sub/a.yml', 'here/only.yaml', 'home/h.yaml'), 1):
            (tmp_path / path).write_text(f'base_lr: {number}\n')
        self.folder = tmp_path / 'own'

    def rate(self, base: str) -> float:
        (self.folder / 'mine.yaml').write_text(f'base: {base}\n')
        return load('../own/mine.yaml').optimizer.base_lr

    @pytest.mark.parametrize(
        'base, rate',
        [
            ('both.yaml', 1),
            ('../here/both.yaml', 2),
            ('sub/a.yml', 3),
            ('only.yaml', 4),
            ('~/h.yaml', 5),
            ('[both.yaml, only.yaml]', 4),
            ('[only.yaml, both.yaml]', 1),
            ('[stdc1_toy_street, both.yaml]', 1),
        ],
    )
    def test_relative_to_the_file_then_to_the_current_folder(self, base, rate):
        assert self.rate(base) == rate

    def test_absolute(self, tmp_path):
        assert self.rate(str(tmp_path / 'home' / 'h.yaml')) == 5

    def test_relative_to_a_link_and_to_its_target(self, tmp_path):
        (self.folder / 'mine.yaml').write_text('base: both.yaml\n')
        (tmp_path / 'here' / 'link.yaml').symlink_to(self.folder / 'mine.yaml')
        assert load('link.yaml').optimizer.base_lr == 2
        (tmp_path / 'here' / 'both.yaml').unlink()
        assert load('link.yaml').optimizer.base_lr == 1

    def test_a_file_that_recipes_share(self):
        (self.folder / 'mine.yaml').write_text('base: cityscapes\narch: enet\n')
        assert load(self.folder / 'mine.yaml').data.set == 'cityscapes'
        with pytest.raises(UserError, match='neither a file nor a recipe'):
            load('cityscapes')

    @pytest.mark.parametrize(
        'base, message',
        [
            ('mine.yaml', 'mine.yaml: base: leads back to the file itself'),
            ('[both.yaml, mine.yaml]', 'leads back to the file itself'),
            ('3', 'expected the name of a recipe or a file, or a list of such names, found 3'),
            ('{a: b}', "found {'a': 'b'}"),
            ('[[both.yaml]]', r"found \['both.yaml'\]"),
            ("''", "found ''"),
            ('false', 'found false'),
            ('sub', "base: 'sub' is no file here or beside it, and no recipe"),
        ],
    )
    def test_what_is_refused(self, base, message):
        with pytest.raises(UserError, match=message) as error:
            self.rate(base)
        assert 'mine.yaml: base: ' in str(error.value)

    def test_a_circle_of_two(self):
        (self.folder / 'other.yaml').write_text('base: mine.yaml')
        with pytest.raises(UserError, match=r'other\.yaml: base: leads back to .*mine\.yaml'):
            self.rate('other.yaml')

    def test_lists_of_lists_end(self):
        for number in range(12):
            (self.folder / f'n{number}.yaml').write_text(f'base: [n{number + 1}.yaml, n{number + 1}.yaml]')
        (self.folder / 'n12.yaml').write_text('')
        with pytest.raises(UserError, match='more than 100 files'):
            self.rate('n0.yaml')
