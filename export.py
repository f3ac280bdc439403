#!/usr/bin/env python
"""The model zoo's export command: python export.py --pretrained CKPT --ddr_config CONFIG --device_target TARGET"""

import argparse
import sys

from twinseg.common.cli import main

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description='Writes ARCH.mindir (or .onnx, .air) into the current folder.')
    parser.add_argument('--pretrained', required=True, metavar='CKPT', help='checkpoint')
    parser.add_argument('--ddr_config', metavar='CONFIG', help='recipe or YAML file; by default what the checkpoint carries')
    parser.add_argument('--device_target', default='CPU', choices=['Ascend', 'GPU', 'CPU'])
    parser.add_argument('--file_format', default='MINDIR', choices=['MINDIR', 'ONNX', 'AIR'])
    parser.add_argument('--backend', choices=['pytorch', 'mindspore'], help='what the file is compared with')
    words = parser.parse_args()
    sys.exit(
        main(
            [
                'export',
                *([words.ddr_config] if words.ddr_config else []),
                '--checkpoint',
                words.pretrained,
                '--device',
                words.device_target.lower(),
                '--format',
                words.file_format.lower(),
                *(['--backend', words.backend] if words.backend else []),
            ]
        )
    )
