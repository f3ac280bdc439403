"""What image and label files may be: every kind of pixel is read as what it says, or refused with the reason."""

import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from twinseg.common import config
from twinseg.common.data import reading
from twinseg.common.data.labels import LabelRules, read_label
from twinseg.common.data.open import open_dataset
from twinseg.common.data.reading import Extent, ImageRules, read_extent, read_image
from twinseg.common.errors import DataError, UserError

HEIGHT, WIDTH = 5, 11  # a width that fills no byte at 1, 2 and 4 bits a sample


def random(high: int, *shape: int, kind=np.uint8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, high, shape or (HEIGHT, WIDTH)).astype(kind)


PHOTO = random(256, HEIGHT, WIDTH, 3)


# Writers that share nothing with Pillow: PNG and TIFF by their specifications


def packed(samples: np.ndarray, bits: int, order: str = '>') -> list[bytes]:
    """Rows of samples (H, W) or (H, W, channels) in so many bits each."""
    rows = samples.reshape(len(samples), -1)
    if bits >= 8:
        kind = rows.dtype.kind if rows.dtype.kind in 'fi' else 'u'
        return [row.astype(f'{order}{kind}{bits // 8}').tobytes() for row in rows]
    spread = (rows[..., None] >> np.arange(bits)[::-1]) & 1
    return [np.packbits(row.ravel()).tobytes() for row in spread.astype(np.uint8)]


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body))


def png(samples: np.ndarray, bits: int, colour: int, palette: list | None = None, turn: int = 1, **more: bytes) -> bytes:
    """``colour``: 0 grey, 2 RGB, 3 palette, 4 grey with alpha, 6 RGB with alpha."""
    height, width = samples.shape[:2]
    exif = b'MM\0*\0\0\0\x08\0\x01' + struct.pack('>HHIHH', 274, 3, 1, turn, 0) + bytes(4)
    parts = {b'PLTE': bytes(np.ravel(palette).tolist()) if palette else b'', b'eXIf': exif if turn > 1 else b''}
    parts |= {key.encode(): value for key, value in more.items()}
    pixels = zlib.compress(b''.join(b'\0' + row for row in packed(samples, bits)))
    head = chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, bits, colour, 0, 0, 0))
    middle = b''.join(chunk(kind, body) for kind, body in parts.items() if body)
    return b'\x89PNG\r\n\x1a\n' + head + middle + chunk(b'IDAT', pixels) + chunk(b'IEND', b'')


def tiff(
    *pages: np.ndarray, bits: int = 0, photometric: int | None = None, turn: int = 1, order: str = '<', **tags: int
) -> bytes:
    """Pages in one strip each; ``tags``: t + number = value (t259=8: deflated)."""
    body, start, previous = b'', 8, 4
    content = bytearray(b'II*\0' if order == '<' else b'MM\0*') + bytes(4)
    for samples in pages:
        channels = 1 if samples.ndim == 2 else samples.shape[2]
        width = bits or samples.dtype.itemsize * 8
        body = b''.join(packed(samples, width, order))
        body = zlib.compress(body) if tags.get('t259') == 8 else body
        start = len(content)
        content += body + b'\0' * (len(body) % 2)
        entries = {
            256: samples.shape[1],
            257: samples.shape[0],
            258: [width] * channels,
            259: 1,
            262: photometric if photometric is not None else (2 if channels > 2 else 1),
            273: start,
            274: turn,
            277: channels,
            278: samples.shape[0],
            279: len(body),
            339: [{'u': 1, 'i': 2, 'f': 3}[samples.dtype.kind]] * channels,
            **{int(key[1:]): value for key, value in tags.items()},
        }
        table = []
        for tag, value in sorted(entries.items()):
            values = value if isinstance(value, list) else [value]
            kind, size = (4, 'I') if tag in (273, 279) else (3, 'H')
            data = struct.pack(f'{order}{len(values)}{size}', *values).ljust(4, b'\0')
            if len(data) > 4:
                data, at = struct.pack(f'{order}I', len(content)), data
                content += at + b'\0' * (len(at) % 2)
            table.append(struct.pack(f'{order}HHI', tag, kind, len(values)) + data)
        content[previous : previous + 4] = struct.pack(f'{order}I', len(content))
        content += struct.pack(f'{order}H', len(table)) + b''.join(table) + bytes(4)
        previous = len(content) - 4
    return bytes(content)


def written(folder: Path, content: bytes | Image.Image, name: str = 'a.png', **options) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content.save(path, **options)
    return path


# Orientation

TURNS = {  # EXIF 2.32, 4.6.4: what the stored row 0 and column 0 are in the picture -> the picture, from what is stored
    1: lambda a: a,  # top, left
    2: lambda a: a[:, ::-1],  # top, right
    3: lambda a: a[::-1, ::-1],  # bottom, right
    4: lambda a: a[::-1],  # bottom, left
    5: lambda a: a.swapaxes(0, 1),  # left, top
    6: lambda a: a[::-1].swapaxes(0, 1),  # right, top
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),  # right, bottom
    8: lambda a: a[:, ::-1].swapaxes(0, 1),  # left, bottom
}


def exif(turn: int) -> Image.Exif:
    data = Image.Exif()
    data[274] = turn
    return data


