"""Export of a network to ONNX."""

import logging
import warnings
from pathlib import Path
from typing import Mapping, NoReturn, Optional

import onnx
import torch
from torch import Tensor, nn

from twinseg.common.backend import Format
from twinseg.common.deploy.sessions import failure
from twinseg.common.errors import BackendError, require


class Logits(nn.Module):
    """A network that returns its logits alone."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        return self.network(image)['logits']


def write(
    network: nn.Module,
    path: Path,
    format: Format,
    *,
    shape: tuple[int, int, int, int],
    dynamic: bool = False,
    metadata: Optional[Mapping[str, str]] = None,
) -> None:
    """Writes a network in evaluation mode as ONNX, operator set 18 (see ``common.backend.Backend``)."""
    if format != 'onnx':
        raise BackendError(f'PyTorch does not write {format}: export with the MindSpore backend (--backend mindspore)')
    require('onnxscript', 'deploy')
    network.eval()
    image = torch.zeros(shape, device=next(network.parameters()).device)
    if dynamic and len(image) == 1:  # the exporter would take a size of 1 for a constant
        image = image.repeat(2, 1, 1, 1)
    sides = {'image': dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)} if dynamic else None
    logging.getLogger('torch.onnx').setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try:
            program = torch.onnx.export(
                Logits(network).eval(),
                (image,),
                dynamo=True,
                opset_version=18,
                external_data=False,
                verbose=False,
                input_names=['image'],
                output_names=['logits'],
                dynamic_shapes=sides,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise failure(Path(path.name), 'PyTorch cannot export this network', error) from error
    assert program is not None  # it is None with dynamo=False alone
    onnx.save(program.model_proto, str(path))


def open_mindir(path: Path) -> NoReturn:
    """BackendError: only MindSpore runs MINDIR."""
    raise BackendError(f'{path}: PyTorch does not run MINDIR: use the MindSpore backend')
