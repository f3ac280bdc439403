#!/usr/bin/env bash
# Trains Fast-SCNN in both backends from the same weights, evaluates, compares, exports, and leaves runs/quickstart/report.html.
# usage: bash scripts/quickstart.sh
#   Street scenes are drawn on the fly; with TWINSEG_DATA set to a folder that holds camvid/, real images are used.
# shellcheck disable=SC2015  # `sh script` is dash on Debian, and bash without its extensions elsewhere
[ -n "${BASH_VERSION:-}" ] && ! shopt -qo posix || exec bash +o posix "$0" "$@"
set -euo pipefail
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/common.sh"
[[ $# -eq 0 ]] || die "takes no arguments; TWINSEG_DATA=FOLDER uses the images in FOLDER/camvid"
use_python all
cd -- "$ROOT"
started=$SECONDS

recipe=fastscnn/fast_scnn_toy_street
settings=(epochs=20 val_interval=80 checkpoint_interval=80)
if [[ -n ${TWINSEG_DATA:-} ]]; then # a few steps on real images; the recipe's hour is for `twinseg train`
    recipe=fastscnn/fast_scnn_camvid-360x480
    settings=(max_iters=150 warmup_length=0 warmup_iters=20 base_size='[360, 480]' crop_size='[180, 240]'
        eval_size='[360, 480]' 'model_args={bn_momentum: 0.1}' val_interval=75 checkpoint_interval=75 ema_decay=0.95)
fi

run=runs/quickstart
if [[ -e $run ]]; then # an earlier one is kept
    number=1
    while [[ -e $run.$number ]]; do number=$((number + 1)); done
    mv -- "$run" "$run.$number"
    say "kept the earlier $run as $run.$number"
fi
mkdir -p -- "$run"

step() {
    printf '\n== %s\n' "$*"
}

for backend in pytorch mindspore; do
    step "$backend: training"
    twinseg train "$recipe" --backend "$backend" --device cpu --work-dir "$run/$backend" --set seed=0 "${settings[@]}"
    step "$backend: evaluation"
    twinseg eval --checkpoint "$run/$backend" --backend "$backend" --device cpu --json "$run/$backend/eval.json"
done
step 'one checkpoint, both backends'
twinseg parity "$recipe" --weights "$run/pytorch/checkpoints/best.safetensors" --steps 6 --json "$run/parity.json"
for format in onnx mindir; do
    step "export: $format"
    twinseg export --checkpoint "$run/pytorch" --backend pytorch --device cpu --format "$format" \
        --out "$run/fast_scnn.$format" --json "$run/export_$format.json"
done
step 'report'
twinseg report "$run/pytorch" "$run/mindspore" --out "$run/report.html" --device cpu
printf '\n== done in %d min %02d s; open %s\n' $(((SECONDS - started) / 60)) $(((SECONDS - started) % 60)) "$ROOT/$run/report.html"