TURNED = {
    'PNG': lambda a, turn: png(a, 8, 0 if a.ndim == 2 else 2, turn=turn),
    '16-bit PNG': lambda a, turn: png(
        a.astype(np.uint16) * (257 if a.ndim == 3 else 1), 16, 0 if a.ndim == 2 else 2, turn=turn
    ),
    'TIFF': lambda a, turn: tiff(a, turn=turn),
    'TIFF of doubles': lambda a, turn: tiff(a / (255 if a.ndim == 3 else 1), turn=turn),
    '16-bit TIFF': lambda a, turn: tiff(a.astype(np.uint16) * (257 if a.ndim == 3 else 1), turn=turn, order='>'),
}


@pytest.mark.parametrize('turn', range(1, 9))
@pytest.mark.parametrize('kind', TURNED)
def test_images_and_labels_are_turned_as_their_exif_data_says(tmp_path, kind, turn):
    image, label = (
        written(tmp_path, TURNED[kind](pixels, turn), name) for pixels, name in ((PHOTO, 'a'), (PHOTO[..., 0], 'b'))
    )
    white = 1.0 if 'doubles' in kind else None
    assert np.array_equal(read_image(image, rules=ImageRules(white_level=white)), TURNS[turn](PHOTO))
    assert np.array_equal(read_label(label), TURNS[turn](PHOTO[..., 0]))
    assert np.array_equal(read_image(image, rules=ImageRules(False, white)), PHOTO)
    rules = LabelRules('x', {i: i for i in range(254)} | {254: 0, 255: 255}, ['a'])
    assert np.array_equal(rules.read(label, upright=False), np.where(PHOTO[..., 0] == 254, 0, PHOTO[..., 0]))
    assert read_extent(image) == Extent(TURNS[turn](PHOTO).shape[:2], turn)


@pytest.mark.parametrize('turn', range(1, 9))
@pytest.mark.parametrize('kind, options', [('jpeg', {}), ('webp', {'lossless': True}), ('tiff', {'compression': 'tiff_lzw'})])
def test_so_are_compressed_ones(tmp_path, kind, options, turn):
    photo = Image.fromarray(random(256, 16, 24, 3))
    plain = written(tmp_path, photo, f'plain.{kind}', format=kind, **options)
    path = written(tmp_path, photo, f'turned.{kind}', format=kind, exif=exif(turn), **options)
    stored = np.asarray(Image.open(plain))
    assert np.array_equal(read_image(path), TURNS[turn](stored))
    assert read_extent(path) == Extent(TURNS[turn](stored).shape[:2], turn)
    assert np.array_equal(read_image(path, rules=ImageRules(upright=False)), stored)


def test_orientation_by_xmp_and_odd_values(tmp_path):
    xmp = b'XML:com.adobe.xmp\0\0\0\0\0<x xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
    assert read_image(written(tmp_path, png(PHOTO, 8, 2, iTXt=xmp))).shape == (WIDTH, HEIGHT, 3)
    for turn in (0, 9, 77):
        assert np.array_equal(read_image(written(tmp_path, Image.fromarray(PHOTO), 'a.png', exif=exif(turn))), PHOTO)


def custom(root: Path, image: bytes, label: bytes, suffix: str = '.png', **keys) -> config.Data:
    """A data set of one pair."""
    written(root, image, 'images/train/a' + suffix)
    written(root, label, 'masks/train/a' + suffix)
    folders = {'image_dir': 'images/{split}', 'label_dir': 'masks/{split}', 'image_suffix': suffix, 'label_suffix': suffix}
    return config.from_flat(
        {'set': 'custom', 'data_url': str(root), **folders, 'classes': ['ground', 'box', 'tile'], **keys}
    ).data


def label_of(data: config.Data) -> np.ndarray:
    return open_dataset(data, 'train').read(0)[1]


IDS = random(3)


def test_a_pair_is_upright_unless_the_data_set_is_read_as_stored(tmp_path):
    keys = custom(tmp_path, png(PHOTO, 8, 2, turn=6), png(TURNS[6](IDS), 8, 0))
    image, label = open_dataset(keys, 'train').read(0)
    assert np.array_equal(image, TURNS[6](PHOTO)) and np.array_equal(label, TURNS[6](IDS))
    stored = custom(tmp_path, png(PHOTO, 8, 2, turn=6), png(IDS, 8, 0, turn=8), exif_rotate=False)
    image, label = open_dataset(stored, 'train').read(0)
    assert np.array_equal(image, PHOTO) and np.array_equal(label, IDS)


@pytest.mark.parametrize(
    'turn, keys, words',
    [
        (
            6,
            {},
            ["EXIF orientations were applied (the image's is 6, the label's is 1)", 'set exif_rotate: false', '5x11', '11x5'],
        ),
        (1, {}, ['no EXIF orientation says so', 'turn the one that is not upright']),
        (6, {'exif_rotate': False}, ['EXIF orientations are not applied', 'leave exif_rotate out']),
    ],
)
def test_sizes_that_differ_by_a_turn_are_explained(tmp_path, turn, keys, words):
    label = IDS if turn == 6 and not keys else TURNS[6](IDS)
    with pytest.raises(DataError) as error:
        label_of(custom(tmp_path, png(PHOTO, 8, 2, turn=turn), png(label, 8, 0), **keys))
    assert all(word in str(error.value) for word in ['a.png', 'both must be of one size', *words]), str(error.value)


