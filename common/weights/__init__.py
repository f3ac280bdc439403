"""Published checkpoints in this suite's names, for both backends.

``read`` opens a file safely, ``convert`` recognises the publisher and renames, ``load`` does both, and ``load_pretrained``
fills a network as far as the weights go. ``reading`` has a module for each kind of file, ``publishers`` one for each
publisher's names; ``sets`` tells which weights of a file are meant. ``published`` lists files that have a name, ``by_name``
fetches them; ``shipped/`` holds the checkpoints that come with the suite.
"""

from twinseg.common.weights.convert import SOURCES, Converted, convert, load
from twinseg.common.weights.pretrained import load_pretrained
from twinseg.common.weights.publishers import TABLES
from twinseg.common.weights.reading.files import Weights, read

# ``convert`` is a module, too: the import above replaces it by its function, and ``tests/weights`` holds that it stays so.
__all__ = ['SOURCES', 'TABLES', 'Converted', 'Weights', 'convert', 'load', 'load_pretrained', 'read']
