#!/usr/bin/env bash
# Trains on one Ascend device: bash scripts/run_standalone_train_ascend.sh DEVICE_ID CONFIG
# BACKEND=pytorch|mindspore (MindSpore by default); DEVICE_TARGET=CPU runs on the host; RESUME=1 continues.
# Leaves train_standalone/ (env.log, log.txt, run/).
# shellcheck disable=SC2015  # `sh script` is dash on Debian, and bash without its extensions elsewhere
[ -n "${BASH_VERSION:-}" ] && ! shopt -qo posix || exec bash +o posix "$0" "$@"
set -euo pipefail
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/common.sh"
zoo_train Ascend "$@"
