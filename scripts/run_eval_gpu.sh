#!/usr/bin/env bash
# Evaluates a checkpoint on one GPU device: bash scripts/run_eval_gpu.sh DEVICE_ID CONFIG CHECKPOINT
# BACKEND=pytorch|mindspore (PyTorch by default); DEVICE_TARGET=CPU runs on the host.
# Leaves evaluation_gpu/ (env.log, eval.log, result.json).
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
zoo_eval GPU "$@"
