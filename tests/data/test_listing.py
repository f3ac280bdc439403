"""Which files of a folder are data: suffixes, hidden files, links, and what is counted as not used."""

import os
from pathlib import Path

import pytest

from twinseg.common.data import listing
from twinseg.common.data.listing import list_files, list_folders
from twinseg.common.errors import DataError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b'')


def counts(found: listing.Listing) -> dict[str, int]:
    return {note.reason: note.count for note in found.notes}


def test_every_suffix_in_any_case(tmp_path):
    names = [f'{kind}{suffix}' for suffix in listing.IMAGE_SUFFIXES for kind in 'ab']
    names += [f'c{suffix.upper()}' for suffix in listing.IMAGE_SUFFIXES]
    touch(tmp_path, *names, 'notes.txt', 'a.json', 'b.JSON', 'README')
    found = list_files(tmp_path)
    assert found.names == sorted(names)
    assert counts(found) == {'.json': 2, '.txt': 1, 'file(s) without a suffix': 1}
    assert str(found.notes[0]) == '2 .json (a.json, b.JSON)'


def test_the_order_is_that_of_sorted_paths(tmp_path):
    touch(tmp_path, 'a/b.png', 'a.png', 'a-b/c.png', 'a b.png', 'a/b/c.png', 'B.png', 'é/1.png', 'e/2.png', '10.png', '9.png')
    assert list_files(tmp_path).names == [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.glob('**/*.png'))]
    flat = list_files(tmp_path, recursive=False)
    assert flat.names == [path.name for path in sorted(tmp_path.glob('*.png'))]
    assert counts(flat) == {listing.FOLDERS: 4}


def test_hidden_files_and_those_of_systems_are_no_data(tmp_path):
    hidden = ['._a.png', '.b.png', '.ipynb_checkpoints/a.png', '__MACOSX/a.png', '@eaDir/a.png', '.DS_Store', 'Thumbs.db']
    touch(tmp_path, 'a.png', 'c/d.png', 'c/._d.png', *hidden)
    found = list_files(tmp_path)
    assert found.names == ['a.png', 'c/d.png'] and counts(found) == {'hidden': len(hidden) + 1}
    assert list_folders(tmp_path) == ['c']


def test_links_are_followed_and_loops_are_not(tmp_path):
    here, there = tmp_path / 'here', tmp_path / 'there'
    touch(here, 'a.png', 'site/b.png')
    touch(there, 'c.png', 'deep/d.png')
    (here / 'disk').symlink_to(there)
    (here / 'e.png').symlink_to(there / 'c.png')
    (here / 'site/up').symlink_to(here)
    (there / 'deep/self').symlink_to('.')
    (here / 'gone.png').symlink_to('nowhere')
    for name in ('itself.png', 'itself'):
        (here / name).symlink_to(name)
    os.mkfifo(here / 'pipe.png')
    found = list_files(here)
    assert found.names == ['a.png', 'disk/c.png', 'disk/deep/d.png', 'e.png', 'site/b.png']
    assert counts(found) == {listing.LOOP: 2, listing.NOWHERE: 2, listing.NO_FILE: 1, 'file(s) without a suffix': 1}
    assert list_folders(here) == ['disk', 'site']
    assert found.links == {'e.png': str((there / 'c.png').resolve())}


def test_folders_that_are_too_deep_or_too_many(tmp_path, monkeypatch):
    touch(tmp_path, 'deep/' + 'x/' * (listing.MAX_DEPTH + 1) + 'a.png')
    with pytest.raises(DataError, match='more than 32 folders deep'):
        list_files(tmp_path)
    touch(tmp_path, *(f'wide/{number}/a.png' for number in range(5)))
    monkeypatch.setattr(listing, 'MAX_FOLDERS', 5)
    with pytest.raises(DataError, match='more than 5 folders below it'):
        list_files(tmp_path / 'wide')


def test_a_folder_that_is_none_or_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match='none: not readable'):
        list_files(tmp_path / 'none')
    touch(tmp_path, 'file')
    with pytest.raises(DataError, match='file: not readable'):
        list_folders(tmp_path / 'file')


def test_names_in_any_bytes(tmp_path):
    name = os.fsdecode(b'caf\xe9.png')
    touch(tmp_path, name, 'cafe\u0301.png')
    assert sorted(map(os.fsencode, list_files(tmp_path).names)) == [b'cafe\xcc\x81.png', b'caf\xe9.png']
    assert listing.same_name('cafe\u0301') == listing.same_name('caf\xe9') and listing.same_name(name) == name
