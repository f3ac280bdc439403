"""What the labels show: nothing, one class, classes that never come, foreground as 255; what browse and train say of it."""

import numpy as np
import pytest
from PIL import Image

from tests.support import photos
from twinseg.common import config
from twinseg.common.cli import main
from twinseg.common.data import label_faults
from twinseg.common.data.base import Dataset, Description, Sample
from twinseg.common.data.label_faults import class_pixels, faults, look
from twinseg.common.data.open import open_dataset
from twinseg.common.errors import DataError
from twinseg.common.training import loop

SIZE = (64, 96)


def labels_of(ids) -> list[np.ndarray]:
    """A label for each of the tuples: its ids in stripes of equal width."""
    return [np.repeat(np.array(stripes, np.uint8), SIZE[1] // len(stripes))[None].repeat(SIZE[0], 0) for stripes in ids]


def make(folder, train, val=None):
    for split, labels in (('train', train), ('val', train if val is None else val)):
        for index, label in enumerate(labels_of(labels)):
            for kind, pixels in (('images', np.full((*SIZE, 3), 90 + index, np.uint8)), ('labels', label)):
                path = folder / kind / split / f'{index}.png'
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    return folder


def settings(folder, classes=('ground', 'box'), **changes) -> dict:
    keys = {
        'arch': 'fast_scnn',
        'set': 'custom',
        'data_url': str(folder),
        'image_dir': 'images/{split}',
        'label_dir': 'labels/{split}',
        'image_suffix': '.png',
        'classes': list(classes),
        'batch_size': 2,
        'crop_size': list(SIZE),
        'max_iters': 1,
        'num_parallel_workers': 0,
        'threads': 1,
    }
    return {**keys, **changes}


def said(folder, training=True, split='train', **changes) -> list[tuple[str, bool]]:
    dataset = open_dataset(config.from_flat(settings(folder, **changes)).data, split)
    return [tuple(fault) for fault in faults(dataset, look(dataset), training)]


def test_whole_labels_have_no_faults(tmp_path):
    make(tmp_path, [(0, 1), (1, 0, 255)])
    assert said(tmp_path) == said(tmp_path, training=False) == []


NOTHING = (
    'custom train: no label has a labelled pixel (labels looked at: 2 of 2): all are 255, which is ignored, so there is '
    'nothing to '
)
MAPPED = '; label_map says which ids of the label files are which classes (now {255: 255, 0: 255, 1: 255})'
CASES = {  # name -> ids of the labels, keys, lines of the training split with whether they are fatal
    'nothing labelled': (
        [(255,), (255,)],
        {},
        [(NOTHING + 'learn from' + MAPPED.replace('{255: 255, 0: 255, 1: 255}', '{255: 255, 0: 0, 1: 1}'), True)],
    ),
    'nothing mapped': ([(0, 1), (1,)], {'label_map': {0: 255, 1: 255}}, [(NOTHING + 'learn from' + MAPPED, True)]),
    'one class in the labels': (
        [(0,), (0, 0)],
        {},
        [('custom train: the labels show the class ground alone, none shows box (labels looked at: 2 of 2)', True)],
    ),
    'foreground as 255': (
        [(0, 255), (0, 0, 0, 255)],
        {},
        [
            (
                'custom train: the labels show the class ground alone, none shows box (labels looked at: 2 of 2); 37.5 % '
                'of the pixels are 255, which '
                'is ignored: if 255 is box, say label_map: {0: 0, 255: 1}',
                True,
            )
        ],
    ),
    'foreground as 255 beside two classes': (
        [(0, 1, 255), (0, 1)],
        {'classes': ['ground', 'box', 'tile']},
        [
            (
                'custom train: no label shows the class tile (labels looked at: 2 of 2); 16.7 % of the '
                'pixels are 255, which is ignored: if '
                '255 is tile, say label_map: {0: 0, 1: 1, 255: 2}',
                False,
            )
        ],
    ),
    'absent classes': (
        [(0, 1), (1, 0)],
        {'classes': ['ground', 'box', 'tile', 'sky']},
        [('custom train: no label shows the classes tile, sky (labels looked at: 2 of 2)', False)],
    ),
    'a label of nothing': (
        [(0, 1), (255,)],
        {},
        [('custom train: labels without a labelled pixel, all 255, which is ignored: 1 (labels looked at: 2 of 2): 1', False)],
    ),
    'one class alone': (
        [(0, 1), (1,)],
        {'classes': ['crack'], 'label_map': {0: 255, 1: 0}},
        [
            (
                'custom train: one class alone, crack: the loss over one class is 0 and its IoU 100, whatever the network '
                'computes; give the rest of the image a class, too: classes: [background, crack], label_map: {0: 0, 1: 1}',
                True,
            )
        ],
    ),
    'one class alone, the rest 255': (
        [(0, 255), (0,)],
        {'classes': ['crack']},
        [
            (
                'custom train: one class alone, crack: the loss over one class is 0 and its IoU 100, whatever the network '
                'computes; give the rest of the image a class, too: classes: [background, crack], label_map: {255: 0, 0: 1}',
                True,
            )
        ],
    ),
}


@pytest.mark.parametrize('case', CASES)
def test_browse_and_train_say_what_is_wrong(case, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    ids, keys, lines = CASES[case]
    make(tmp_path / 'data', ids)
    assert said(tmp_path / 'data', **keys) == lines
    (tmp_path / 'x.yaml').write_text(config.dump(config.from_flat(settings(tmp_path / 'data', **keys))))
    assert main(['browse', 'x.yaml', '--out', 'b']) == 1
    printed = capsys.readouterr().out
    assert all(f'problem: {line}\n' in printed for line, _ in lines) and 'no problems' not in printed
    pytest.importorskip('torch')
    if not lines[0][1]:  # warned of: see below
        return
    assert main(['train', 'x.yaml', '--backend', 'pytorch', '--work-dir', 'run']) == 2
    assert f'twinseg: error: {lines[0][0]}\n' in capsys.readouterr().err
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('backend_name', ['pytorch', 'mindspore'])
def test_training_warns_and_goes_on_over_a_batch_without_labels(tmp_path, backend_name):
    pytest.importorskip({'pytorch': 'torch'}.get(backend_name, backend_name))
    make(tmp_path / 'data', [(255,), (0, 1), (255,)], [(0, 1)])
    mode = {'graph_mode': 1} if backend_name == 'mindspore' else {}
    keys = settings(tmp_path / 'data', ('ground', 'box', 'tile'), log_interval=1, **mode)
    loop.train(config.from_flat(keys), backend_name, 'cpu', tmp_path / 'run')
    text = (tmp_path / 'run/log.txt').read_text()
    assert (
        'warning: custom train: no label shows the class tile (labels looked at: 3 of 3); 66.7 % of the pixels are 255' in text
    )
    assert (
        'warning: custom train: labels without a labelled pixel, all 255, which is ignored: 2 (labels looked at: 3 of 3): 0, 2'
        in text
    )
    assert 'nan' not in text


def test_the_validation_split_must_have_something_to_score(tmp_path, capsys):
    pytest.importorskip('torch')
    make(tmp_path / 'data', [(0, 1), (1, 0)], [(255,)])
    with pytest.raises(
        DataError, match='custom val: no label has a labelled pixel .labels looked at: 1 of 1.* nothing to score'
    ):
        loop.train(config.from_flat(settings(tmp_path / 'data')), 'pytorch', 'cpu', tmp_path / 'run')
    loop.train(config.from_flat(settings(make(tmp_path / 'good', [(0, 1), (1, 0)]))), 'pytorch', 'cpu', tmp_path / 'run')
    words = ['eval', '--checkpoint', str(tmp_path / 'run'), '--set', f'data_url={tmp_path / "data"}']
    assert main(words) == 2 and 'custom val: no label has a labelled pixel: all are 255' in capsys.readouterr().err
    one = make(tmp_path / 'one', [(0, 1), (1, 0)], [(0,)])
    assert said(one, False, 'val') == [
        ('custom val: the labels show the class ground alone, none shows box (labels looked at: 1 of 1)', False)
    ]


class Many(Dataset):
    """Labels without files, of which those ``read`` are known."""

    def __init__(self, labels, total):
        description = Description(('a', 'b'), np.zeros((2, 3), np.uint8))
        super().__init__('many', 'train', description, [Sample(f's{index}', None, None) for index in range(total)])
        self.labels, self.seen = labels, set()

    def read(self, index):
        self.seen.add(index)
        if index % 7 == 3:
            raise DataError('broken')
        return np.zeros((1, 1, 3), np.uint8), self.labels


def test_of_many_labels_a_sample_is_looked_at_and_what_it_shows_is_not_certain(monkeypatch):
    monkeypatch.setattr(label_faults, 'MOST', 60)
    many = Many(np.zeros((2, 2), np.uint8), 100_000)
    found = look(many)
    assert len(many.seen) == 60 and {0, 99_999} <= many.seen and found.total == 100_000 and found.looked_at > 40
    (fault,) = faults(many, found, training=True)
    assert not fault.fatal
    expected = f'the labels show the class a alone, none shows b (labels looked at: {found.looked_at} of 100000)'
    assert fault.line == f'many train: {expected}'
    monkeypatch.setattr(label_faults, 'PIXELS', 1000)
    large = Many(np.zeros((10, 10), np.uint8), 100_000)
    look(large)
    assert len(large.seen) == label_faults.FEWEST


def test_a_label_that_cannot_be_read_leaves_nothing_certain():
    broken = Many(np.full((2, 2), 255, np.uint8), 5)
    (fault,) = faults(broken, look(broken), training=True)
    assert not fault.fatal and '(labels looked at: 4 of 5)' in fault.line


@pytest.mark.parametrize('size', [(3, 5), (4096, 4097)])
def test_pixels_are_counted_exactly(size):
    label = np.random.default_rng(0).integers(0, 3, size, np.uint8)
    label[0] = 255
    assert class_pixels(label).tolist() == np.bincount(label.ravel(), minlength=256).tolist()
    assert class_pixels(label[:, ::2]).tolist() == np.bincount(label[:, ::2].ravel(), minlength=256).tolist()


def test_large_labels_of_one_class_are_counted_exactly():
    assert class_pixels(np.zeros((4096, 4097), np.uint8))[0] == 4096 * 4097


def test_drawn_scenes_have_no_faults():
    toy = open_dataset(config.from_flat({'train_samples': 2, 'image_size': [32, 64]}).data, 'train')
    assert faults(toy, look(toy), training=True) == []


def folder_of(tmp_path, **changes):
    data = open_dataset(config.from_flat(photos.settings(tmp_path / 'data', **changes)).data, 'train')
    return [tuple(fault) for fault in faults(data, look(data), training=True)]


def test_folders_of_a_classifier(tmp_path, monkeypatch):
    photos.make(tmp_path / 'data', train=3, val=1)
    assert folder_of(tmp_path) == []
    monkeypatch.setattr(label_faults, 'UNEQUAL', 2)
    for index in (1, 2):
        (tmp_path / f'data/train/red/{index:03d}.png').unlink()
    assert folder_of(tmp_path) == [
        (
            'image_folder train: very unequal classes: 3 images of blue, 1 of red; mAcc says more of the rare ones than top1',
            False,
        )
    ]
    (tmp_path / 'classes.txt').write_text('blue\ngreen\nred\nwhite\n')
    named = folder_of(tmp_path, class_file=str(tmp_path / 'classes.txt'))
    assert named[0] == ('image_folder train: classes without images: white', False)


def test_a_classifier_of_one_folder_is_refused(tmp_path, monkeypatch, capsys):
    pytest.importorskip('torch')
    photos.make(tmp_path / 'data', train=4, val=1)
    for split in ('train', 'val'):
        for name in ('red', 'green'):
            for path in (tmp_path / 'data' / split / name).iterdir():
                path.unlink()
            (tmp_path / 'data' / split / name).rmdir()
    line = 'image_folder train: one class alone, blue: there is nothing to tell apart; add the folders of the other classes'
    assert folder_of(tmp_path) == [(line, True)]
    with pytest.raises(DataError, match=line):
        loop.train(config.from_flat(photos.settings(tmp_path / 'data')), 'pytorch', 'cpu', tmp_path / 'run')
