"""Compiled code is kept between runs.

TorchInductor keeps it by itself, and runs it again, in a folder of a known name in the folder of temporary files, which every
user of a machine can make before. Here it is one that belongs to the user alone.
"""

import os

from twinseg.common.files.graph_cache import graph_folder


def choose_folder() -> None:
    """Has TorchInductor keep its files with the suite's other caches, unless the user has chosen their folder."""
    if folder := graph_folder('pytorch'):
        os.environ.setdefault('TORCHINDUCTOR_CACHE_DIR', str(folder))
