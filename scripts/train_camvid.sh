#!/usr/bin/env bash
# Trains a network on CamVid from scratch in the three stages that common/configs/camvid.yaml explains:
#   bash scripts/train_camvid.sh RECIPE FOLDER [KEY=VALUE...] [STAGE:KEY=VALUE...]
# Leaves FOLDER/stage1, stage2 and stage3, the result. The same call goes on after an interruption.
# BACKEND=pytorch|mindspore (PyTorch by default), EPOCHS: those of the stages ('50 40 20' by default).
# shellcheck disable=SC2015  # `sh script` is dash on Debian, and bash without its extensions elsewhere
[ -n "${BASH_VERSION:-}" ] && ! shopt -qo posix || exec bash +o posix "$0" "$@"
set -euo pipefail
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/common.sh"
[[ $# -ge 2 ]] || die 'usage: bash scripts/train_camvid.sh RECIPE FOLDER [KEY=VALUE...] [STAGE:KEY=VALUE...]'
recipe=$1 folder=$2
shift 2
keys=("$@")
use_python all
lengths=${EPOCHS:-50 40 20}
[[ $lengths =~ ^[1-9][0-9]*(\ [1-9][0-9]*){2}$ ]] || die "EPOCHS is '$lengths': give three numbers, of the three stages"
read -r -a epochs <<<"$lengths"

stage() { # number, keys of this stage; the user's come last, those for this stage alone after those for all
    local key of_all=() of_stage=()
    for key in "${keys[@]}"; do
        case $key in
            "$1":*) of_stage+=("${key#*:}") ;;
            [123]:*) ;;
            *) of_all+=("$key") ;;
        esac
    done
    twinseg train "$recipe" --backend "${BACKEND:-pytorch}" --work-dir "$folder/stage$1" --resume \
        --set "${@:2}" "${of_all[@]}" "${of_stage[@]}"
}

best() { # number of a stage
    printf 'pretrained=%s\n' "$folder/stage$1/checkpoints/best.safetensors"
}

thin='class_weight=[1,1,3,1,1,1,2,1,1,1,1]' # poles and signs
half=('base_size=[540,720]' 'crop_size=[360,480]' 'eval_size=[540,720]')
whole=('base_size=[720,960]' 'crop_size=[480,640]' 'eval_size=[720,960]')
stage 1 epochs="${epochs[0]}"
stage 2 epochs="${epochs[1]}" base_lr=5e-4 "$thin" "$(best 1)" "${half[@]}"
stage 3 epochs="${epochs[2]}" base_lr=3e-4 "$thin" "$(best 2)" "${whole[@]}"
