#!/usr/bin/env bash
# Evaluates a checkpoint on one Ascend device: bash scripts/run_eval_ascend.sh DEVICE_ID CONFIG CHECKPOINT
# BACKEND=pytorch|mindspore (MindSpore by default); DEVICE_TARGET=CPU runs on the host.
# Leaves evaluation_ascend/ (env.log, eval.log, result.json).
# shellcheck disable=SC2015  # `sh script` is dash on Debian, and bash without its extensions elsewhere
[ -n "${BASH_VERSION:-}" ] && ! shopt -qo posix || exec bash +o posix "$0" "$@"
set -euo pipefail
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/common.sh"
zoo_eval Ascend "$@"
