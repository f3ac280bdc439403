"""Counts the networks' parameters and multiply-accumulates for ``twinseg list``: python scripts/count_networks.py [NAME...]

Without names all are counted. Writes ``common/report/networks.json``; needs PyTorch.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from twinseg.common.backend import get_backend
from twinseg.common.files import write_text
from twinseg.common.report import catalogue


def main(names: list[str]) -> int:
    backend = get_backend('pytorch')
    backend.setup('cpu')
    unknown = [name for name in names if name not in backend.MODELS]
    if unknown:
        print(f'count_networks.py: no network {", ".join(unknown)}; there are {", ".join(backend.MODELS)}', file=sys.stderr)
        return 2
    known = json.loads(catalogue.COUNTED.read_text(encoding='utf-8')) if names else {}
    sizes = {
        arch: catalogue.count(backend, arch) if not names or arch in names else known[arch]
        for arch in backend.MODELS
        if not names or arch in names or arch in known
    }
    write_text(catalogue.COUNTED, json.dumps(sizes, indent=1) + '\n')
    print(f'{catalogue.COUNTED}: {len(sizes)} networks, {len(names) or len(sizes)} counted')
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
