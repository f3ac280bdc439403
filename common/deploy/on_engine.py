"""A checkpoint's network on a host engine, which runs it faster on a CPU than its framework does."""

import tempfile
from pathlib import Path

from twinseg.common.deploy.export import ExportOptions, export_checkpoint
from twinseg.common.deploy.exported_file import ExportedNetwork
from twinseg.common.errors import UserError
from twinseg.common.inference.runs import Run

COMPARED_SIZE = (128, 192)  # size of the images on which the file is compared with the network, besides others near it


def on_engine(run: Run, engine: str) -> Run:
    """The same network, run by ``onnxruntime`` or ``openvino`` from an ONNX file for images of any size, which is compared with
    the network (see ``export``) and then gone. It computes in float32. UserError where it cannot be exported so, and for a
    network on another device than the CPU.
    """
    if run.device != 'cpu':
        raise UserError(
            f'--engine {engine}: runs on the CPU, but the device is {run.device}; add --device cpu, or leave it out'
        )
    config = run.config.replace(amp_level='O0')
    options = ExportOptions(COMPARED_SIZE, dynamic=True)
    with tempfile.TemporaryDirectory(prefix='twinseg-') as folder:
        path = Path(folder) / 'network.onnx'
        export_checkpoint(run.path, path, 'onnx', options, backend_name=run.backend.name, config=config)
        predictor = ExportedNetwork(path, engine, config.runtime.threads or 0)
    return run._replace(config=config, predictor=predictor, engine=engine)
