"""Images and labels of two folders: what is plain to see, and what is searched for."""

import pytest

from twinseg.common.data.layouts import labelled
from twinseg.common.data.pairs import find_pairs

# names of images, names of labels, whether pairs are plain to see
FOLDERS = [
    (['a.jpg', 'b.jpg', 'sub/a.jpg'], ['a.png', 'b.png', 'sub/a.png'], True),
    (['a.jpg', 'a.b.jpg'], ['a.png', 'a.b.png'], True),
    (['a.JPG', 'b.jpg'], ['a.png', 'b.png'], False),  # ends of two spellings
    (['a.jpg', 'b.jpg'], ['a.png', 'b.PNG'], False),
    (['a.jpg', 'b.jpg', 'c.jpg'], ['a.png', 'c.png'], False),  # one without a label
    (['a.jpg', 'c.jpg'], ['a.png', 'b.png', 'c.png'], False),  # a label without an image
    (['a.jpg', 'b.jpg'], ['a.png', 'c.png'], False),
    (['\u00e9.jpg'], ['\u00e9.png'], False),  # may be spelled in two ways
    (['a.jpg', 'b.jpg'], ['a.jpg.png', 'b.jpg.png'], False),
]


@pytest.mark.parametrize('images, labels, plain', FOLDERS)
def test_pairs_that_are_plain_to_see_are_those_that_a_search_finds(tmp_path, images, labels, plain):
    for folder, names in (('images', images), ('labels', labels)):
        for name in names:
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / name).touch()
    ours, theirs = (find_pairs(tmp_path / 'images', tmp_path / 'labels') for _ in range(2))
    assert (ours.common_end is not None) == plain
    quick, searched = labelled(ours, ours.images), labelled(theirs, list(theirs.images))
    assert (list(quick.samples), quick.missing, quick.facts) == (list(searched.samples), searched.missing, searched.facts)
