"""A pretended accelerator: tensors that say they lie on a device of their own and compute on the CPU.

It knows what a GPU would refuse or wait for: operators that mix host and device raise, as does ``numpy()``; reads by the host,
copies that block, operators and their bytes are counted, each wait with its line.
"""

import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Iterator

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = 'pretended'
HALF_MAX = 65504.0  # largest float16
ROOT = f'{Path(__file__).parents[2]}/'
_setup_privateuseone_for_python_backend(NAME)
getattr(torch, NAME).is_available = lambda: bool(_running)  # else DataParallel of other tests would take it
aten = torch.ops.aten
SHAPED_BY_VALUES = {  # operators whose result's shape a device has to report to the host
    *(aten.nonzero.default, aten.masked_select.default, aten._unique2.default, aten.unique_dim.default, aten.bincount.default),
    *(aten.equal.default, aten.is_nonzero.default),
}
_running: list['PretendedDevice'] = []  # the blocks that are entered, the innermost last
DTYPES_AND_PLACES = {aten._to_copy.default, aten.copy_.default}


class DeviceTensor(Tensor):
    """A tensor of the pretended device; ``on_cpu`` has its values."""

    on_cpu: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> 'DeviceTensor':
        made = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]  # not in the stubs
            cls, inner.shape, inner.stride(), inner.storage_offset(), dtype=inner.dtype, device=f'{NAME}:0'
        )
        made.on_cpu = inner
        return made

    def __init__(self, inner: Tensor):
        pass

    def __repr__(self, **_: Any) -> str:
        return f'DeviceTensor({tuple(self.shape)}, {self.dtype})'

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        copied: Tensor = self.detach().clone()
        if isinstance(self, torch.nn.Parameter):
            copied = torch.nn.Parameter(copied, self.requires_grad)
        return memo.setdefault(id(self), copied)

    @property
    def data(self) -> Any:  # type: ignore[override]  # what ``Module.to`` assigns to
        return Tensor.data.__get__(self)  # type: ignore[attr-defined]

    @data.setter
    def data(self, value: 'DeviceTensor') -> None:
        Tensor.data.__set__(self, value)  # type: ignore[attr-defined]
        self.on_cpu = value.on_cpu

    def tolist(self) -> Any:
        """A read by the host."""
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f'{func}: on the pretended device outside of its block')


