"""Published scores: every recipe says who reports what, counted how, or why there is none; what shows them is made of that."""

import importlib.util
from pathlib import Path

import pytest

from twinseg.common.config import load
from twinseg.common.errors import UserError
from twinseg.common.report import catalogue
from twinseg.common.settings import published_scores, recipes
from twinseg.common.settings.published_scores import Published

ROOT = Path(__file__).parents[2]
RECIPES = recipes.recipes()
SCORE = {'metric': 'mIoU', 'score': 71.82, 'split': 'val', 'source': 'mmsegmentation 1.2.2 configs/stdc/metafile.yaml'}
DEEPHM = 'DeepHM reports no score'


@pytest.mark.parametrize('path', RECIPES, ids=lambda path: path.stem)
class TestEveryRecipe:
    def test_has_scores_with_their_source_or_the_reason_why_not(self, path):
        published = published_scores.of_file(path)
        assert published is not None, 'no key published'
        assert bool(published.scores) != bool(published.reason)

    def test_comment_is_made_of_the_key(self, path):
        spec = importlib.util.spec_from_file_location('recipe_comments', ROOT / 'scripts' / 'recipe_comments.py')
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        text = path.read_text()
        assert module.with_comment(text, published_scores.of_file(path)) == text, 'run python scripts/recipe_comments.py'
        comment = [line for line in text.splitlines() if line.startswith('# score:')]
        assert len(comment) == 1 and 'published' not in comment[0]

    def test_scores_are_of_the_task(self, path):
        metrics = {'mIoU'} if load(path).task == 'segmentation' else {'top1', 'top5'}
        assert {score.metric for score in published_scores.of_file(path).scores} <= metrics


def test_a_base_keeps_its_scores_for_itself(tmp_path):
    (tmp_path / 'mine.yaml').write_text('base: stdc1_4xb12-80k_cityscapes-512x1024\nseed: 1\n')
    config = load(tmp_path / 'mine.yaml')
    assert 'published' not in config.flat() and published_scores.of_file(tmp_path / 'mine.yaml') is None


def test_the_list_shows_them():
    rows = {row['config']: row['published'] for row in catalogue.configs()}
    assert rows['stdc/stdc1_4xb12-80k_cityscapes-512x1024'] == (
        'mIoU 71.82 (val); mIoU 73.89 (val; 6 scales of 0.5 to 1.75 and flip)'
    )
    assert rows['enet/enet_davidtvs_camvid-360x480'] == 'mIoU 65.19 (val); mIoU 52.1 (test)'
    assert rows['stdc/stdc1_toy_street'] == ''
    assert published_scores.of_recipe('gcn/gcn_r50_deephm-dp_voc12aug-380x380') == Published(reason=DEEPHM)
    assert published_scores.of_recipe('no/such') == published_scores.of_recipe(None) == Published()


@pytest.mark.parametrize(
    'value, said',
    [
        ('mIoU 71.82', 'expected a list of scores, or {none: reason}'),
        ([], 'expected a list of scores'),
        ({'none': ''}, 'expected a list of scores'),
        ([{key: value for key, value in SCORE.items() if key != 'source'}], 'score 1: source: is missing'),
        ([{**SCORE, 'source': 'as remembered'}], 'score 1: source: expected owner/repository@commit and a file'),
        (
            [SCORE, {**SCORE, 'source': 'open-mmlab/mmsegmentation configs'}],
            'score 2: source: expected owner/repository',
        ),
        ([{**SCORE, 'score': 718.2}], 'score 1: score: expected a number above 0'),
        ([{**SCORE, 'split': 'train'}], 'score 1: split: expected one of val, test'),
        ([{**SCORE, 'split_': 'val'}], 'score 1: split_: unknown'),
    ],
)
def test_what_is_refused(value, said, tmp_path):
    with pytest.raises(UserError) as raised:
        published_scores.parse(value, 'recipe.yaml: published')
    assert str(raised.value).startswith('recipe.yaml: published: ') and said in str(raised.value)


def test_a_configuration_with_a_wrong_score_is_refused(tmp_path):
    (tmp_path / 'mine.yaml').write_text('arch: fast_scnn\npublished: mIoU 70\n')
    with pytest.raises(UserError, match=r'mine\.yaml: published: expected a list'):
        load(tmp_path / 'mine.yaml')


@pytest.mark.parametrize(
    'more, text',
    [
        ({}, 'mIoU 71.82 (val)'),
        ({'split': 'test', 'flip': True}, 'mIoU 71.82 (test; flip)'),
        ({'scales': [0.75], 'eval_size': 'file'}, "mIoU 71.82 (val; scale 0.75; the file's size)"),
        ({'scales': [0.5, 1.0], 'eval_size': [512, 1024]}, 'mIoU 71.82 (val; 2 scales of 0.5 to 1; images of 512x1024)'),
        ({'protocol': 'not said', 'settings': 'batch 1'}, 'mIoU 71.82 (val; not said; trained otherwise: batch 1)'),
    ],
)
def test_words(more, text):
    (score,) = published_scores.parse([{**SCORE, **more}], '').scores
    assert score.text == text