@pytest.mark.parametrize('name, upright', [('image_folder', True), ('imagenet', False)])
def test_image_folders_are_upright_but_imagenet_is_as_timm_reads_it(tmp_path, name, upright):
    written(tmp_path, png(PHOTO, 8, 2, turn=6), 'train/cat/a.png')
    data = {'set': name, 'data_url': str(tmp_path)}
    for keys, turned in (({}, upright), ({'exif_rotate': True}, True), ({'exif_rotate': False}, False)):
        dataset = open_dataset(config.from_flat({**data, **keys}).data, 'train')
        assert np.array_equal(dataset.read_image(0), TURNS[6](PHOTO) if turned else PHOTO)


# Images of more than 8 bits

DEEP = random(1 << 16, HEIGHT, WIDTH, 3, kind=np.uint16)
DEEP[0, 0] = 65535, 0, 300
DEEP_RGBA = np.concatenate([DEEP, random(1 << 16, HEIGHT, WIDTH, 1, kind=np.uint16, seed=1)], -1)
GREY = DEEP[..., 0]


def pgm(samples: np.ndarray, largest: int) -> bytes:
    return b'P5\n%d %d\n%d\n' % (*samples.shape[::-1], largest) + samples.astype('>u2' if largest > 255 else 'u1').tobytes()


def of_white(samples: np.ndarray, white: float) -> np.ndarray:
    """The formula: 8-bit RGB of samples."""
    levels = np.floor(samples.astype(np.float64) * 255 / white + 0.5).astype(np.uint8)
    return levels if levels.ndim == 3 else np.stack([levels] * 3, -1)


DEEP_FILES = {
    'grey PNG': (png(GREY, 16, 0), GREY, 65535),
    'RGB PNG': (png(DEEP, 16, 2), DEEP, 65535),
    'RGBA PNG': (png(DEEP_RGBA, 16, 6), DEEP, 65535),
    'grey PNG with alpha': (png(DEEP_RGBA[..., 2:], 16, 4), DEEP[..., 2], 65535),
    'grey TIFF': (tiff(GREY), GREY, 65535),
    'big-endian grey TIFF': (tiff(GREY, order='>'), GREY, 65535),
    'RGB TIFF': (tiff(DEEP), DEEP, 65535),
    'big-endian RGB TIFF': (tiff(DEEP, order='>'), DEEP, 65535),
    'RGBA TIFF': (tiff(DEEP_RGBA, t338=2), DEEP, 65535),
    'TIFF whose 0 is white': (tiff(GREY, photometric=0), 65535 - GREY.astype(int), 65535),
    'PGM': (pgm(GREY, 65535), GREY, 65535),
    'PGM of 10 bits': (pgm(GREY >> 6, 1023), GREY >> 6, 1023),
}


@pytest.mark.parametrize('name', DEEP_FILES)
def test_16_bits_are_divided_by_their_range(tmp_path, name):
    content, samples, white = DEEP_FILES[name]
    assert np.array_equal(read_image(written(tmp_path, content)), of_white(samples, white))


def test_8_bits_in_16_come_back(tmp_path):
    assert np.array_equal(read_image(written(tmp_path, png(PHOTO.astype(np.uint16) * 257, 16, 2))), PHOTO)


@pytest.mark.parametrize('samples, make', [(DEEP, lambda a: png(a, 16, 2)), (DEEP, tiff), (GREY, lambda a: png(a, 16, 0))])
def test_12_bits_in_16_are_refused_until_the_white_level_is_given(tmp_path, samples, make):
    samples = samples >> 4
    path = written(tmp_path, make(samples))
    with pytest.raises(DataError, match=r'data of 12 bits\? Set white_level .*4095 for 12 bits, 65535'):
        read_image(path)
    assert np.array_equal(read_image(path, rules=ImageRules(white_level=4095)), of_white(samples, 4095))
    with pytest.raises(DataError, match=r'samples from \d+ to 4095; expected 0 to 1023 \(white_level\)'):
        read_image(path, rules=ImageRules(white_level=1023))


def test_a_black_picture_of_16_bits_is_black(tmp_path):
    assert not read_image(written(tmp_path, png(np.zeros_like(GREY), 16, 0))).any()


UNKNOWN_RANGE = {
    'float TIFF': (tiff((GREY / 65535).astype(np.float32)), 1.0, 'floating-point numbers whose white is not known'),
    'float RGB TIFF': (tiff(np.dstack([GREY / 65535] * 3).astype(np.float32)), 1.0, 'floating-point numbers'),
    'float TIFF of 64 bits': (tiff(GREY / 65535, order='>'), 1.0, 'floating-point numbers'),
    '32-bit TIFF': (tiff(GREY.astype(np.uint32)), 65535, 'integers whose white is not known'),
    'signed TIFF': (tiff((GREY >> 1).astype(np.int16)), 32767, 'integers whose white is not known'),
}


@pytest.mark.parametrize('name', UNKNOWN_RANGE)
def test_an_unknown_range_is_refused_until_the_white_level_is_given(tmp_path, name):
    content, white, message = UNKNOWN_RANGE[name]
    path = written(tmp_path, content)
    with pytest.raises(DataError, match=message):
        read_image(path)
    difference = read_image(path, rules=ImageRules(white_level=white)).astype(int) - of_white(GREY, 65535)
    assert abs(difference).max() <= 1


