"""The recipes by name: TwinSeg's own names, and those that mmsegmentation gives the same configurations."""

import re
from pathlib import Path
from typing import Iterable, Optional

from twinseg.common.errors import UserError, did_you_mean, similar
from twinseg.common.files import home_expanded

RECIPES = Path(__file__).parents[1] / 'configs'
# Names of mmsegmentation before 1.0: network_[GPUs x images of each_][height x width_]steps_data
OLD_NAME = re.compile(
    r'(?P<network>.+?)(_lr[0-9.]+)?(_\d+x\d+)?(_(?P<height>\d{3,4})x(?P<width>\d{3,4}))?_(?P<steps>\d+k)_(?P<data>[a-z0-9]+)'
)
OLD_NETWORKS = {'fcn_unet_s5-d16': 'unet-s5-d16_fcn'}  # network in the old names -> in the new ones


def recipes() -> list[Path]:
    """All recipes of the suite."""
    return sorted(RECIPES.glob('*/*.yaml'))


def named(name: str, parts: bool = False) -> Optional[Path]:
    """The recipe of a name, with or without its folder and suffix, or of mmsegmentation's name of the same configuration, as
    in ``configs/stdc/NAME.py``; None where there is none, or more than one. ``parts``: also the files that recipes share."""
    plain = _plain(name)
    matching = [path for path in recipes() if plain in (path.stem, _title(path))]
    if not matching:
        matching = _old_names(plain.rpartition('/')[2])
    if not matching and parts:
        matching = [path for path in RECIPES.glob('*.yaml') if plain == path.stem]
    return matching[0] if len(matching) == 1 else None


def find(name: str | Path) -> Path:
    """The file of a configuration: a path, or a recipe's name; UserError, which names similar ones, where there is none."""
    path = home_expanded(name)
    if path.is_file():
        _refuse_python(path)
        return path
    recipe = named(str(name))
    if recipe is None:
        raise UserError(f'no configuration {str(name)!r}: neither a file nor a recipe{near(str(name))}')
    return recipe


def find_base(name: str, beside: Iterable[Path], where: str) -> Path:
    """The file that ``base`` names: a path, in one of the folders ``beside`` or in the current one, else a recipe or a file
    that recipes share; UserError, which begins with ``where``, where there is none."""
    path = home_expanded(name)
    for folder in (*beside, Path()):
        if (folder / path).is_file():
            _refuse_python(folder / path, where)
            return folder / path
    recipe = named(name, parts=True)
    if recipe is None:
        raise UserError(f'{where}: base: {name!r} is no file here or beside it, and no recipe{near(name)}')
    return recipe


def near(name: str) -> str:
    """The end of a message about a name that there is not: similar ones."""
    plain = _plain(name).rpartition('/')[2]
    stems = [path.stem for path in recipes()]
    return did_you_mean(similar(plain, stems, cutoff=0.6), '`twinseg list --configs` names the recipes')


def _title(path: Path) -> str:
    return path.relative_to(RECIPES).with_suffix('').as_posix()


def _plain(name: str) -> str:
    """A name without its suffix and without what leads to the folder of the recipes, here or in mmsegmentation."""
    name = name.replace('\\', '/').removeprefix('mmseg::').removeprefix('./')  # the scope is mmengine's
    python = name.endswith('.py')
    name = re.sub(r'\.(yaml|yml|py)$', '', name)
    before, _, rest = name.rpartition('configs/')
    if rest != name and (python or before in ('', 'common/', 'twinseg/common/', 'mmsegmentation/')):
        return rest
    return name


def _old_names(name: str) -> list[Path]:
    """The recipes of a name that mmsegmentation had before 1.0, such as stdc1_512x1024_80k_cityscapes."""
    match = OLD_NAME.fullmatch(name)
    if match is None:
        return []
    network = OLD_NETWORKS.get(match['network'], match['network'])
    size = rf'{match["height"]}x{match["width"]}' if match['height'] else r'\d+x\d+'
    pattern = re.compile(rf'{re.escape(network)}_\d+xb\d+-{match["steps"]}_{match["data"]}-{size}')
    return [path for path in recipes() if pattern.fullmatch(path.stem)]


def _refuse_python(path: Path, where: str = '') -> None:
    """UserError for a Python configuration of mmsegmentation; nothing in it is executed."""
    if path.suffix == '.py':
        recipe = named(path.name)
        answer = f'its recipe here is {_title(recipe)}' if recipe else 'write its settings as YAML over the nearest recipe'
        hint = '' if recipe else near(path.name)
        raise UserError(f'{f"{where}: base: " if where else ""}{path}: a Python file is not executed; {answer}{hint}')
