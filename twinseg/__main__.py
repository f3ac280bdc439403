"""``python -m twinseg``: the command line."""

import sys

from twinseg.common.cli import main

if __name__ == '__main__':
    sys.exit(main())
