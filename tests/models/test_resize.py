"""Gradients of a bilinear resize as accelerators compute them."""

import pytest

SIZES = [((5, 7), (40, 56)), ((16, 9), (33, 17)), ((1, 1), (3, 4)), ((8, 8), (8, 8)), ((20, 30), (7, 11))]


@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize('size, new_size', SIZES)
def test_products_give_the_frameworks_gradient(size, new_size, align_corners):
    torch = pytest.importorskip('torch')
    from twinseg.pytorch_impl.layers.functional import _Resize

    generator = torch.Generator().manual_seed(0)
    x = torch.randn((2, 3, *size), generator=generator).requires_grad_()
    weights = torch.randn((2, 3, *new_size), generator=generator)
    plain = torch.nn.functional.interpolate(x, size=new_size, mode='bilinear', align_corners=align_corners)
    ours = _Resize.apply(x, new_size, align_corners)
    assert torch.equal(ours, plain)
    wanted, found = (torch.autograd.grad((y * weights).sum(), x)[0] for y in (plain, ours))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))