@pytest.mark.parametrize('value', [np.nan, -1, 2])
def test_samples_outside_the_range_are_refused(tmp_path, value):
    samples = np.full((HEIGHT, WIDTH), 0.5, np.float32)
    samples[0, 0] = value
    with pytest.raises(DataError, match=r'expected 0 to 1 \(white_level\)'):
        read_image(written(tmp_path, tiff(samples)), rules=ImageRules(white_level=1))


@pytest.mark.parametrize('name', ['custom', 'image_folder'])
def test_both_tasks_scale_and_refuse_alike(tmp_path, name):
    for number, samples in enumerate((DEEP, DEEP >> 6)):
        keys = {'white_level': 1023} if number else {}
        if name == 'custom':
            data = custom(tmp_path / f'{number}', png(samples, 16, 2), png(IDS, 8, 0), **keys)
        else:
            written(tmp_path / f'{number}', png(samples, 16, 2), 'train/cat/a.png')
            data = config.from_flat({'set': name, 'data_url': str(tmp_path / f'{number}'), **keys}).data
        assert np.array_equal(open_dataset(data, 'train').read(0)[0], of_white(samples, 1023 if number else 65535))
    with pytest.raises(DataError, match='white_level'):
        open_dataset(data.model_copy(update={'white_level': None}), 'train').read(0)


def test_several_pages(tmp_path):
    gif = written(tmp_path, Image.fromarray(PHOTO), 'a.gif', save_all=True, append_images=[Image.fromarray(255 - PHOTO)])
    assert np.array_equal(read_image(gif), np.asarray(Image.open(gif).convert('RGB')))  # the first frame
    with pytest.raises(DataError, match='an animation of 2 frames; expected one label'):
        read_label(gif)
    with_overview = written(tmp_path, tiff(IDS, IDS[:2, :3]), 'b.tif')
    assert np.array_equal(read_label(with_overview), IDS) and read_image(with_overview).shape == (HEIGHT, WIDTH, 3)
    stack = written(tmp_path, tiff(IDS, IDS), 'c.tif')
    for read in (read_image, read_label):
        with pytest.raises(DataError, match='several pages of one size'):
            read(stack)


# Labels: ids

LABELS = {
    **{f'grey PNG of {b} bits': (png(random(1 << b), b, 0), random(1 << b)) for b in (1, 2, 4, 8)},
    'grey PNG of 16 bits': (png(IDS.astype(np.uint16), 16, 0), IDS),
    **{
        f'palette PNG of {b} bits': (png(random(1 << b), b, 3, [[9, 9, 9]] * (1 << b), tRNS=b'\0'), random(1 << b))
        for b in (1, 2, 4, 8)
    },
    'grey PNG with alpha': (png(np.stack([IDS, np.full_like(IDS, 255)], -1), 8, 4), IDS),
    'grey as RGB PNG': (png(np.stack([IDS] * 3, -1), 8, 2), IDS),
    'grey as RGBA PNG': (png(np.stack([IDS] * 3 + [np.full_like(IDS, 7)], -1), 8, 6), IDS),
    'grey as 16-bit RGB PNG': (png(np.stack([IDS] * 3, -1).astype(np.uint16), 16, 2), IDS),
    'grey as 16-bit PNG with alpha': (png(np.stack([IDS, IDS + 1], -1).astype(np.uint16), 16, 4), IDS),
    **{
        f'{name}TIFF of {np.dtype(kind).name}, {order}': (tiff(IDS.astype(kind), order=order, **tags), IDS)
        for name, tags in (('', {}), ('deflated ', {'t259': 8}))
        for kind in (np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.float32, np.float64)
        for order in ('<', '>')
    },
    **{f'TIFF of {b} bits': (tiff(random(1 << b), bits=b), random(1 << b)) for b in (1, 2, 4)},
    **{
        f'TIFF of {b} bits whose 0 is white': (tiff(random(1 << b), bits=b, photometric=0), random(1 << b))
        for b in (1, 2, 4, 8)
    },
    'grey as 32-bit RGB TIFF': (tiff(np.stack([IDS] * 3, -1).astype(np.uint32)), IDS),
    'float colours': (tiff(np.stack([IDS] * 3, -1).astype(np.float32)), IDS),
    'grey as RGB TIFF': (tiff(np.stack([IDS] * 3, -1)), IDS),
    'PGM up to 2': (pgm(IDS, 2), IDS),
    'PGM up to 1000': (pgm(random(256), 1000), random(256)),
    'bitmap of PBM': (b'P4\n%d %d\n' % (WIDTH, HEIGHT) + b''.join(packed(random(2), 1)), random(2)),
}


@pytest.mark.parametrize('name', LABELS)
def test_ids_are_read_as_they_are_stored(tmp_path, name):
    content, ids = LABELS[name]
    label = read_label(written(tmp_path, content))
    assert label.dtype == np.uint8 and np.array_equal(label, ids)


def test_a_label_whose_bits_pillow_cuts_is_refused(tmp_path):
    with pytest.raises(DataError, match='more than 8 bits a channel; save the label as PNG'):
        read_label(written(tmp_path, b'P6\n2 1\n1000\n' + np.arange(6).astype('>u2').tobytes()))


def test_a_bitmap_of_windows(tmp_path):
    path = written(tmp_path, Image.fromarray(random(2).astype(bool)), 'a.bmp')
    assert np.array_equal(read_label(path), random(2))


