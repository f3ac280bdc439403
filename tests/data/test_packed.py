"""Samples that are a few arrays are the samples that they were made of."""

import pickle
from pathlib import Path

import pytest

from twinseg.common.data.base import Sample, packed
from twinseg.common.data.packed import Joined, Texts

TEXTS = {
    'none': [],
    'one': ['a/b.png'],
    'equal': ['a.tar', 'a.tar', 'a.tar'],
    'of one folder': ['/data/x/1.png', '/data/x/22.png', '/data/x/'],
    'nothing in common': ['a', '', 'b\nc'],
    'absent': [None, 'a', None],
    'absent alone': [None, None],
    'letters of several bytes': ['\u00e4/1', '\u00e4/\U0001f6e3', '\u00e4'],
    'bytes that are no UTF-8': ['\udcff/1', '\udcff/\udcfe'],
}
SAMPLES = [Sample(f'town/{number}', Path(f'/d/images/{number}.jpg'), Path(f'/d/labels/{number}.png')) for number in range(5)]


@pytest.mark.parametrize('case', TEXTS)
def test_texts_are_what_was_given(case):
    texts = Texts(TEXTS[case])
    assert (
        list(texts) == [texts[index] for index in range(len(texts))] == TEXTS[case] == list(pickle.loads(pickle.dumps(texts)))
    )


def test_what_begins_all_of_them_may_be_given_once():
    assert list(Texts(['b/1', None, 'b/2'], 'a/')) == ['a/b/1', None, 'a/b/2']


@pytest.mark.parametrize('samples', [SAMPLES, [Sample('drawn', None, None)], [Sample('unlabelled', Path('a.png'), None)], []])
def test_samples_are_those_that_were_packed(samples):
    found = packed(samples)
    assert list(found) == samples and [found[index] for index in range(-len(samples), 0)] == samples
    assert found[1:4] == samples[1:4] and len(found) == len(samples) and list(pickle.loads(pickle.dumps(found))) == samples


def test_parts_follow_each_other():
    joined = Joined([SAMPLES[:2], [], packed(SAMPLES[2:])])
    assert list(joined) == [joined[index] for index in range(5)] == joined[:] == SAMPLES and joined[-1] == SAMPLES[-1]


@pytest.mark.parametrize('index', [5, -6])
def test_there_are_no_samples_beyond_the_end(index):
    for samples in (packed(SAMPLES), Joined([SAMPLES])):
        with pytest.raises(IndexError):
            samples[index]


def test_a_sample_takes_no_more_than_its_names():
    samples = [Sample(f'town/{number:06d}', Path(f'/data/images/{number:06d}.jpg'), None) for number in range(1000)]
    assert len(pickle.dumps(packed(samples))) < 50 * len(samples)
