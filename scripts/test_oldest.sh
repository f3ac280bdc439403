#!/usr/bin/env bash
# Tests in an environment with the oldest versions that pyproject.toml declares: bash scripts/test_oldest.sh [ARGUMENTS OF PYTEST]
# Makes .venv-oldest in the checkout (OLDEST=FOLDER: there) and installs, of each package with a >= in pyproject.toml, that release.
# shellcheck disable=SC2015  # `sh script` is dash on Debian, and bash without its extensions elsewhere
[ -n "${BASH_VERSION:-}" ] && ! shopt -qo posix || exec bash +o posix "$0" "$@"
set -euo pipefail
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/common.sh"
folder=$(absolute "${OLDEST:-$ROOT/.venv-oldest}")
cd -- "$ROOT"

mapfile -t oldest < <(grep -oE '"[a-z]+>=[0-9.]+' pyproject.toml | grep -v setuptools | sed -e 's/^"//' -e 's/>=\(.*\)/==\1.*/' | sort -u)
[[ ${#oldest[@]} -gt 0 ]] || die 'pyproject.toml declares no oldest versions'
say "with ${oldest[*]}"
PYTHON=$folder/bin/python
stamp=$folder/.twinseg
if ! grep -qsxF -- "${oldest[*]}" "$stamp"; then
    base=$(suitable_python) || exit
    "$base" -m venv "$folder" || die "$base -m venv failed (on Debian: apt-get install python3-venv)"
    printf '%s\n' "${oldest[@]}" > "$folder/oldest.txt"
    "$PYTHON" -m pip install --quiet -c "$folder/oldest.txt" -e '.[all,dev]' < /dev/null >&2 ||
        die 'the installation failed; the lines above say why'
    printf '%s\n' "${oldest[*]}" > "$stamp"
fi
export PATH=$folder/bin:$PATH PYTHONPATH=$ROOT
[[ $# -gt 0 ]] || set -- tests/test_config.py tests/test_checkpoint.py tests/training/test_resume.py tests/training/test_loaders.py \
    tests/training/test_precision.py tests/training/test_optim.py tests/parallel tests/deploy/test_export.py tests/models/test_golden.py
exec "$PYTHON" -m pytest -n0 "$@"
