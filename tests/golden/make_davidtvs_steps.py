"""Makes ``training/davidtvs_enet.json``: steps of davidtvs/PyTorch-ENet's own training loop.

Usage, with PyTorch: python -m tests.golden.make_davidtvs_steps CHECKOUT, a folder with the publisher's repository at PEER.
The steps are those of its ``Train.run_epoch`` with its network, class weights, loss, optimizer and schedule; dropout is off.
Its last class stands for unlabeled pixels: it has an output, and the weight 0 in the loss.
"""

import json
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from tests.golden import golden

PEER = 'github.com/davidtvs/PyTorch-ENet@e17d404e2f649a3476eabe39f8a05e5eb77c55fd, torch ' + torch.__version__
CASE, CONFIG = 'davidtvs_enet', 'enet/enet_davidtvs_camvid-360x480'
STEPS, MOVES, BATCH = 4, 2, [4, 3, 96, 160]
FAR = (0, 1, 3699, 3700, 7399, 7400, 11099)  # 37 steps an epoch
TINY = 2.0**-24  # relative: half a rounding error


class Recorder:
    """Stands for the publisher's metric: it sees the network after no step, but the loop wants one."""

    def reset(self):
        pass

    def add(self, outputs, labels):
        pass

    def value(self):
        return None


def batch(step: int, num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images float32 in 0..1 and labels, unlabeled pixels in the last class."""
    images = golden.generator(f'images:train:{CASE}:{step}').integers(0, 256, BATCH, dtype=np.uint8)
    labels = golden.label(f'train:{CASE}:{step}', (BATCH[0], *BATCH[2:]), num_classes, block=8)
    labels = np.where(labels == golden.IGNORE, num_classes - 1, labels)
    return torch.from_numpy(images).float().div(255), torch.from_numpy(labels).long()


class Steps(NamedTuple):
    """What the publisher's loop did."""

    losses: list[float]
    moves: list[dict[str, float]]  # L2 norm of each parameter's and buffer's movement since the start, after each step
    class_weight: list[float]
    end: torch.Tensor  # parameters and statistics after the last step with moves, in one row


def steps(checkout, spec: dict, noisy: int = 0) -> Steps:
    """The steps; with ``noisy`` from weights that are one rounding error away."""
    enet, train, weighing = checkout
    network = enet.ENet(**spec['arguments'])
    state = {key: torch.from_numpy(np.array(value)) for key, value in golden.state_dict(spec).items()}
    if noisy:
        signs = torch.Generator().manual_seed(noisy)
        for value in state.values():
            if value.is_floating_point():
                value *= 1 + TINY * 2 * (torch.randint(0, 2, value.shape, generator=signs) * 2 - 1)
    network.load_state_dict(state)
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout2d):
            module.p = 0.0
    batches = [batch(step, spec['num_classes']) for step in range(STEPS)]
    weights = weighing(batches, spec['num_classes'])
    weights[-1] = 0
    criterion = torch.nn.CrossEntropyLoss(weight=torch.from_numpy(weights).float())
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-4, weight_decay=2e-4)
    losses, moves = [], []
    for number, one in enumerate(batches):
        loop = train.Train(network, [one], optimizer, criterion, Recorder(), 'cpu')
        losses.append(loop.run_epoch()[0])
        if number < MOVES:
            end = network.state_dict()
            moves.append({key: float((end[key].double() - value.double()).norm()) for key, value in state.items()})
            row = torch.cat([value.double().flatten() for value in end.values()])
    return Steps(losses, moves, weights.tolist(), row)


def apart(values: list[float], others: list[list[float]]) -> float:
    """Largest relative difference."""
    return max((abs(other / value - 1) for row in others for value, other in zip(values, row) if value), default=0.0)


def main(folder: str) -> None:
    sys.path.insert(0, folder)
    import models.enet
    from data.utils import enet_weighing

    import train

    checkout = models.enet, train, enet_weighing
    here = Path(__file__).parent
    spec = golden.read(here / f'{CASE}.json')
    ours = steps(checkout, spec)
    others = [steps(checkout, spec, seed) for seed in (1, 2)]
    schedule = torch.optim.lr_scheduler.StepLR(torch.optim.Adam([torch.zeros(1)], lr=5e-4), 100, 0.1)
    rates = []
    for _ in range(300):
        rates.append(schedule.get_last_lr()[0])
        schedule.optimizer.step()
        schedule.step()
    record = {
        'case': CASE,
        'config': CONFIG,
        'peer': PEER,
        'batch': BATCH,
        'steps_per_epoch': 37,
        'optimizer': {'type': 'Adam', 'lr': 5e-4, 'weight_decay': 2e-4},
        'class_weight': ours.class_weight,
        'learning_rates': [rates[0]] * STEPS,
        'curve': {str(step): rates[step // 37] for step in FAR},
        'losses': [{'loss': loss, 'logits': loss} for loss in ours.losses],
        'noise': [apart([ours.losses[step]], [[other.losses[step]] for other in others]) for step in range(STEPS)],
        'moves': ours.moves,
        'move_noise': [
            apart(list(ours.moves[step].values()), [list(other.moves[step].values()) for other in others])
            for step in range(MOVES)
        ],
        'apart': max(float((other.end - ours.end).norm() / ours.end.norm()) for other in others),
    }
    (here / 'training' / f'{CASE}.json').write_text(json.dumps(record) + '\n')


if __name__ == '__main__':
    main(sys.argv[1])
