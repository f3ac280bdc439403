# shellcheck shell=bash
# What the scripts share. Sourced, never run: sets ROOT and, through use_python, PYTHON.

ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
RECIPES=$ROOT/common/configs

say() {
    printf '%s\n' "$*" >&2
}

die() { # message: what is wrong and what to change
    say "${0##*/}: $*"
    exit 2
}

absolute() { # path, relative to the caller's folder
    case $1 in
        /*) printf '%s\n' "$1" ;;
        *) printf '%s\n' "$PWD/$1" ;;
    esac
}

# --- the environment ------------------------------------------------------------------------------------------------

use_python() { # extras of pyproject.toml, such as all or all,dev
    if [[ -n ${TWINSEG_PYTHON:-} ]]; then
        PYTHON=$(command -v -- "$TWINSEG_PYTHON") || die "TWINSEG_PYTHON=$TWINSEG_PYTHON is no program"
        PYTHON=$(absolute "$PYTHON")
    else
        PYTHON=$ROOT/.venv/bin/python
        install_once "$1"
    fi
    # The checkout itself comes first, and a folder `common/` where the user stands does not.
    export PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH} PYTHONSAFEPATH=1
}

install_once() { # extras; repeated when pyproject.toml or constraints.txt changed, or when it was interrupted
    local stamp=$ROOT/.venv/.twinseg-$1 wanted base
    wanted=$(cat -- "$ROOT/pyproject.toml" "$ROOT/constraints.txt" | cksum)
    if grep -qsxF -- "$wanted" "$stamp" "$ROOT/.venv/.twinseg-$1,dev"; then
        return
    fi
    say "installing .[$1] into $ROOT/.venv"
    rm -f -- "$stamp"
    if ! "$PYTHON" -m pip --version > /dev/null 2>&1; then
        base=$(suitable_python) || exit
        "$base" -m venv "$ROOT/.venv" >&2 || die "$base -m venv failed (on Debian: apt-get install python3-venv)"
    fi
    (cd -- "$ROOT" && "$PYTHON" -m pip install --quiet -c constraints.txt -e ".[$1]" < /dev/null >&2) ||
        die "the installation failed; the lines above say why, and the next call repeats it"
    printf '%s\n' "$wanted" > "$stamp"
}

suitable_python() { # MindSpore has wheels for Python 3.10 to 3.12
    local name
    for name in python3 python3.12 python3.11 python3.10; do
        if "$name" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2> /dev/null; then
            command -v -- "$name"
            return
        fi
    done
    die "no Python 3.10, 3.11 or 3.12 in PATH; install one, or name your own environment's in TWINSEG_PYTHON"
}

twinseg() {
    "$PYTHON" -m common.cli "$@"
}

# --- the model zoo's interface: run_{standalone_train,eval}_{gpu,ascend}.sh -------------------------------------------

# Each zoo_* takes the script's own target (GPU or Ascend) and then the user's arguments.

zoo_usage() { # the arguments expected
    say "usage: bash scripts/${0##*/} $1"
    say "  BACKEND=pytorch|mindspore chooses the backend, DEVICE_TARGET=CPU runs on the host"
    exit 2
}

