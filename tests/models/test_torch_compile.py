"""``torch.compile`` takes every network in training as one graph: a break waits for the host, and no CUDA graph spans it."""

import pytest

from tests.support.zoo import NETWORKS
from twinseg.common.backend import get_backend

torch = pytest.importorskip('torch')


@pytest.mark.parametrize(
    'name', [name if name in ('enet', 'stdc1_seg') else pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS]
)
def test_no_graph_breaks(name):
    from twinseg.pytorch_impl.network import draw_dropout

    backend, case = get_backend('pytorch'), NETWORKS[name]
    backend.setup('cpu', threads=1)
    network = backend.build_model(case.arch, **{'num_classes': 5, **case.arguments}).train()
    draw_dropout(network, 2, (0, 0, 0))
    torch._dynamo.reset()
    found = torch._dynamo.explain(network)(torch.rand(2, 3, *case.size))
    assert (found.graph_count, found.graph_break_count) == (1, 0), found.break_reasons
