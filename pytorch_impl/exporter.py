"""Export of a network to ONNX."""

import logging
import warnings
from pathlib import Path
from typing import Any, Callable, Mapping, Optional

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from twinseg.common.deploy.export import Format, finish_onnx, write_verified
from twinseg.common.errors import BackendError, UserError


class Logits(nn.Module):
    """A network that returns its logits alone."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        return self.network(image)['logits']


def export(
    network: nn.Module,
    path: Path,
    format: Format,
    *,
    input_size: tuple[int, int],
    batch: int = 1,
    dynamic: bool = False,
    opset: int = 17,
    metadata: Optional[Mapping[str, str]] = None,
    reference: Optional[Callable[[np.ndarray], np.ndarray]] = None,
) -> dict[str, Any]:
    """Writes a network in evaluation mode to ``path`` and compares the file with ``reference`` (default: the network).

    Input ``image`` float32 (``batch``, 3, *``input_size``), already normalised; output ``logits`` at the head's size; with
    ``dynamic`` of any number and size. See ``common.export.write_verified`` for what is returned and raised.
    """
    if format != 'onnx':
        raise BackendError(f'PyTorch does not write {format}: export with the MindSpore backend (--backend mindspore)')
    device = next(network.parameters()).device
    shape = (batch, 3, *input_size)

    @torch.no_grad()
    def run(images: np.ndarray) -> np.ndarray:
        return network(torch.from_numpy(images).to(device))['logits'].cpu().numpy()

    network.eval()
    module, image = Logits(network).eval(), torch.zeros(shape, device=device)
    return write_verified(
        path, lambda part: _write(module, part, image, dynamic, opset, metadata or {}), reference or run, shape, dynamic
    )


def _write(network: nn.Module, path: Path, image: Tensor, dynamic: bool, opset: int, metadata: Mapping[str, str]) -> None:
    if dynamic and len(image) == 1:  # a size of 1 would be taken for a constant
        image = image.repeat(2, 1, 1, 1)
    sides = {'image': dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)} if dynamic else None
    logging.getLogger('torch.onnx').setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try:
            program = torch.onnx.export(
                network,
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
            raise UserError(f'{path.name}: PyTorch cannot export this network: {str(error).splitlines()[0]}') from error
    onnx.save(finish_onnx(program.model_proto, opset, metadata), str(path))
