"""Tests that share fixtures run in one process (see conftest.py); when they do not, all pass and it takes longer."""

import pytest


def test_groups_take_effect(request):
    """pytest-xdist 3.8 marks them in the ids, for which it needs a pytest before 9.2."""
    if not getattr(request.config.option, 'loadgroup', False):
        pytest.skip('not in a worker with --dist loadgroup')
    assert request.node.nodeid.partition('@')[2].startswith('test_groups')