zoo_settings() { # target, device id, config: sets BACKEND, DEVICE, CONFIG and what the frameworks read
    local target=${DEVICE_TARGET:-$1} default=pytorch
    [[ $1 == Ascend ]] && default=mindspore
    BACKEND=${BACKEND:-$default}
    [[ $BACKEND == pytorch || $BACKEND == mindspore ]] || die "BACKEND=$BACKEND: expected pytorch or mindspore"
    case $target in
        CPU | GPU | Ascend) DEVICE=${target,,} ;;
        *) die "DEVICE_TARGET=$target: expected CPU, GPU or Ascend" ;;
    esac
    [[ $2 =~ ^[0-9]+$ ]] || die "DEVICE_ID $2: expected a number such as 0"
    CONFIG=$3
    if [[ -f $CONFIG ]]; then
        CONFIG=$(absolute "$CONFIG")
    elif ! is_recipe "${CONFIG%.yaml}"; then
        die "CONFIG $CONFIG: neither a file nor a recipe; \`twinseg list --configs\` names the recipes"
    fi
    # The process sees one device, as its number 0.
    export DEVICE_ID=0 RANK_ID=0 DEVICE_NUM=1 RANK_SIZE=1
    case $DEVICE in
        gpu) export CUDA_VISIBLE_DEVICES=$2 ;;
        ascend)
            export ASCEND_RT_VISIBLE_DEVICES=$2
            [[ -n ${ASCEND_HOME_PATH:-} ]] ||
                say "hint: ASCEND_HOME_PATH is not set; source the set_env.sh of your CANN toolkit first"
            ;;
    esac
}

is_recipe() { # name, with or without its folder
    if [[ $1 == */* ]]; then
        [[ -f $RECIPES/$1.yaml ]]
    else
        compgen -G "$RECIPES/*/$1.yaml" > /dev/null
    fi
}

zoo_folder() { # name: sets FOLDER to a new one in the caller's folder (nothing is removed), or with RESUME=1 to the last
    local number=1
    FOLDER=$PWD/$1
    if [[ ${RESUME:-} == 1 ]]; then
        [[ -d $FOLDER ]] || die "RESUME=1: there is no $FOLDER to continue in"
        while [[ -d $PWD/$1_$((number + 1)) ]]; do
            number=$((number + 1))
            FOLDER=$PWD/$1_$number
        done
        return
    fi
    until mkdir -- "$FOLDER" 2> /dev/null; do
        [[ -e $FOLDER ]] || die "$PWD is not writable"
        number=$((number + 1))
        FOLDER=$PWD/$1_$number
    done
}

zoo_run() { # log name, arguments of twinseg: in the foreground, ends with its status
    local log=$FOLDER/$1
    shift
    {
        printf 'date=%s\nbackend=%s\ndevice_target=%s\n' "$(date -u +%FT%TZ)" "$BACKEND" "$DEVICE"
        env | grep -E '^(ASCEND|BACKEND|CUDA|DEVICE|GLOG|HCCL|MS_|NCCL|OMP_|ONEDNN|PYTHON|RANK|TORCH|TWINSEG)[A-Z_]*=' | sort
        "$PYTHON" -c 'import importlib.metadata as m, re
for d in m.distributions():
    if re.fullmatch("mindspore|numpy|onnx|onnxruntime|torch|torch.npu", d.name or ""): print(d.name, d.version, sep="==")'
    } > "$FOLDER/env.log"
    say "logs: $log"
    exec > >(exec tee -i -a -- "$log") 2>&1
    exec "$PYTHON" -m common.cli "$@"
}

zoo_train() {
    local target=$1 resume=()
    shift
    [[ $# -eq 2 ]] || zoo_usage 'DEVICE_ID CONFIG'
    zoo_settings "$target" "$1" "$2"
    use_python all
    zoo_folder train_standalone
    [[ ${RESUME:-} == 1 ]] && resume=(--resume)
    zoo_run log.txt train "$CONFIG" --backend "$BACKEND" --device "$DEVICE" --work-dir "$FOLDER/run" "${resume[@]}"
}

zoo_eval() {
    local target=$1 checkpoint
    shift
    [[ $# -eq 3 ]] || zoo_usage 'DEVICE_ID CONFIG CHECKPOINT'
    zoo_settings "$target" "$1" "$2"
    [[ -f $3 ]] || die "CHECKPOINT $3: no such file"
    checkpoint=$(absolute "$3")
    use_python all
    RESUME='' zoo_folder "evaluation_${target,,}"
    zoo_run eval.log eval "$CONFIG" --checkpoint "$checkpoint" --backend "$BACKEND" --device "$DEVICE" \
        --json "$FOLDER/result.json"
}
