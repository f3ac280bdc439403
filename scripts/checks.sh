#!/usr/bin/env bash
# Style, types, imports, shell scripts and the Dockerfile: bash scripts/checks.sh [NAME]... runs the named checks, by default all of them.
# --list prints the names. The tools come from PATH; scripts/test.sh sets it, and the hooks of pre-commit run the same checks.
# shellcheck disable=SC2015  # `sh script` is dash on Debian, and bash without its extensions elsewhere
[ -n "${BASH_VERSION:-}" ] && ! shopt -qo posix || exec bash +o posix "$0" "$@"
set -uo pipefail
cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/.." || exit
names=(ruff-check ruff-format mypy lint-imports shellcheck hadolint)
failed=()

check() { # name of a check
    case $1 in
        ruff-check) ruff check . ;;
        ruff-format) ruff format --check . ;;
        mypy) mypy ;;
        lint-imports) lint-imports ;;
        shellcheck) shellcheck scripts/*.sh scripts/slurm/* .ci/run ;;
        hadolint) hadolint Dockerfile ;;
        *)
            printf '%s: no check %s; there are %s\n' "${0##*/}" "$1" "${names[*]}" >&2
            exit 2
            ;;
    esac
}

if [[ ${1:-} == --list ]]; then
    printf '%s\n' "${names[@]}"
    exit
fi
[[ $# -gt 0 ]] || set -- "${names[@]}"
for name; do
    printf '== %s\n' "$name"
    check "$name" || failed+=("$name")
done
[[ ${#failed[@]} -eq 0 ]] || printf '== FAILED: %s\n' "${failed[*]}"
[[ ${#failed[@]} -eq 0 ]]