class PretendedDevice(TorchDispatchMode):
    """In its block ``device`` exists.

    ``channels_last`` false: the device refuses that layout, as torch_npu does. ``saturates``: float16 is clipped instead of
    becoming infinite, as on the Ascend 910A.
    """

    device = torch.device(f'{NAME}:0')

    def __init__(self, channels_last: bool = True, saturates: bool = False):
        super().__init__()
        self.channels_last, self.saturates = channels_last, saturates
        self.reset()

    def __enter__(self) -> Any:
        _running.append(self)
        self.threads = torch.autograd.is_multithreading_enabled()
        torch.autograd.set_multithreading_enabled(False)  # type: ignore[attr-defined]  # a thread of the engine aborts at exit
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        torch.autograd.set_multithreading_enabled(self.threads)  # type: ignore[attr-defined]
        _running.pop()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # to skip it takes more time than all else here

    def reset(self) -> None:
        """Starts counting again."""
        self.reads: Counter[str] = Counter()  # line -> reads by the host
        self.blocking: Counter[str] = Counter()  # line -> copies from the host that block
        self.operators = self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        flat = _flat((args, kwargs))
        on_device = [value for value in flat if isinstance(value, DeviceTensor)]
        target = kwargs.get('device')
        target_is_device = target is not None and torch.device(target).type == NAME
        if not on_device and not target_is_device:
            return func(*args, **kwargs)
        if func in DTYPES_AND_PLACES:
            self._count_copy(func, args, kwargs, bool(on_device), target_is_device)
        elif func is aten._local_scalar_dense.default or func in SHAPED_BY_VALUES or _picks_by_mask(func, args):
            self.reads[_line()] += 1
        elif on_device and (host := [x for x in flat if _is_on_host(x) and x.ndim]):
            raise RuntimeError(
                f'{func}: Expected all tensors to be on the same device, but one of {host[0].shape} is on the host'
            )
        layout = kwargs.get('memory_format')
        if not self.channels_last and layout not in (None, torch.contiguous_format, torch.preserve_format):
            raise RuntimeError('Only contiguous_format or preserve_format is supported')
        inner_args, inner_kwargs = _map(_inner, (args, kwargs))
        if target_is_device:
            inner_kwargs['device'] = 'cpu'
        result = EMULATED.get(func, func)(*inner_args, **inner_kwargs)
        if target is not None and not target_is_device:  # a copy to the host
            return result.clone() if result is inner_args[0] else result
        if self.saturates:
            _map(_clip, result)
        self._count(func, flat, result)
        given = {id(value.on_cpu): value for value in on_device}  # what is written in place is the tensor that was given
        return _map(lambda x: given[id(x)] if id(x) in given else _outer(x), result)

    def _count_copy(self, func: Any, args: Any, kwargs: Any, from_device: bool, to_device: bool) -> None:
        if func is aten.copy_.default:
            into, source = args[0], args[1]
            from_host, to_host = _is_on_host(source), _is_on_host(into)
            non_blocking = bool(args[2]) if len(args) > 2 else bool(kwargs.get('non_blocking'))
        else:
            from_host, to_host = _is_on_host(args[0]), kwargs.get('device') is not None and not to_device
            non_blocking = bool(kwargs.get('non_blocking'))
        if to_host:
            self.reads[_line()] += 1
        elif from_host and not non_blocking:
            self.blocking[_line()] += 1

    def _count(self, func: Any, arguments: Any, result: Any) -> None:
        if func.is_view or func in (aten.detach.default, aten.alias.default, aten.lift_fresh.default):
            return
        self.operators += 1
        tensors = [_inner(value) for value in arguments]
        tensors += [value for value in _flat(result) if not any(value is tensor for tensor in tensors)]
        self.bytes += sum(value.numel() * value.element_size() for value in tensors if isinstance(value, Tensor))


