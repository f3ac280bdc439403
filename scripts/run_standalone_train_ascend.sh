#!/usr/bin/env bash
# Trains on one Ascend device: bash scripts/run_standalone_train_ascend.sh DEVICE_ID CONFIG
# BACKEND=pytorch|mindspore (MindSpore by default); DEVICE_TARGET=CPU runs on the host; RESUME=1 continues.
# Leaves train_standalone/ (env.log, log.txt, run/).
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
zoo_train Ascend "$@"
