#!/usr/bin/env python
"""The model zoo's postprocessing: python postprocess.py MODEL [--inputs FOLDER] [--results FOLDER]"""

import sys

from twinseg.common.cli import main

if __name__ == '__main__':
    sys.exit(main(['postprocess', *sys.argv[1:]]))
