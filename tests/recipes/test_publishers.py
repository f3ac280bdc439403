"""Recipes setting by setting against their publishers' own files (``publishers.py``)."""

import re

import pytest

from tests.recipes.publishers import ELSEWHERE, FAMILIES, SAME
from twinseg.common.config import KEYS, load
from twinseg.common.settings import published_scores, recipes

PATHS = {path.stem: path for path in recipes.recipes()}
CASES = [
    (family, name)
    for family, table in FAMILIES.items()
    for name in PATHS
    if any(re.fullmatch(pattern, name) for pattern in table.recipes)
]


@pytest.mark.parametrize('family, name', CASES)
def test_settings_are_the_publishers_or_differ_with_a_reason(family, name):
    config = load(PATHS[name])
    for setting in FAMILIES[family].settings:
        found = getattr(getattr(config, KEYS[setting.key]), setting.key)
        said = f'{setting.key}: {FAMILIES[family].repository} {setting.at}'
        if setting.ours is SAME:
            expected = setting.theirs
        else:
            assert setting.reason and setting.ours != setting.theirs, said
            expected = setting.ours
        close = any(isinstance(value, float) for value in (expected if isinstance(expected, list) else [expected]))
        assert found == (pytest.approx(expected, rel=1e-5, abs=1e-12) if close else expected), said


def test_every_family_has_recipes_and_every_row_its_place():
    assert {family for family, _ in CASES} == set(FAMILIES)
    for table in FAMILIES.values():
        assert re.fullmatch(r'[\w.-]+/[\w.-]+@[0-9a-f]{7}', table.repository)
        keys = [setting.key for setting in table.settings]
        assert len(set(keys)) == len(keys) and all(setting.at for setting in table.settings)


def test_every_recipe_is_held_to_its_publisher_or_says_why_not():
    held = {name for _, name in CASES}
    for name, path in PATHS.items():
        published = published_scores.of_file(path)
        own = published.reason and published.reason.startswith('settings of TwinSeg')
        by_mmseg = any(score.source.startswith('mmsegmentation ') for score in published.scores)  # test_mmsegmentation.py
        elsewhere = any(re.fullmatch(pattern, name) for pattern in ELSEWHERE)
        assert own or by_mmseg or elsewhere or name in held, name
