#!/usr/bin/env bash
# Evaluates a checkpoint on one Ascend device: bash scripts/run_eval_ascend.sh DEVICE_ID CONFIG CHECKPOINT
# BACKEND=pytorch|mindspore (MindSpore by default); DEVICE_TARGET=CPU runs on the host.
# Leaves evaluation_ascend/ (env.log, eval.log, result.json).
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
zoo_eval Ascend "$@"
