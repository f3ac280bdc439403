"""Layers with kernels of their own on a CPU compute what the plain ones compute."""

import numpy as np
import pytest

from tests.golden import golden

SHAPE = (2, 3, 4, 5)


def prelu_by_hand(x, slopes, weights):
    """PReLU of x, and the gradients of the sum of ``weights`` times it, by x and by the slopes: float64."""
    x, slopes, weights = (np.asarray(array, np.float64) for array in (x, slopes, weights))
    by_channel = slopes.reshape(-1, 1, 1)
    of_slopes = (weights * np.where(x > 0, 0, x)).sum((0, 2, 3))
    return (
        np.where(x > 0, x, by_channel * x),
        np.where(x > 0, weights, by_channel * weights),
        of_slopes if len(slopes) > 1 else of_slopes.sum(keepdims=True),
    )


def prelu_by_mindspore(x, slopes, weights):
    import mindspore as ms
    from mindspore import Tensor

    from twinseg.mindspore_impl.layers import PReLU

    ms.set_context(mode=ms.GRAPH_MODE)
    layer = PReLU(len(slopes))
    layer.weight.set_data(Tensor(slopes))
    layer.set_train()
    given = Tensor(x), Tensor(weights)

    def loss(x, weights):
        return (layer(x) * weights).sum()

    of_x, of_slopes = ms.grad(loss, 0, layer.weight)(*given)
    return [value.asnumpy() for value in (layer(given[0]), of_x, of_slopes)]


def prelu_by_pytorch(x, slopes, weights):
    import torch

    from twinseg.pytorch_impl.layers import PReLU

    layer, given = PReLU(len(slopes)), torch.from_numpy(x).requires_grad_()
    layer.weight.data = torch.from_numpy(slopes)
    result = layer(given)
    (result * torch.from_numpy(weights)).sum().backward()
    return [value.detach().numpy() for value in (result, given.grad, layer.weight.grad)]


@pytest.mark.parametrize('slopes', [[0.25], [-0.5, 0.0, 1.5]])
def test_prelu_in_training(backend, slopes):
    rng, slopes = golden.generator('prelu'), np.array(slopes, np.float32)
    x, weights = (rng.standard_normal(SHAPE).astype(np.float32) for _ in range(2))
    x[0, :, 0, 0] = 0
    found = {'pytorch': prelu_by_pytorch, 'mindspore': prelu_by_mindspore}[backend.name](x, slopes, weights)
    for value, wanted in zip(found, prelu_by_hand(x, slopes, weights)):
        np.testing.assert_allclose(value, wanted, rtol=1e-6, atol=1e-6)


def test_prelu_in_training_keeps_what_is_no_number(backend):
    x = np.ones(SHAPE, np.float32)
    x[1, 2, 3, 4] = np.nan
    result = {'pytorch': prelu_by_pytorch, 'mindspore': prelu_by_mindspore}[backend.name](x, np.float32([0.25]), x)[0]
    assert np.isnan(result[1, 2, 3, 4]) and np.isnan(result).sum() == 1


@pytest.mark.parametrize('training', [False, True])
def test_a_1x1_convolution_goes_through_onednn_with_one_thread(training):
    torch = pytest.importorskip('torch')
    from torch.profiler import ProfilerActivity, profile

    from twinseg.pytorch_impl.layers import Conv2d

    generator = torch.Generator().manual_seed(0)
    conv, x = Conv2d(64, 48), torch.randn((2, 64, 32, 32), generator=generator)
    torch.nn.init.normal_(conv.weight, generator=generator)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.set_grad_enabled(training), profile(activities=[ProfilerActivity.CPU]) as profiler:
            result = conv(x)
        plain = torch.nn.functional.conv2d(x, conv.weight)
    finally:
        torch.set_num_threads(threads)
    names = {event.key for event in profiler.key_averages()}
    assert 'aten::mkldnn_convolution' in names and 'aten::_slow_conv2d_forward' not in names
    torch.testing.assert_close(result, plain, rtol=1e-5, atol=1e-4)


def test_the_graph_of_a_1x1_convolution_is_not_dilated():
    torch = pytest.importorskip('torch')
    from twinseg.pytorch_impl.layers import Conv2d

    exported = torch.export.export(Conv2d(3, 4).eval(), (torch.zeros(1, 3, 8, 8),))
    (call,) = [node for node in exported.graph.nodes if 'conv2d' in str(node.target)]
    assert 2 not in [value for argument in call.args if isinstance(argument, (list, tuple)) for value in argument]
