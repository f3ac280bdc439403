"""What ``twinseg list`` reads: python scripts/count_networks.py [NAME...]

Counts parameters and multiply-accumulates of the networks, of all without names, and lists recipes, data sets and weights.
Writes ``common/report/catalogue.json``; needs PyTorch.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from twinseg.common.backend import get_backend
from twinseg.common.report import catalogue, counting


def main(names: list[str]) -> int:
    backend = get_backend('pytorch')
    backend.setup('cpu')
    unknown = [name for name in names if name not in backend.MODELS]
    if unknown:
        print(f'count_networks.py: no network {", ".join(unknown)}; there are {", ".join(backend.MODELS)}', file=sys.stderr)
        return 2
    known = catalogue.stored()['networks'] if names else {}
    sizes = {
        arch: counting.count(backend, arch) if not names or arch in names else known[arch]
        for arch in backend.MODELS
        if not names or arch in names or arch in known
    }
    catalogue.store(networks=sizes, **counting.tables())
    print(f'{catalogue.STORED}: {len(sizes)} networks, {len(names) or len(sizes)} counted')
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