@pytest.mark.parametrize(
    'label, message',
    [
        (png(np.array([[0, 256, 26001, 256]], np.uint16), 16, 0), r'no class ids: 256 \(2 pixels\), 26001 \(1 pixels\)'),
        (tiff(np.array([[0, -1]], np.int16)), r'no class ids: -1 \(1 pixels\)'),
        (tiff(np.array([[0, -1]], np.int8)), r'no class ids: -1 \(1 pixels\)'),
        (tiff(np.array([[0, 1.5, 1]], np.float32)), r'no class ids: 1.5 \(1 pixels\)'),
        (tiff(np.array([[0, np.nan]], np.float32)), r'no class ids: nan'),
        (tiff(np.array([[0, 4294967295]], np.uint32)), 'no class ids: 4294967295'),
        (tiff(np.array([[0, 4294967295]], np.uint32), order='>'), 'no class ids: 4294967295'),
        (tiff(np.full((1, 4, 3), 70000, np.int32)), 'no class ids: 70000'),
    ],
    ids=['above 255', 'negative', 'negative, 8 bits', 'fraction', 'NaN', 'large', 'large, big-endian', '32-bit RGB'],
)
def test_values_that_are_no_ids_are_listed(tmp_path, label, message):
    with pytest.raises(DataError, match=message):
        label_of(custom(tmp_path, png(PHOTO[:1, :4], 8, 2), label))


def test_a_4_bit_label_of_voc_has_its_classes(tmp_path):
    for folder in ('JPEGImages', 'SegmentationClass', 'ImageSets/Segmentation'):
        (tmp_path / folder).mkdir(parents=True)
    ids = random(2) * 15
    written(tmp_path, Image.fromarray(PHOTO), 'JPEGImages/a.jpg')
    written(tmp_path, png(ids, 4, 0), 'SegmentationClass/a.png')
    (tmp_path / 'ImageSets/Segmentation/train.txt').write_text('a\n')
    data = config.from_flat({'set': 'voc', 'data_url': str(tmp_path)}).data
    assert np.array_equal(label_of(data), ids)  # 15: person
    colours = np.array([[0, 0, 0], [192, 128, 128], [224, 224, 192]], np.uint8)
    written(tmp_path, png(colours[IDS], 8, 2), 'SegmentationClass/a.png')  # as converted by careless tools
    assert np.array_equal(label_of(data), np.array([0, 15, 255])[IDS])


@pytest.mark.parametrize('kind', ['u16', 'i32', 'f32', 'rgb', 'la'])
def test_wide_labels_of_a_custom_set(tmp_path, kind):
    name = {'u16': 'grey PNG of 16 bits', 'i32': 'TIFF of int32, <', 'f32': 'TIFF of float32, <'}.get(kind)
    content = LABELS[name or {'rgb': 'grey as RGB PNG', 'la': 'grey PNG with alpha'}[kind]][0]
    assert np.array_equal(label_of(custom(tmp_path, png(PHOTO, 8, 2), content)), IDS)


# Labels: colours

PALETTE = [[0, 0, 0], [128, 0, 0], [0, 128, 0]]
COLOURS = np.array(PALETTE, np.uint8)[IDS]
OPAQUE = np.full((HEIGHT, WIDTH, 1), 255, np.uint8)


def mask(tmp_path: Path, content: bytes, suffix: str = '.png', **keys) -> np.ndarray:
    image = np.zeros((*IDS.shape, 3), np.uint8)
    return label_of(custom(tmp_path, tiff(image) if suffix == '.tif' else png(image, 8, 2), content, suffix, **keys))


