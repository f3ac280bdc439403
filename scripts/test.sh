#!/usr/bin/env bash
# Style, types, imports, shell scripts and tests: bash scripts/test.sh [ARGUMENTS OF PYTEST]
# Everything runs; the exit status is 0 only when everything passed. pytest comes last, so its closing line ends the output.
set -uo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
use_python all,dev
cd -- "$ROOT" || exit
PATH=$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("scripts"))'):$PATH
failed=()

check() { # a command and its arguments
    printf '== %s\n' "$*"
    "$@" || failed+=("$1")
}

check ruff check .
check ruff format --check .
check mypy
check lint-imports
check shellcheck scripts/*.sh .ci/run

[[ ${#failed[@]} -eq 0 ]] || printf '== FAILED: %s\n' "${failed[*]}"
printf '== pytest\n'
"$PYTHON" -m pytest --numprocesses auto --maxprocesses 4 --dist loadgroup --durations 20 "$@"
status=$?
[[ ${#failed[@]} -eq 0 ]] || exit 1
exit "$status"
