#!/usr/bin/env bash
# Runs an exported model over a validation set with ascend310_infer and scores the results:
#   bash scripts/run_infer_310.sh MODEL_PATH DATASET_NAME DATASET_PATH [DEVICE_ID]
# MODEL_PATH is .om, .mindir or .onnx; DATASET_NAME imagenet2012, cityscapes, camvid, custom or another set of
# `twinseg list --datasets`. Where MODEL.aipp.cfg lies beside MODEL.om (convert_om.sh --aipp), inputs are uint8. Environment:
#   ENGINE=ascendcl|mslite|openvino  by default the one for the model's suffix
#   DEVICE_TYPE=Ascend|CPU           by default Ascend for .om and .mindir, CPU for .onnx
#   PRECISION=fp32|fp16|int8         what the model computes in: the tolerance of the comparison (.om: fp16, else fp32)
#   REFERENCE=FILE.onnx              what .om and .mindir were made from, if it does not lie beside them under their name
#   CONFIG=FILE.yaml                 keys of the data set; custom needs them
#   OUT=FOLDER                       where the program is built (ascend310_infer/out)
# Leaves infer_310/: preprocess_Result/, result_Files/, time_Result/, result.json and a log of every step.
# shellcheck disable=SC2015  # `sh script` is dash on Debian, and bash without its extensions elsewhere
[ -n "${BASH_VERSION:-}" ] && ! shopt -qo posix || exec bash +o posix "$0" "$@"
set -euo pipefail
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/common.sh"

usage() {
    say "usage: bash scripts/run_infer_310.sh MODEL_PATH DATASET_NAME DATASET_PATH [DEVICE_ID]"
    say "  DATASET_NAME: imagenet2012, cityscapes, camvid, custom (with CONFIG=FILE.yaml), ..."
    say "  DEVICE_TYPE=CPU runs on the host, ENGINE=ascendcl|mslite|openvino chooses the engine"
    exit 2
}

choice() { # variable, allowed values: dies for another value
    local name=$1 value=${!1:-} allowed
    shift
    [[ -n $value ]] || return 0
    for allowed; do
        [[ $value != "$allowed" ]] || return 0
    done
    die "$name=$value: expected $*"
}

step() { # what, log, command and arguments: ends the script where the command fails
    local what=$1 log=$FOLDER/$2 status=0
    shift 2
    say "$what: $log"
    "$@" > "$log" 2>&1 || status=$?
    if ((status)); then
        tail -n 20 -- "$log" >&2
        say "${0##*/}: $what failed with status $status; all of it: $log"
        exit "$status"
    fi
}

[[ $# -eq 3 || $# -eq 4 ]] || usage
model=$(absolute "$1")
dataset_name=$2
dataset_path=$(absolute "$3")
device_id=${4:-0}

[[ -f $model ]] || die "MODEL_PATH $1: no such file"
[[ -e $dataset_path ]] || die "DATASET_PATH $3: no such folder"
[[ $device_id =~ ^[0-9]+$ ]] || die "DEVICE_ID $device_id: expected a number such as 0"
choice ENGINE ascendcl mslite openvino
choice DEVICE_TYPE Ascend CPU
choice PRECISION fp32 fp16 int8
case $model in
    *.onnx) default=$model precision=fp32 ;;
    *.om) default=${model%.om}.onnx precision=fp16 ;;
    *.mindir) default=${model%.mindir}.onnx precision=fp32 ;;
    *) die "MODEL_PATH $1: expected .om, .mindir or .onnx" ;;
esac
precision=${PRECISION:-$precision}
reference=$(absolute "${REFERENCE:-$default}")
if [[ ! -f $reference ]]; then
    [[ -z ${REFERENCE:-} ]] || die "REFERENCE=$REFERENCE: no such file"
    [[ $model == *.mindir ]] ||
        die "$default: no such file; give the .onnx that the model was made from: REFERENCE=FILE.onnx"
    reference=$model # MindSpore reads it
fi
prepare=("$reference" "$dataset_name" "$dataset_path")
if [[ -n ${CONFIG:-} ]]; then
    [[ -f $CONFIG ]] || die "CONFIG=$CONFIG: no such file"
    prepare+=(--config "$(absolute "$CONFIG")")
elif [[ $dataset_name == custom ]]; then
    die "DATASET_NAME custom: CONFIG=FILE.yaml describes the folders (image_dir, label_dir, classes)"
fi
[[ $model != *.om || ! -f ${model%.om}.aipp.cfg ]] || prepare+=(--uint8)

flags=("--mindir_path=$model" "--dataset_name=$dataset_name" "--device_id=$device_id")
[[ -z ${ENGINE:-} ]] || flags+=("--engine=$ENGINE")
[[ -z ${DEVICE_TYPE:-} ]] || flags+=("--device_type=$DEVICE_TYPE")

use_python all
out=$(absolute "${OUT:-$ROOT/ascend310_infer/out}")
RESUME='' zoo_folder infer_310
step preprocess preprocess.log twinseg preprocess "${prepare[@]}" --out "$FOLDER/preprocess_Result"
PYTHON=$PYTHON step build build.log bash "$ROOT/ascend310_infer/build.sh" --out "$out"
step infer infer.log "$out/main" "${flags[@]}" "--input0_path=$FOLDER/preprocess_Result/00_data" \
    "--result_path=$FOLDER/result_Files" "--time_path=$FOLDER/time_Result"
step postprocess acc.log twinseg postprocess "$reference" --inputs "$FOLDER/preprocess_Result" \
    --results "$FOLDER/result_Files" --precision "$precision" --json "$FOLDER/result.json"
cat -- "$FOLDER/acc.log" "$FOLDER/time_Result/test_perform_static.txt"
