"""Checks of the suite on a new device, in one program: it shows what works, what is wrong and what is slow.

    python scripts/first_light.py --out first_light                     # the best device here, about four minutes on a GPU
    python scripts/first_light.py --device cpu --quick --out rehearsal  # a rehearsal, in a minute or two

The host's PyTorch is the reference, so PyTorch is needed beside MindSpore (``--backend mindspore``), too. Every check is a
function of ``scripts/device_checks``; one that fails is a row of the table, and the next one begins. Commands run beside the
checks that take no time. Writes ``first_light.json`` (all figures) and ``first_light.md`` (the table) into ``--out``.
"""

import argparse
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.device_checks.commands import commands
from scripts.device_checks.numbers import exported, group_of_one, machine, networks, norms, overflow
from scripts.device_checks.report import TORCH_NAMES, Bench
from scripts.device_checks.speed import kernels, losses, steps, waits
from twinseg.common.backend import get_backend
from twinseg.common.errors import UserError

Check = Callable[[Bench], None]
BESIDE: tuple[Check, ...] = (machine, networks, exported, overflow, waits)  # checks that commands may disturb
TIMED: tuple[Check, ...] = (group_of_one, norms, steps, kernels, losses)
CHECKS = {check.__name__: check for check in (*BESIDE, commands, *TIMED)}


def run(bench: Bench, check: Check) -> None:
    """One check; what it raises is a row."""
    began = time.perf_counter()
    try:
        check(bench)
    except Exception as error:
        bench.report.details[f'{check.__name__}: traceback'] = traceback.format_exc()
        bench.report.failure(check.__name__, 'the check itself', error)
    bench.report.details.setdefault('seconds', {})[check.__name__] = round(time.perf_counter() - began, 1)


def run_all(bench: Bench, checks: list[Check], out: Path) -> None:
    """Checks one after the other; the report is written after each."""
    for check in checks:
        run(bench, check)
        bench.report.write(out, list(CHECKS))


def main() -> int:
    parser = argparse.ArgumentParser(description='What a new device does with the suite.')
    parser.add_argument('--backend', choices=['pytorch', 'mindspore'], default='pytorch')
    parser.add_argument('--device', choices=list(TORCH_NAMES), help='by default the best that is present')
    parser.add_argument('--out', type=Path, default=Path('first_light'), metavar='FOLDER')
    parser.add_argument('--quick', action='store_true', help='few networks and small images: a rehearsal')
    parser.add_argument('--minutes', type=float, default=10, help='no check and no timing begins later than this')
    parser.add_argument('--only', nargs='+', choices=list(CHECKS), help='these checks alone')
    asked = parser.parse_args()
    try:
        present = get_backend(asked.backend).devices()
        if asked.device and asked.device not in present:
            parser.error(f'--device {asked.device}: not among {", ".join(present)}; `--device cpu --quick` rehearses')
        bench = Bench(asked.backend, asked.device or present[-1], asked.quick, asked.minutes)
    except UserError as error:
        parser.error(str(error))
    names = [name for name in CHECKS if name == 'machine' or not asked.only or name in asked.only]
    beside = bench.beside()
    with ThreadPoolExecutor(1) as pool:  # its end waits for the commands
        if 'commands' in names:
            pool.submit(run, beside, commands)
        run_all(bench, [check for check in BESIDE if check.__name__ in names], asked.out)
    bench.report.take(beside.report)
    run_all(bench, [check for check in TIMED if check.__name__ in names], asked.out)
    bench.report.write(asked.out, list(CHECKS))
    counts = bench.report.count()
    print(', '.join(f'{number} {verdict}' for verdict, number in counts.items()), f'-> {asked.out}')
    return int(counts['wrong'] + counts['fails'] > 0)


if __name__ == '__main__':
    sys.exit(main())
