#!/usr/bin/env bash
# The checks of scripts/checks.sh and the tests: bash scripts/test.sh [ARGUMENTS OF PYTEST]
# Everything runs; the exit status is 0 only when everything passed. pytest comes last, so its closing line ends the output.
# shellcheck disable=SC2015  # `sh script` is dash on Debian, and bash without its extensions elsewhere
[ -n "${BASH_VERSION:-}" ] && ! shopt -qo posix || exec bash +o posix "$0" "$@"
set -uo pipefail
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/common.sh"
use_python all,dev
cd -- "$ROOT" || exit
PATH=$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("scripts"))'):$PATH

bash scripts/checks.sh
checks=$?
printf '== pytest\n'
"$PYTHON" -m pytest --numprocesses auto --maxprocesses 4 --dist loadgroup --durations 20 "$@"
status=$?
[[ $checks -eq 0 ]] || exit 1
exit "$status"
