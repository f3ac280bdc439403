"""What is asked of glibc's allocation, in processes of their own, whose allocation it changes."""

import os
import subprocess
import sys

import pytest

from twinseg.common.host.memory import _is_glibc

PROGRAM = """
import resource
import numpy as np
from twinseg.common.host.memory import keep_freed_memory

print(keep_freed_memory())
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.empty(1 << 26, np.uint8).fill(1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(**environment: str) -> tuple[str, int]:
    """Whether freed memory is kept, and the page faults of a block that was freed and is taken again."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(('MALLOC_', 'GLIBC_TUNABLES'))}
    kept, faults = subprocess.run(
        [sys.executable, '-c', PROGRAM], env={**inherited, **environment}, capture_output=True, text=True, check=True
    ).stdout.split()
    return kept, int(faults)


@pytest.mark.skipif(not _is_glibc(), reason='freed memory is kept with glibc alone')
def test_a_block_that_was_freed_is_taken_again_without_page_faults():
    assert run()[0] == 'True' and run()[1] < 16


@pytest.mark.parametrize(
    'environment',
    [
        {'TWINSEG_KEEP_MEMORY': '0'},
        {'MALLOC_TRIM_THRESHOLD_': '131072'},
        {'GLIBC_TUNABLES': 'glibc.malloc.trim_threshold=9'},
    ],
    ids=lambda environment: next(iter(environment)),
)
def test_what_the_environment_says_is_heeded(environment):
    kept, faults = run(**environment)
    assert kept == 'False' and faults >= 16
