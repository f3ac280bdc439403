#!/usr/bin/env python
"""DeepHM's training command with DDP, a process for each GPU:
python -m torch.distributed.launch --nproc_per_node=2 train_ddp.py [CONFIG]
"""

import sys

from twinseg.common.cli import main

RECIPE = 'deeplabv3plus/deeplabv3plus_r101_deephm-ddp_voc12aug-380x380'

if __name__ == '__main__':
    words = sys.argv[1:]
    sys.exit(main(['train', *words] if words and not words[0].startswith('-') else ['train', RECIPE, *words]))
