#!/usr/bin/env python
"""mmsegmentation's training command: python tools/train.py CONFIG [--work-dir FOLDER] [--resume] [--cfg-options K=V ...]"""

import argparse
import sys

from twinseg.common.cli import main

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description='Trains the recipe of a name such as configs/stdc/stdc1_4xb12-....py.')
    parser.add_argument('config', help='recipe, also by the path and name that mmsegmentation gives it, or YAML file')
    parser.add_argument('--work-dir', metavar='FOLDER')
    parser.add_argument('--resume', action='store_true', help='continue in the work folder, exactly')
    parser.add_argument('--amp', action='store_true', help='amp_level O1')
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='keys of `twinseg list keys`')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], help='not needed: the environment tells it')
    parser.add_argument('--local_rank', '--local-rank', type=int, help=argparse.SUPPRESS)
    words = parser.parse_args()
    settings = [*words.cfg_options, *(['amp_level=O1'] if words.amp else [])]
    sys.exit(
        main(
            [
                'train',
                words.config,
                *(['--work-dir', words.work_dir] if words.work_dir else []),
                *(['--resume'] if words.resume else []),
                *(['--set', *settings] if settings else []),
                *([f'--local-rank={words.local_rank}'] if words.local_rank is not None else []),
            ]
        )
    )