def _stats(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    variance, mean = torch.var_mean(x.float(), (0, 2, 3), correction=0)
    return mean, (variance + eps).rsqrt()


def _gather_stats(x, means, scales, running_mean, running_var, momentum, eps, counts) -> tuple[Tensor, Tensor]:
    total, weights = counts.sum(), counts[:, None]
    mean = (means * weights).sum(0) / total
    variance = ((scales**-2 - eps + (means - mean) ** 2) * weights).sum(0) / total
    running_mean.lerp_(mean, momentum)
    running_var.lerp_(variance * total / (total - 1), momentum)
    return mean, (variance + eps).rsqrt()


def _elemt(x, weight, bias, mean, scale, eps) -> Tensor:
    weight, bias, mean, scale = (value.view(1, -1, 1, 1) for value in (weight, bias, mean, scale))
    return ((x.float() - mean) * scale * weight + bias).to(x.dtype)


def _backward_reduce(gradient, x, mean, scale, weight, *_: bool) -> tuple[Tensor, ...]:
    gradient, centred = gradient.float(), x.float() - mean.view(1, -1, 1, 1)
    sums, products = gradient.sum((0, 2, 3)), (gradient * centred).sum((0, 2, 3))
    return sums, products, products * scale, sums


def _backward_elemt(gradient, x, mean, scale, weight, sums, products, counts) -> Tensor:
    shift, slope = sums / counts.sum(), products / counts.sum() * scale * scale
    mean, scale, weight, shift, slope = (value.view(1, -1, 1, 1) for value in (mean, scale, weight, shift, slope))
    return ((gradient.float() - shift - (x.float() - mean) * slope) * scale * weight).to(x.dtype)


EMULATED = {  # kernels of CUDA that PyTorch does not have for CPUs
    aten.batch_norm_stats.default: _stats,
    aten.batch_norm_gather_stats_with_counts.default: _gather_stats,
    aten.batch_norm_elemt.default: _elemt,
    aten.batch_norm_backward_reduce.default: _backward_reduce,
    aten.batch_norm_backward_elemt.default: _backward_elemt,
}


def _flat(value: Any) -> list[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    return [leaf for part in value for leaf in _flat(part)] if isinstance(value, (list, tuple)) else [value]


def _map(function: Callable[[Any], Any], value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _map(function, part) for key, part in value.items()}
    return type(value)(_map(function, part) for part in value) if type(value) in (list, tuple) else function(value)


def _inner(value: Any) -> Any:
    return value.on_cpu if isinstance(value, DeviceTensor) else value


def _outer(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    with torch.inference_mode(value.is_inference()):
        return DeviceTensor(value)


def _empty(size: Any, *, dtype: Any = None, layout: Any = None, device: Any = None, **_: Any) -> Tensor:
    return DeviceTensor(torch.empty(size, dtype=dtype))


def _empty_strided(size: Any, stride: Any, *, dtype: Any = None, **_: Any) -> Tensor:
    return DeviceTensor(torch.empty_strided(size, stride, dtype=dtype))


def _copy_from(source: Any, into: Any, non_blocking: bool = False) -> Tensor:
    if _is_on_host(source) and not non_blocking:
        _running[-1].blocking[_line()] += 1
    _inner(into).copy_(_inner(source))
    return into


# ``torch.tensor`` makes tensors below the dispatch mode
_library = torch.library.Library('aten', 'IMPL')
for _name, _kernel in (('empty.memory_format', _empty), ('empty_strided', _empty_strided), ('_copy_from', _copy_from)):
    _library.impl(_name, _kernel, 'PrivateUse1')


def _is_on_host(value: Any) -> bool:
    return isinstance(value, Tensor) and not isinstance(value, DeviceTensor)


def _picks_by_mask(func: Any, args: Any) -> bool:
    """Whether an indexing picks by booleans: how many there are decides the shape."""
    return func is aten.index.Tensor and any(x is not None and x.dtype in (torch.bool, torch.uint8) for x in args[1])


def _clip(value: Any) -> None:
    if isinstance(value, Tensor) and value.dtype == torch.float16:
        value.nan_to_num_(0.0, HALF_MAX, -HALF_MAX)


def _line() -> str:
    """The line of the suite's code that is running."""
    frame: Any = sys._getframe(1)
    while frame:
        path = frame.f_code.co_filename
        if path.startswith(ROOT) and path != __file__:
            return f'{path[len(ROOT) :]}:{frame.f_lineno}'
        frame = frame.f_back
    return 'the framework'


@contextmanager
def pretended_device(monkeypatch: Any, **kinds: bool) -> Iterator[PretendedDevice]:
    """The PyTorch backend on a pretended device that has CUDA's kernels (see ``PretendedDevice``)."""
    from twinseg.pytorch_impl import backend, distributed, optim, precision

    monkeypatch.setattr(optim, 'FUSED_DEVICES', (NAME,))
    monkeypatch.setattr(distributed, 'KERNEL_DEVICES', (NAME,))
    with PretendedDevice(**kinds) as device:
        if device.channels_last:
            monkeypatch.setattr(precision, 'CHANNELS_LAST_DEVICES', (NAME,))
        monkeypatch.setattr(backend, '_device', device.device)
        yield device


def pretend_processes(monkeypatch: Any, size: int) -> None:
    """Makes this process one of ``size``, all of which have the same batch."""
    from twinseg.pytorch_impl import distributed

    monkeypatch.setattr(distributed, 'size', lambda: size)
    monkeypatch.setattr(distributed, 'gather', lambda x: torch.cat([x.detach()] * size))
    monkeypatch.setattr(distributed, 'mean', lambda x: x.detach().clone())
    monkeypatch.setattr(distributed, 'parallel', lambda module, unused: module)