@pytest.mark.parametrize(
    'content',
    [
        png(COLOURS, 8, 2),
        png(np.concatenate([COLOURS, OPAQUE], -1), 8, 6),
        png(np.concatenate([COLOURS, OPAQUE // 3], -1), 8, 6),
        png(COLOURS.astype(np.uint16) * 257, 16, 2),
        tiff(COLOURS),
        png(IDS, 8, 3, PALETTE),
        png(IDS, 8, 0),
        png(np.stack([IDS] * 3, -1), 8, 2),
    ],
    ids=['RGB', 'RGBA', 'half transparent', '16-bit RGB', 'TIFF', 'palette', 'ids', 'ids as RGB'],
)
def test_colours_are_read_by_the_palette(tmp_path, content):
    assert np.array_equal(mask(tmp_path, content, palette=PALETTE), IDS)


def test_colours_without_a_palette_are_offered(tmp_path):
    with pytest.raises(DataError) as error:
        mask(tmp_path, png(COLOURS, 8, 2))
    counts = 100 * np.bincount(IDS.ravel()) / IDS.size
    for word in [
        'an RGB mask of 3 colours, no class ids',
        *(f'{colour} ({share:.1f} %)' for colour, share in zip(PALETTE, counts)),
        'set palette: [colour of ground, colour of box, colour of tile]',
    ]:
        assert word in str(error.value), str(error.value)


def test_unknown_colours_are_listed_with_counts_and_the_nearest(tmp_path):
    pixels = COLOURS.copy()
    pixels[0, :3], pixels[1, 0] = (120, 9, 0), (0, 0, 7)
    with pytest.raises(DataError) as error:
        mask(tmp_path, png(pixels, 8, 2), palette=PALETTE)
    for word in [
        '2 colours that belong to no class: [[120, 9, 0], [0, 0, 7]]',
        "(pixels: 3 like 'box' [128, 0, 0], 1 like 'ground' [0, 0, 0])",
        "label_map ('120,9,0': 255 ignores one)",
        'unknown_colors: ignore or nearest',
    ]:
        assert word in str(error.value), str(error.value)
    expected = IDS.copy()
    expected[0, :3], expected[1, 0] = 1, 0
    assert np.array_equal(mask(tmp_path, png(pixels, 8, 2), palette=PALETTE, unknown_colors='nearest'), expected)
    expected[0, :3], expected[1, 0] = 255, 255
    assert np.array_equal(mask(tmp_path, png(pixels, 8, 2), palette=PALETTE, unknown_colors='ignore'), expected)


def test_colours_of_no_class_and_several_of_one(tmp_path):
    keys = {'palette': PALETTE, 'label_map': {'0, 0, 0': 255, '1,2,3': 1}}
    pixels = COLOURS.copy()
    pixels[0, 0] = 1, 2, 3
    expected = np.array([255, 1, 2], np.uint8)[IDS]
    expected[0, 0] = 1
    assert np.array_equal(mask(tmp_path, png(pixels, 8, 2), **keys), expected)
    only = {'label_map': {'0,0,0': 0, '128,0,0': 1, '0,128,0': 2}}
    assert np.array_equal(mask(tmp_path, png(COLOURS, 8, 2), **only), IDS)


def test_a_label_map_of_colours_survives_a_checkpoint():
    import json

    first = config.from_flat({'set': 'custom', 'label_map': {'0, 0, 0': 255, 7: 0, 'transparent': 255}})
    assert first.data.label_map == {'0,0,0': 255, 7: 0, 'transparent': 255}
    assert config.from_flat(json.loads(json.dumps(first.flat()))) == first
    for key in ('0,0', '256,0,0', 'black', '0,0,0,0'):
        with pytest.raises(UserError, match='label_map'):
            config.from_flat({'set': 'custom', 'label_map': {key: 0}})


@pytest.mark.parametrize(
    'palette, expected, refused',
    [
        ([[0, 0, 0], [255, 255, 255], [9, 9, 9]], {0: 0, 255: 1, 9: 2}, [1, 2]),  # white is a class and, as an id, ignored
        ([[0, 0, 0], [1, 1, 1], [2, 2, 2]], {0: 0, 1: 1, 2: 2, 255: 255}, [3]),  # both ways say the same
        ([[0, 0, 0], [128, 0, 0], [0, 128, 0]], {0: 0, 1: 1, 2: 2, 255: 255}, [3]),  # grey is none of its colours: ids
        ([[2, 2, 2], [1, 1, 1], [0, 0, 0]], {0: 2, 1: 1, 2: 0}, [3, 255]),
    ],
)
def test_grey_in_rgb_is_read_by_ids_only_where_colours_cannot_contradict(tmp_path, palette, expected, refused):
    values = np.resize(np.array(list(expected), np.uint8), IDS.shape)
    label = mask(tmp_path, png(np.stack([values] * 3, -1), 8, 2), palette=palette)
    assert np.array_equal(label, np.vectorize(expected.get)(values))
    for value in refused:
        other = values.copy()
        other[0, 0] = value
        with pytest.raises(DataError, match='label_pixels: ids if these are ids|ids outside the label map'):
            mask(tmp_path, png(np.stack([other] * 3, -1), 8, 2), palette=palette)


def test_label_pixels_decides(tmp_path):
    white = [[0, 0, 0], [255, 255, 255], [9, 9, 9]]
    grey, indexed = png(random(2) * 255, 8, 0), png(random(2), 8, 3, white[1::-1])
    assert np.array_equal(mask(tmp_path, grey, palette=white), random(2) * 255)
    assert np.array_equal(mask(tmp_path, grey, palette=white, label_pixels='colors'), random(2))
    assert np.array_equal(mask(tmp_path, indexed, palette=white, label_pixels='colors'), 1 - random(2))
    ids = png(np.stack([IDS] * 3, -1), 8, 2)
    assert np.array_equal(mask(tmp_path, ids, palette=[[2, 2, 2], [1, 1, 1], [0, 0, 0]], label_pixels='ids'), IDS)
    with pytest.raises(DataError, match='label_pixels: ids expects'):
        mask(tmp_path, png(COLOURS, 8, 2), palette=PALETTE, label_pixels='ids')
    with pytest.raises(DataError, match='label_pixels: colors, but no colours are given'):
        mask(tmp_path, png(COLOURS, 8, 2), label_pixels='colors')
    with pytest.raises(DataError, match=r"palette: \[0, 0, 0\] is the colour of 'ground' and of 'tile'"):
        mask(tmp_path, png(COLOURS, 8, 2), palette=[[0, 0, 0], [1, 0, 0], [0, 0, 0]])


@pytest.mark.parametrize(
    'clear', [png(np.dstack([COLOURS, 255 * (IDS > 0)]), 8, 6), png(np.dstack([IDS, 255 * (IDS > 0)]), 8, 4)]
)
def test_transparent_pixels_need_a_meaning(tmp_path, clear):
    with pytest.raises(DataError, match=r'[0-9.]+ % of the pixels are transparent.*label_map: \{transparent: 255\}'):
        mask(tmp_path, clear, palette=PALETTE)
    expected = np.where(IDS == 0, 255, IDS)
    assert np.array_equal(mask(tmp_path, clear, palette=PALETTE, label_map={'transparent': 255, 0: 0, 1: 1, 2: 2}), expected)
    assert np.array_equal(mask(tmp_path, clear, palette=PALETTE, label_map={'transparent': 2}), np.where(IDS == 0, 2, IDS))


def test_jpeg_labels_get_an_answer(tmp_path):
    coarse = np.repeat(np.repeat(random(3, 4, 6), 16, 0), 16, 1)
    data = custom(tmp_path, b'', b'', '.jpg', palette=PALETTE)
    written(tmp_path, Image.fromarray(np.zeros((64, 96, 3), np.uint8)), 'images/train/a.jpg')
    for label in (Image.fromarray(np.array(PALETTE, np.uint8)[coarse]), Image.fromarray(coarse)):
        written(tmp_path, label, 'masks/train/a.jpg', quality=90)
        with pytest.raises(DataError, match='lossy format .*save labels as PNG; .*set unknown_colors: nearest'):
            label_of(data)
    rules = LabelRules('x', {0: 0, 1: 1, 2: 2}, 'abc')
    for kind, options in (('webp', {}), ('webp', {'icc_profile': b'x' * 99}), ('tiff', {'compression': 'jpeg'})):
        with pytest.raises(DataError, match='lossy format'):
            rules.read(written(tmp_path, label, format=kind, **options))
    for kind, options in (('webp', {'lossless': True}), ('webp', {'lossless': True, 'icc_profile': b'x' * 99}), ('tiff', {})):
        assert np.array_equal(rules.read(written(tmp_path, label, format=kind, **options)), coarse)
    written(tmp_path, Image.fromarray(np.array(PALETTE, np.uint8)[coarse]), 'masks/train/a.jpg', quality=90, subsampling=0)
    nearest = label_of(data.model_copy(update={'unknown_colors': 'nearest'}))
    assert (nearest == coarse).mean() > 0.97


ORDERS = {
    'another order': (PALETTE, [PALETTE[0], PALETTE[2], PALETTE[1]], "index 1 .class 'box' here. in the colour of 'tile'"),
    'the same': (PALETTE, PALETTE, None),
    'other colours': (PALETTE, [[9, 9, 9], [8, 8, 8], [7, 7, 7]], None),
    'unused entries': (PALETTE, [*PALETTE, *PALETTE], None),
    'a grey ramp': (None, [[0] * 3, [2] * 3, [1] * 3], "index 1 .class 'box' here. in the colour of 'tile'"),
    'black and white': (None, [[0] * 3, [255] * 3, [128] * 3], None),
}


@pytest.mark.parametrize('name', ORDERS)
def test_a_palette_in_another_order_is_read_by_index_with_a_warning(tmp_path, caplog, name):
    palette, stored, message = ORDERS[name]
    keys = {} if palette is None else {'palette': palette}
    dataset = open_dataset(custom(tmp_path, png(PHOTO, 8, 2), png(IDS, 8, 3, stored), **keys), 'train')
    for _ in range(2):
        assert np.array_equal(dataset.read(0)[1], IDS)
    assert [record.getMessage().split(':')[0] for record in caplog.records] == (
        [str(dataset.samples[0].label)] if message else []
    )
    if message:
        import re

        assert re.search(message, caplog.text) and 'label_pixels: colors' in caplog.text


def test_indices_outside_the_map_whose_colours_are_known(tmp_path):
    with pytest.raises(DataError, match='label_pixels: colors to read by them'):
        mask(tmp_path, png(IDS + 5, 8, 3, [[7, 7, 7]] * 5 + PALETTE), palette=PALETTE)


# What is no image

STRANGE = {
    'PostScript': (b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n', 'PostScript'),
    'HEIC': (b'\0\0\0\x18ftypheic\0\0\0\0mif1heic', 'HEIC, which is not read; convert it to JPEG'),
    'PDF': (b'%PDF-1.7 ' + bytes(99), 'PDF'),
    'HTML': (b'\n<html>404</html>', 'a failed download'),
    'Git LFS': (b'version https://git-lfs.github.com/spec/v1\noid sha256:0\n', 'git lfs pull'),
    '5 channels': (tiff(np.zeros((4, 4, 5), np.uint8)), 'a kind that is not read'),
    '64-bit integers': (tiff(np.zeros((4, 4), np.int64)), 'a kind that is not read'),
    'garbage': (bytes(range(256)), 'or none of JPEG, PNG, TIFF'),
}


@pytest.mark.parametrize('name', STRANGE)
def test_other_files_are_recognised(tmp_path, monkeypatch, name):
    canary = tmp_path / 'ran'
    program = written(tmp_path, f'#!/bin/sh\ntouch {canary}\n'.encode(), 'bin/gs')
    program.chmod(0o755)
    monkeypatch.setenv('PATH', str(program.parent), prepend=os.pathsep)
    content, message = STRANGE[name]
    for read in (read_image, read_label):
        with pytest.raises(DataError, match='not readable as an image, .*' + message) as error:
            read(written(tmp_path, content))
        assert '\n' not in str(error.value)
    assert not canary.exists()


def test_the_list_of_formats_is_closed(tmp_path):
    Image.init()
    assert 'EPS' in Image.OPEN and set(reading.FORMATS) <= {
        *('JPEG', 'PNG', 'TIFF', 'WEBP', 'BMP', 'DIB', 'GIF', 'PPM', 'JPEG2000', 'AVIF')
    }
    for name in ('ICO', 'PCX', 'SGI', 'TGA', 'EPS', 'ICNS', 'IM', 'MSP', 'SPIDER', 'PDF'):
        path = written(tmp_path, Image.new('1' if name == 'MSP' else 'L', (32, 32)), 'a', format=name)
        with pytest.raises(DataError, match='not readable as an image'):
            read_image(path)


@pytest.mark.parametrize(
    'error', [KeyError('x'), AssertionError(), ZeroDivisionError('/'), MemoryError(), RecursionError(), EOFError()]
)
def test_every_failure_of_a_decoder_names_the_file(tmp_path, monkeypatch, error):
    def load(self):
        raise error

    path = written(tmp_path, png(PHOTO, 8, 2))
    monkeypatch.setattr(reading.PngImageFile, 'load', load)
    with pytest.raises(DataError, match=r'a\.png: not readable as an image, truncated or broken \('):
        read_image(path)


def test_a_pipe_is_no_image(tmp_path):
    os.mkfifo(tmp_path / 'a.png')
    with pytest.raises(DataError, match='no file'):
        read_image(tmp_path / 'a.png')


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('kind', ['png', 'jpeg', 'tiff', 'webp', 'gif', 'bmp', 'ppm', '16-bit png', '16-bit tiff', 'jpeg2000'])
def test_broken_files_are_read_or_named(tmp_path, kind):
    deep = {'16-bit png': png(DEEP, 16, 2, turn=6), '16-bit tiff': tiff(DEEP, turn=6)}
    path = written(
        tmp_path, deep[kind] if kind in deep else Image.fromarray(PHOTO), 'a', **({} if kind in deep else {'format': kind})
    )
    whole, rng = path.read_bytes(), np.random.default_rng(7)
    for _ in range(60):
        content = bytearray(whole)
        for _ in range(rng.integers(1, 4)):
            content[rng.integers(len(content))] = rng.integers(256)
        path.write_bytes(bytes(content[: rng.integers(len(content)) if rng.random() < 0.3 else None]))
        for read in (read_image, read_label):
            try:
                assert read(path).dtype == np.uint8
            except DataError as error:
                assert str(error).startswith(f'{path}: ') and '\n' not in str(error)


# 8 bits: as before


@pytest.mark.parametrize('mode', ['RGB', 'L', 'P', 'RGBA', 'LA', 'CMYK', 'YCbCr', '1', 'PA', 'LAB'])
def test_8_bit_images_are_what_pillow_converts_them_to(tmp_path, mode):
    path = written(tmp_path, Image.fromarray(PHOTO).convert('RGBA' if mode == 'PA' else 'RGB').convert(mode), 'a.tif')
    assert np.array_equal(read_image(path), np.asarray(Image.open(path).convert('RGB')))


def test_adobes_inverted_cmyk(tmp_path):
    path = written(tmp_path, Image.fromarray(cv2.resize(PHOTO, (64, 64))).convert('CMYK'), 'a.jpg', quality=100, subsampling=0)
    assert b'Adobe' in path.read_bytes()
    assert abs(read_image(path).astype(int) - cv2.resize(PHOTO, (64, 64))).mean() < 8


@pytest.mark.filterwarnings('error')
def test_transparency_is_dropped_without_a_warning(tmp_path):
    path = written(tmp_path, png(IDS, 8, 3, PALETTE, tRNS=b'\0\x80'))
    assert np.array_equal(read_image(path), COLOURS)


@pytest.mark.parametrize('name', ['tiff-jpeg-tables', 'tiff-samples-per-pixel'])
def test_libraries_say_nothing_of_their_own(capfd, name):
    """Libtiff prints, Pillow logs; the error says it."""
    path = Path(__file__).parents[1] / f'fuzz/corpus/picture/{name}/x.img'
    with pytest.raises(DataError, match='not readable as an image'):
        read_image(path)
    assert capfd.readouterr().err == ''
    os.write(2, b'back')
    assert capfd.readouterr().err == 'back'


def test_a_side_longer_than_a_png_can_have_is_refused(tmp_path):
    Image.new('1', (1_000_001, 1)).save(tmp_path / 'long.bmp')
    with pytest.raises(DataError, match='long.bmp: 1000001x1 pixels; a side has at most 1000000'):
        read_image(tmp_path / 'long.bmp')


def test_a_png_that_cannot_hold_its_pixels_is_refused(tmp_path):
    content = png(np.zeros((4, 8), np.uint8), 8, 0)
    header = struct.pack('>II', 8000, 8000) + content[24:29]
    (tmp_path / 'a.png').write_bytes(content[:8] + chunk(b'IHDR', header) + content[33:])
    with pytest.raises(DataError, match='a.png: [0-9]+ bytes cannot hold 8000x8000 pixels; get the file again'):
        read_image(tmp_path / 'a.png')


def test_a_png_of_one_colour_is_read_however_small_its_file_is(tmp_path):
    Image.new('1', (6000, 6000)).save(tmp_path / 'black.png', optimize=True)
    assert not read_image(tmp_path / 'black.png').any()
