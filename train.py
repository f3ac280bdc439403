#!/usr/bin/env python
"""The model zoo's training command: python train.py --ddr_config CONFIG --device_target TARGET [--device_id N]"""

import argparse
import os
import sys

from twinseg.common.cli import main

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description='Trains in the folder that `twinseg train` would take.')
    parser.add_argument('--ddr_config', required=True, metavar='CONFIG', help='recipe or YAML file')
    parser.add_argument('--device_target', default=None, choices=['Ascend', 'GPU', 'CPU'])
    parser.add_argument('--device_id', type=int, help='the device that the process sees')
    parser.add_argument('--data_url', metavar='FOLDER', help='folder of the data set')
    parser.add_argument('--backend', choices=['pytorch', 'mindspore'])
    parser.add_argument('--resume', action='store_true', help='continue, exactly')
    words = parser.parse_args()
    if words.device_id is not None:
        for name in ('CUDA_VISIBLE_DEVICES', 'ASCEND_RT_VISIBLE_DEVICES'):
            os.environ.setdefault(name, str(words.device_id))
    sys.exit(
        main(
            [
                'train',
                words.ddr_config,
                *(['--device', words.device_target.lower()] if words.device_target else []),
                *(['--backend', words.backend] if words.backend else []),
                *(['--resume'] if words.resume else []),
                *(['--set', f'data_url={words.data_url}'] if words.data_url else []),
            ]
        )
    )
