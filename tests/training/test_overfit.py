"""Every segmentation network learns four real crops by heart, and its twin follows the loss curve (slow: minutes each)."""

import numpy as np
import pytest

from tests.support.zoo import NETWORKS, OVERFIT
from twinseg.common import config
from twinseg.common.backend import available, get_backend
from twinseg.common.data.classes import CAMVID_CLASSES
from twinseg.common.data.open import open_dataset

ACCURACY = 0.95  # of the pixels that are not ignored, in evaluation mode
SIDE, SIDES = 128, {'segnet': 64, 'unet': 64}  # of the crops; those two compute 40 times what Fast-SCNN does
IMAGES = (0, 90, 180, 270)  # of the training split
RATE, RATES = 1e-3, {'segnet': 2e-4, 'ddrnet39_seg': 2e-4}  # learning rates; at the first one those two drift in 40 steps
CHECK, MOST = 20, 400  # steps between looks at the accuracy, and at most
FOLLOWED, WINDOW = 40, 10  # steps that the twin takes, compared as means over windows
TOLERANCE = 0.05  # relative difference of such a mean
SETTINGS = {  # what keeps a network from learning by heart in a few hundred steps
    'fast_scnn': {'bn_momentum': 0.1},
    'enet': {'dropout': 0.0, 'decoder_dropout': 0.0},
    'deeplabv3': {'output_stride': 8},
}  # at 1/16 its 8 x 8 logits cannot draw four scenes


def crops(data_folder, side) -> tuple[np.ndarray, np.ndarray]:
    """uint8 images (4, 3, side, side) and labels (4, side, side): the middle of four street scenes."""
    dataset = open_dataset(config.from_flat({'set': 'camvid', 'data_url': str(data_folder / 'camvid')}).data, 'train')
    images, labels = zip(*(dataset.read(index) for index in IMAGES))
    top, left = (images[0].shape[0] - side) // 2, (images[0].shape[1] - side) // 2
    window = np.s_[top : top + side, left : left + side]
    return np.stack([image[window].transpose(2, 0, 1) for image in images]), np.stack([label[window] for label in labels])


def accuracy(trainer, images, labels) -> float:
    right = trainer.predictor().class_ids(images) == labels
    return float(right[labels != 255].mean())


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize('name', OVERFIT)
def test_four_crops(name, data_folder):
    if len(available()) < 2:
        pytest.skip('needs both PyTorch and MindSpore')
    case, losses, found = NETWORKS[name], {}, 0.0
    batch = crops(data_folder, SIDES.get(name, SIDE))
    for backend in map(get_backend, available()):
        backend.setup('cpu', seed=0, threads=1)
        arguments = {**case.arguments, **SETTINGS.get(name, {}), 'num_classes': len(CAMVID_CLASSES)}
        network = backend.build_model(case.arch, **arguments)
        auxiliary = {output: 0.4 for output in network.align_corners if output not in ('logits', 'detail')}
        settings = config.from_flat({'optimizer': 'adamw', 'auxiliary_weights': auxiliary})
        trainer, curve = backend.make_trainer(network, settings), []
        while len(curve) < (MOST if not losses else FOLLOWED) and found <= ACCURACY or len(curve) < FOLLOWED:
            curve.append(trainer.step([batch], RATES.get(name, RATE))['loss'])
            if not losses and len(curve) % CHECK == 0:
                found = accuracy(trainer, *batch)
        losses[backend.name] = np.array(curve)
    first, second = (curve[:FOLLOWED].reshape(-1, WINDOW).mean(1) for curve in losses.values())
    print(
        f'{name}: pixel accuracy {found:.4f} after {len(losses["pytorch"])} steps, loss {losses["pytorch"][0]:.3f} to '
        f'{losses["pytorch"][-1]:.3f}; means of {WINDOW} steps apart by {np.abs(second / first - 1).round(4)}'
    )
    assert found > ACCURACY
    np.testing.assert_allclose(second, first, rtol=TOLERANCE)
