"""``twinseg list --models`` shows what is counted on the networks, which is what their papers print."""

import pytest

from twinseg.common.backend import available, get_backend
from twinseg.common.report import catalogue, counting

# Parameters in millions and 10^9 multiply-accumulates at the listed size, as printed; None: the paper does not say.
PRINTED = {
    'stdc1': (8.44, 0.813),
    'stdc2': (12.47, 1.446),
    'ddrnet23_slim_seg': (5.7, 36.3 / 4),
    'ddrnet23_seg': (20.1, 143.1 / 4),
    'ddrnet39_seg': (32.3, 281.2 / 4),  # at 1024x2048
    'resnet18': (11.69, 1.81),
    'resnet34': (21.80, 3.66),
    'resnet50': (25.56, 4.09),
    'resnet101': (44.55, 7.80),
    'resnet152': (60.19, 11.51),
    'vgg16_bn': (138.37, 15.47),  # torchvision's documentation
    'segnet': (29.45, None),
}
TOLERANCE = 0.02  # of what is printed with two or three digits


@pytest.fixture(scope='module')
def rows():
    return {row['arch']: row for row in catalogue.models()}


def test_what_is_shown_is_counted():
    """After a change of a network, a data set, a recipe or the published weights: python scripts/count_networks.py."""
    pytest.importorskip('torch')
    backend = get_backend('pytorch')
    networks = {arch: counting.count(backend, arch) for arch in backend.MODELS}
    assert catalogue.stored() == {'networks': networks, **counting.tables()}


@pytest.mark.parametrize('arch', PRINTED)
def test_sizes_are_those_in_print(rows, arch):
    parameters, macs = PRINTED[arch]
    assert float(rows[arch]['for inference (M)']) == pytest.approx(parameters, rel=TOLERANCE)
    if macs is not None:
        assert float(rows[arch]['G MACs']) == pytest.approx(macs, rel=TOLERANCE)


def test_rows_are_complete(rows):
    for arch, row in rows.items():
        assert row['backends'] == ', '.join(available()) and row['loads weights of'], arch
        assert float(row['for inference (M)']) <= float(row['parameters (M)'])
        assert (row['output stride'] is None) == (row['at'] == '224x224')
        assert row['output stride'] in (None, 1, 2, 4, 8, 16, 32)
