#!/usr/bin/env bash
# Trains on all Ascend devices of one or several hosts: bash scripts/run_distribute_train_ascend.sh RANK_TABLE_FILE CONFIG
# BACKEND=pytorch|mindspore (MindSpore by default); DEVICE_TARGET=CPU runs on the host; RESUME=1 continues.
# DEVICE_NUM: processes of a host, by default one for each of its devices in the rank table. Several hosts: run it on each,
# in one shared folder, with NNODES, NODE_RANK, MASTER_ADDR and MASTER_PORT.
# Each process keeps to its share of the cores; PIN_CORES=0: it does not.
# Ends with status 75 when SIGTERM stopped it: a checkpoint is saved, and RESUME=1 continues.
# Leaves train_parallel/ (env.log, log.txt, ranks_*/, run/), with several hosts train_parallel_nodes/ (node_*/, run/).
# shellcheck disable=SC2015  # `sh script` is dash on Debian, and bash without its extensions elsewhere
[ -n "${BASH_VERSION:-}" ] && ! shopt -qo posix || exec bash +o posix "$0" "$@"
set -euo pipefail
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/common.sh"
zoo_distribute Ascend "$@"
