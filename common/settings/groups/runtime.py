"""Keys of how a run computes: precision, and backend, device, files and processes."""

from typing import Annotated, Literal, Optional, Union

from pydantic import AfterValidator, Field

from twinseg.common.settings.kinds import MAX_WORKERS, Count, Group, PathText, Positive, Seconds
from twinseg.common.settings.messages import refuse, shown

MAX_SEED = (1 << 32) - 1  # numpy's and MindSpore's largest
DEVICES = {'cpu': 'CPU', 'gpu': 'GPU', 'ascend': 'Ascend'}  # names on the command line -> in the model zoo's files


def _device(name: str) -> str:
    if name.lower() not in DEVICES:
        refuse(f'expected one of {", ".join(DEVICES.values())}, found {shown(name)}')
    return name


Threads = Annotated[int, Field(gt=0, le=MAX_WORKERS)]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
Device = Annotated[str, AfterValidator(_device)]


class Precision(Group):
    amp_level: Literal['O0', 'O1', 'O2', 'O3'] = Field(
        'O0',
        description='precision. O0: float32; O1: convolutions and linear layers in half precision, and what follows them takes '
        'what they give; O2: the network in half precision, batch norm computed in float32; O3: batch norm in half precision, '
        'too. Weights stay float32',
    )
    dtype: Literal['float16', 'bfloat16'] = Field('float16', description='type of half precision that O1, O2 and O3 compute in')
    tf32: bool = Field(
        False,
        description="whether an accelerator may multiply float32 numbers with 10 bits (NVIDIA's TF32, Ascend's HF32): faster, "
        'but logits differ from those of a CPU by up to a tenth of the largest instead of 1e-5',
    )
    keep_bn_fp32: bool = Field(True, description='O2: whether batch norm computes in float32')
    loss_scale: Optional[Annotated[float, Field(gt=0)]] = Field(
        None,
        description='factor of the loss that keeps small gradients in the range of float16, of dynamic scaling the first one; '
        'by default 1, of dynamic scaling 65536 (torch.amp.GradScaler)',
    )
    is_dynamic_loss_scale: bool = Field(
        False,
        description='whether the scale is halved after a step that overflows and doubled after scale_window steps that do not; '
        'not on an Ascend that saturates (910A), where no overflow is seen',
    )
    scale_window: Positive = Field(
        1000, description='is_dynamic_loss_scale: steps without overflow after which the scale is doubled'
    )


class Runtime(Group):
    backend: Optional[Literal['pytorch', 'mindspore']] = Field(
        None, description='framework; by default the first that is installed, PyTorch before MindSpore'
    )
    device_target: Optional[Device] = Field(None, description='device: CPU, GPU or Ascend; by default the best one present')
    recipe: Optional[str] = Field(
        None, description='name of the recipe that the configuration was read from; TwinSeg fills it in'
    )
    seed: Seed = Field(0, description='start of all random numbers: initial weights, order, augmentation, dropout')
    work_dir: Optional[PathText] = Field(
        None, description='folder that a run writes its checkpoints and logs to; by default runs/<configuration>-<backend>'
    )
    threads: Optional[Threads] = Field(
        None,
        description="CPU threads of the framework per process (MindSpore starts one more); by default the framework's choice",
    )
    log_interval: Positive = Field(10, description='steps between lines of metrics.jsonl')
    val_interval: Count = Field(0, description='steps between evaluations; 0: one evaluation an epoch')
    checkpoint_interval: Count = Field(0, description='steps between checkpoints; 0: save_every says how many epochs')
    save_every: Positive = Field(1, description='epochs between checkpoints')
    max_keep_ckpts: Positive = Field(3, description='number of newest checkpoints that are kept, besides the best one')
    patience: Count = Field(
        0, description='evaluations without a better score after which the training ends; 0: it goes on to its last step'
    )
    max_hours: Optional[Annotated[float, Field(gt=0)]] = Field(
        None,
        description='hours after which a process that trains saves its step and ends with status 75, to be resumed, as at '
        'SIGTERM',
    )
    tracker: Literal['none', 'wandb', 'mlflow', 'swanlab'] = Field(
        'none', description='experiment tracker that gets figures and configuration, beside TensorBoard (twinseg[track])'
    )
    tensorboard_images: Count = Field(
        3, description='validation images that TensorBoard shows at every evaluation: image, truth, prediction, errors'
    )
    nan_policy: Literal['stop', 'rollback'] = Field(
        'stop',
        description='reaction to a loss or weights that are no longer finite: end the run, or return to the last checkpoint'
        ' and leave out the batches that followed it',
    )
    max_rollbacks: Count = Field(3, description='nan_policy rollback: number of returns after which the run ends')
    collective_timeout: Optional[Seconds] = Field(
        None,
        description="seconds that a process waits for the others; by default 1800 in PyTorch, the framework's choice in "
        'MindSpore',
    )
    sync_bn: Union[bool, Literal['heads']] = Field(
        True,
        description='several processes: whether batch norm uses the statistics of the global batch (SyncBN) or of the batch'
        ' of each process; running statistics are averaged either way. heads: of the global batch outside the backbone alone '
        '(STDC-Seg)',
    )
    launcher: Optional[Literal['dp']] = Field(
        None,
        description="dp: PyTorch's DataParallel, one process for all GPUs of a host, batch norm over the images of each "
        'GPU; by default torchrun or msrun start one process per device',
    )
    graph_mode: Literal[0, 1] = Field(
        0,
        description='MindSpore, numbered as its context modes. 0: training steps are compiled, and evaluation for every '
        'image size; 1: operator by operator, slower, for debugging and images of many sizes',
    )
    torch_compile: bool = Field(
        False,
        description='PyTorch: whether torch.compile compiles the network for training, which takes a minute or more and, on'
        ' a CPU, a C++ compiler; evaluation is not compiled',
    )
    cuda_graphs: bool = Field(
        False,
        description='torch_compile on a GPU: whether the compiled network is recorded and played back as CUDA graphs, which '
        'spares the host the launches of its kernels (reduce-overhead); for steps of one batch',
    )
