#!/usr/bin/env python
"""The model zoo's preprocessing: python preprocess.py MODEL DATASET_NAME DATASET_PATH [--out FOLDER]"""

import sys

from twinseg.common.cli import main

if __name__ == '__main__':
    sys.exit(main(['preprocess', *sys.argv[1:]]))
