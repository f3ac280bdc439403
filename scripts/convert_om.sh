#!/usr/bin/env bash
# Converts an exported ONNX file for a card: with CANN's ATC to .om, or with MindSpore Lite's converter to .mindir.
#   bash scripts/convert_om.sh MODEL.onnx --soc VERSION [--precision MODE] [--aipp] [--lite] [--out FILE] [--dry-run]
#
# --soc        the chip: what `npu-smi info` shows, with Ascend before it, such as Ascend310P3
# --precision  ATC's precision_mode: allow_fp32_to_fp16 (default), force_fp16, must_keep_origin_dtype,
#              allow_mix_precision; how much it costs is what run_infer_310.sh prints
# --aipp       images enter as uint8 and the chip normalises them, with the file's mean and std (ATC; not for files of
#              `twinseg export --uint8`, which do it themselves); MODEL.aipp.cfg stays beside MODEL.om, and tells
#              run_infer_310.sh to write such inputs
# --lite       with MindSpore Lite's converter_lite, of MS_LITE_HOME
# --out        by default MODEL.om, or MODEL_lite.mindir, beside the ONNX file
# --dry-run    prints the command line, writes nothing
# shellcheck disable=SC2015  # `sh script` is dash on Debian, and bash without its extensions elsewhere
[ -n "${BASH_VERSION:-}" ] && ! shopt -qo posix || exec bash +o posix "$0" "$@"
set -euo pipefail
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/common.sh"

usage() {
    say "usage: bash scripts/convert_om.sh MODEL.onnx --soc VERSION [--precision MODE] [--aipp] [--lite] [--out FILE] [--dry-run]"
    exit 2
}

model='' soc='' precision=allow_fp32_to_fp16 out='' aipp='' lite='' dry=''
while (($#)); do
    case $1 in
        --soc | --precision | --out)
            [[ -n ${2:-} ]] || die "$1: no value"
            case $1 in
                --soc) soc=$2 ;;
                --precision) precision=$2 ;;
                --out) out=$2 ;;
            esac
            shift
            ;;
        --aipp) aipp=1 ;;
        --lite) lite=1 ;;
        --dry-run) dry=1 ;;
        -*) say "${0##*/}: unknown option $1" && usage ;;
        *) [[ -z $model ]] || usage && model=$1 ;;
    esac
    shift
done
[[ -n $model ]] || usage
[[ $model == *.onnx ]] || die "$model: expected an .onnx of \`twinseg export\`; ATC does not read .mindir"
[[ -f $model ]] || die "$model: no such file"
[[ $soc =~ ^Ascend[0-9A-Za-z_]+$ ]] || die "--soc '$soc': expected a chip such as Ascend310P3; \`npu-smi info\` shows its name"
case $precision in
    allow_fp32_to_fp16 | force_fp16 | must_keep_origin_dtype | allow_mix_precision) ;;
    *) die "--precision $precision: expected allow_fp32_to_fp16, force_fp16, must_keep_origin_dtype or allow_mix_precision" ;;
esac
[[ -z $aipp || -z $lite ]] || die '--aipp is for ATC; for MindSpore Lite export the file with --uint8'
suffix=.om
[[ -z $lite ]] || suffix=_lite.mindir
model=$(absolute "$model")
out=$(absolute "${out:-${model%.onnx}$suffix}")
[[ $out == *".${suffix##*.}" ]] || die "--out $out: expected a name with .${suffix##*.}"
[[ -d $(dirname -- "$out") ]] || die "--out $out: there is no such folder"
[[ $out == "${out%[:;]*}" && $model == "${model%[:;]*}" ]] || die "$model: the converters take no ':' or ';' in paths"
aipp_file=${out%.om}.aipp.cfg

use_python all
facts=$(twinseg conversion-facts "$model" ${aipp:+--aipp}) || exit
input_format=$(sed -n 1p <<< "$facts")
input_shape=$(sed -n 2p <<< "$facts")

if [[ -n $lite ]]; then
    program=${MS_LITE_HOME:-}/tools/converter/converter/converter_lite
    command=("$program" --fmk=ONNX "--modelFile=$model" "--outputFile=${out%.mindir}" --saveType=MINDIR
        "--optimize=ascend_oriented:$soc" "--inputShape=$input_shape")
    hint='set MS_LITE_HOME to the unpacked mindspore-lite-*-linux-* folder'
    export LD_LIBRARY_PATH=${MS_LITE_HOME:-}/tools/converter/lib:${MS_LITE_HOME:-}/runtime/lib:${LD_LIBRARY_PATH:-}
else
    program=atc
    command=(atc --framework=5 "--model=$model" "--output=${out%.om}" "--soc_version=$soc" "--input_format=$input_format"
        "--input_shape=$input_shape" "--precision_mode=$precision")
    [[ -z $aipp ]] || command+=("--insert_op_conf=$aipp_file")
    hint='source the set_env.sh of the CANN toolkit first'
fi

if [[ -n $dry ]]; then
    printf '%q ' "${command[@]}"
    printf '\n'
    [[ -z $aipp ]] || printf '\n# %s\n%s\n' "$aipp_file" "$(sed 1,2d <<< "$facts")"
    exit 0
fi
command -v -- "$program" > /dev/null || die "$program is not here: $hint (--dry-run prints the command line for another machine)"
if [[ -n $aipp ]]; then
    sed 1,2d <<< "$facts" > "$aipp_file"
else
    rm -f -- "$aipp_file" # a file of an earlier conversion
fi
"${command[@]}"
[[ -f $out ]] || die "${program##*/} ended well, but there is no $out"
say "wrote $out"
