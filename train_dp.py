#!/usr/bin/env python
"""DeepHM's training command with DP, one process, whose GPUs share every batch:
python train_dp.py [CONFIG] [OPTIONS]
"""

import sys

from twinseg.common.cli import main

RECIPE = 'deeplabv3plus/deeplabv3plus_r101_deephm-dp_voc12aug-380x380'

if __name__ == '__main__':
    words = sys.argv[1:]
    sys.exit(main(['train', *words] if words and not words[0].startswith('-') else ['train', RECIPE, *words]))
