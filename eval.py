#!/usr/bin/env python
"""The model zoo's evaluation command: python eval.py --ddr_config CONFIG --pretrained CKPT --device_target TARGET"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

from twinseg.common.cli import main

if __name__ == '__main__':
    parser = argparse.ArgumentParser(
        description='Scores a checkpoint; the last lines are those of the model zoo (Top1 acc, mIoU).'
    )
    parser.add_argument('--ddr_config', metavar='CONFIG', help='recipe or YAML file; by default what the checkpoint carries')
    parser.add_argument('--pretrained', required=True, metavar='CKPT', help='checkpoint or run folder')
    parser.add_argument('--device_target', default=None, choices=['Ascend', 'GPU', 'CPU'])
    parser.add_argument('--device_id', type=int, help='the device that the process sees')
    parser.add_argument('--data_url', metavar='FOLDER', help='folder of the data set')
    parser.add_argument('--backend', choices=['pytorch', 'mindspore'])
    words = parser.parse_args()
    if words.device_id is not None:
        for name in ('CUDA_VISIBLE_DEVICES', 'ASCEND_RT_VISIBLE_DEVICES'):
            os.environ.setdefault(name, str(words.device_id))
    with tempfile.TemporaryDirectory() as folder:
        scores = Path(folder) / 'scores.json'
        status = main(
            [
                'eval',
                *([words.ddr_config] if words.ddr_config else []),
                '--checkpoint',
                words.pretrained,
                '--json',
                str(scores),
                *(['--device', words.device_target.lower()] if words.device_target else []),
                *(['--backend', words.backend] if words.backend else []),
                *(['--set', f'data_url={words.data_url}'] if words.data_url else []),
            ]
        )
        if status == 0 and scores.is_file():
            from twinseg.common.report.zoo import score_lines

            print(*score_lines(scores), sep='\n')
    sys.exit(status)
