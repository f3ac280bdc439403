# shellcheck shell=bash
# What the scripts share. Sourced, never run: sets ROOT and, through use_python, PYTHON.

ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
RECIPES=$ROOT/common/configs
SHIPPED=$ROOT/common/weights/shipped

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
    export PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH} # this checkout's twinseg, from any folder
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
    "$PYTHON" -m twinseg "$@"
}

# --- the model zoo's interface: run_{standalone_train,eval}_{gpu,ascend}.sh -------------------------------------------

# Each zoo_* takes the script's own target (GPU or Ascend) and then the user's arguments.

zoo_usage() { # the arguments expected
    say "usage: bash scripts/${0##*/} $1"
    say "  BACKEND=pytorch|mindspore chooses the backend, DEVICE_TARGET=CPU runs on the host"
    exit 2
}

zoo_settings() { # target, config, device id if there is one: sets BACKEND, DEVICE and CONFIG
    local target=${DEVICE_TARGET:-$1} default=pytorch
    [[ $1 == Ascend ]] && default=mindspore
    BACKEND=${BACKEND:-$default}
    [[ $BACKEND == pytorch || $BACKEND == mindspore ]] || die "BACKEND=$BACKEND: expected pytorch or mindspore"
    case $target in
        CPU | GPU | Ascend) DEVICE=${target,,} ;;
        *) die "DEVICE_TARGET=$target: expected CPU, GPU or Ascend" ;;
    esac
    [[ ${3:-0} =~ ^[0-9]+$ ]] || die "DEVICE_ID $3: expected a number such as 0"
    CONFIG=$2
    if [[ -f $CONFIG ]]; then
        CONFIG=$(absolute "$CONFIG")
    elif ! is_recipe "${CONFIG%.yaml}"; then
        die "CONFIG $CONFIG: neither a file nor a recipe; \`twinseg list --configs\` names the recipes"
    fi
    [[ $DEVICE != ascend || -n ${ASCEND_HOME_PATH:-} ]] ||
        say "hint: ASCEND_HOME_PATH is not set; source the set_env.sh of your CANN toolkit first"
}

zoo_one_device() { # device id, among those that are visible here: the process sees this device alone, as its number 0
    export DEVICE_ID=0 RANK_ID=0 DEVICE_NUM=1 RANK_SIZE=1
    case $DEVICE in
        gpu) zoo_one_visible CUDA_VISIBLE_DEVICES "$1" ;;
        ascend) zoo_one_visible ASCEND_RT_VISIBLE_DEVICES "$1" ;;
    esac
}

zoo_one_visible() { # variable, number: exports the variable with the device of that number, of all where it is not set
    local visible count
    if [[ -z ${!1+set} ]]; then
        export "$1=$2"
        return
    fi
    IFS=, read -ra visible <<< "${!1}"
    count=${#visible[@]}
    [[ $2 -lt $count ]] || die "DEVICE_ID $2: $1=${!1} shows $count devices, whose numbers here begin with 0"
    export "$1=${visible[$2]}"
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
    zoo_own_folder "$1" && return
    FOLDER=$PWD/$1
    if [[ ${RESUME:-} == 1 ]] && ! zoo_is_requeued; then
        [[ -d $FOLDER ]] || die "RESUME=1: there is no $FOLDER to continue in"
        while [[ -d $PWD/$1_$((number + 1)) ]]; do
            number=$((number + 1))
            FOLDER=$PWD/$1_$number
        done
    else
        until mkdir -- "$FOLDER" 2> /dev/null; do
            [[ -e $FOLDER ]] || die "$PWD is not writable"
            number=$((number + 1))
            FOLDER=$PWD/$1_$number
        done
    fi
    zoo_mark "$FOLDER"
}

zoo_shared_folder() { # name: sets FOLDER to the one that all hosts of a run use, of a Slurm job its own
    local runs=()
    zoo_own_folder "$1" && return
    FOLDER=$PWD/$1${SLURM_JOB_ID:+_job$SLURM_JOB_ID}
    if [[ ${RESUME:-} == 1 && -n ${SLURM_JOB_ID:-} && ! -d $FOLDER ]] && ! zoo_is_requeued; then
        for FOLDER in "$PWD/$1" "$PWD/$1"_job*; do
            [[ ! -d $FOLDER ]] || runs+=("$FOLDER")
        done
        [[ ${#runs[@]} -eq 1 ]] || die "RESUME=1: expected one folder $PWD/$1* to continue in, there are ${#runs[@]}"
        FOLDER=${runs[0]}
    fi
    mkdir -p -- "$FOLDER" || die "$PWD is not writable"
    zoo_mark "$FOLDER"
}

zoo_is_requeued() { # whether Slurm has started this job again
    [[ -n ${SLURM_JOB_ID:-} && ${SLURM_RESTART_COUNT:-0} -gt 0 ]]
}

zoo_own_folder() { # name: for a job that goes on sets FOLDER to the one that it began in; fails where there is none
    local mark
    [[ ${RESUME:-} == 1 ]] && zoo_is_requeued || return 1
    for mark in "$PWD/$1/.slurm_job" "$PWD/$1"_*/.slurm_job; do
        if [[ -f $mark && $(< "$mark") == "$SLURM_JOB_ID" ]]; then
            FOLDER=${mark%/.slurm_job}
            return
        fi
    done
    return 1
}

zoo_mark() { # folder: it is this Slurm job's
    [[ -z ${SLURM_JOB_ID:-} ]] || printf '%s\n' "$SLURM_JOB_ID" > "$1/.slurm_job" || die "$1 is not writable"
}

zoo_log() { # log name: all output from here on goes to it, too; env.log beside it holds the environment
    local log=$FOLDER/$1
    {
        printf 'date=%s\nbackend=%s\ndevice_target=%s\n' "$(date -u +%FT%TZ)" "$BACKEND" "$DEVICE"
        env | grep -E '^(ASCEND|BACKEND|CUDA|DEVICE|GLOG|HCCL|MS_|NCCL|OMP_|ONEDNN|PYTHON|RANK|TORCH|TWINSEG)[A-Z_]*=' | sort
        "$PYTHON" -c 'import importlib.metadata as m, re
for d in m.distributions():
    if re.fullmatch("mindspore|numpy|onnx|onnxruntime|torch|torch.npu", d.name or ""): print(d.name, d.version, sep="==")'
    } > "$FOLDER/env.log"
    say "logs: $log"
    exec > >(exec tee -i -a -- "$log") 2>&1
}

zoo_run() { # log name, arguments of twinseg: in the foreground, ends with its status
    zoo_log "$1"
    exec "$PYTHON" -m twinseg "${@:2}"
}

zoo_train() {
    local target=$1 resume=()
    shift
    [[ $# -eq 2 ]] || zoo_usage 'DEVICE_ID CONFIG'
    zoo_settings "$target" "$2" "$1"
    zoo_one_device "$1"
    use_python all
    zoo_folder train_standalone
    [[ ${RESUME:-} == 1 ]] && resume=(--resume)
    zoo_run log.txt train "$CONFIG" --backend "$BACKEND" --device "$DEVICE" --work-dir "$FOLDER/run" "${resume[@]}"
}

zoo_eval() {
    local target=$1 checkpoint
    shift
    [[ $# -eq 3 ]] || zoo_usage 'DEVICE_ID CONFIG CHECKPOINT'
    zoo_settings "$target" "$2" "$1"
    zoo_one_device "$1"
    if [[ -f $3 ]]; then
        checkpoint=$(absolute "$3")
    elif [[ $3 != */* && -f $SHIPPED/${3%.safetensors}.safetensors ]]; then
        checkpoint=$3 # a name
    else
        die "CHECKPOINT $3: no such file, and no name of a checkpoint that ships"
    fi
    use_python all
    RESUME='' zoo_folder "evaluation_${target,,}"
    zoo_run eval.log eval "$CONFIG" --checkpoint "$checkpoint" --backend "$BACKEND" --device "$DEVICE" \
        --json "$FOLDER/result.json"
}

# --- several processes: run_distribute_train_{gpu,ascend}.sh ----------------------------------------------------------

zoo_distribute() { # target, then CONFIG or, for Ascend, RANK_TABLE_FILE CONFIG
    local target=$1 table='' expected=CONFIG status=0 resume=()
    shift
    [[ $target == Ascend ]] && expected='RANK_TABLE_FILE CONFIG'
    local words=1
    [[ $target == Ascend ]] && words=2
    if [[ $# -eq $((words + 1)) && ${!#} =~ ^[0-9]+$ ]]; then # as mmsegmentation's dist_train.sh has it: CONFIG GPUS
        DEVICE_NUM=${!#}
        set -- "${@:1:words}"
    fi
    [[ $# -eq $words ]] || zoo_usage "$expected [DEVICE_NUM]"
    if [[ $target == Ascend ]]; then
        [[ -f $1 ]] || die "RANK_TABLE_FILE $1: no such file; \`twinseg ranks\` writes one"
        table=$(realpath -- "$1") # PyTorch takes no link
        shift
    fi
    zoo_settings "$target" "$1"
    zoo_hosts
    use_python all
    zoo_devices "$table"
    if [[ $NNODES -gt 1 ]]; then # all hosts use one shared folder
        zoo_shared_folder train_parallel_nodes
        RUN=$FOLDER/run FOLDER=$FOLDER/node_$NODE_RANK
        mkdir -p -- "$FOLDER" || die "$PWD is not writable"
    else
        zoo_folder train_parallel
        RUN=$FOLDER/run
    fi
    RANKS=$FOLDER/ranks_$(date -u +%Y%m%dT%H%M%S)
    [[ ${RESUME:-} == 1 ]] && resume=(--resume)
    zoo_log log.txt
    say "$NNODES x $DEVICE_NUM processes; logs of the ranks: $RANKS"
    zoo_launch train "$CONFIG" --backend "$BACKEND" --device "$DEVICE" --work-dir "$RUN" "${resume[@]}" || status=$?
    [[ $status -eq 0 ]] || zoo_failure "$status"
}

zoo_hosts() { # checks NNODES, NODE_RANK, MASTER_ADDR and MASTER_PORT, and sets what is not given
    local name
    NNODES=${NNODES:-1} NODE_RANK=${NODE_RANK:-0}
    for name in NNODES NODE_RANK; do
        [[ ${!name} =~ ^[0-9]+$ ]] || die "$name=${!name}: expected a number"
    done
    [[ $NNODES -ge 1 ]] || die "NNODES=$NNODES: expected 1 or more hosts"
    [[ $NODE_RANK -lt $NNODES ]] || die "NODE_RANK=$NODE_RANK: with NNODES=$NNODES expected 0 to $((NNODES - 1))"
    [[ $NNODES -eq 1 || -n ${MASTER_ADDR:-} ]] || die "NNODES=$NNODES: set MASTER_ADDR to the address of the host with NODE_RANK=0"
    if [[ -z ${MASTER_PORT:-} ]]; then
        MASTER_PORT=8118
        while [[ $NNODES -eq 1 ]] && zoo_port_is_taken; do
            MASTER_PORT=$((20000 + RANDOM % 10000))
        done
    fi
    [[ $MASTER_PORT =~ ^[0-9]+$ && $MASTER_PORT -le 65535 ]] || die "MASTER_PORT=$MASTER_PORT: expected a port"
    if [[ $NODE_RANK -eq 0 ]] && zoo_port_is_taken; then
        die "MASTER_PORT=$MASTER_PORT is in use on this host; set it to a free port, the same for all hosts"
    fi
    [[ $NNODES -eq 1 || $DEVICE != cpu ]] || zoo_interface
}

zoo_port_is_taken() {
    (exec 3<> "/dev/tcp/127.0.0.1/$MASTER_PORT") 2> /dev/null
}

zoo_interface() { # sets the interface of gloo and MindSpore: by default they use the address of the host's name, which may be local
    local address interface # the interface by which this host reaches the first
    address=$(ip -o route get "$(getent ahosts "$MASTER_ADDR" | awk 'NR == 1 { print $1 }')" 2> /dev/null |
        sed -n 's/.* src \([^ ]*\).*/\1/p') || true
    interface=$(ip -o address show 2> /dev/null | awk -v address="$address" 'index($4, address "/") == 1 { print $2; exit }') || true
    [[ -z $interface ]] || export GLOO_SOCKET_IFNAME=${GLOO_SOCKET_IFNAME:-$interface} MS_WORKER_IP=${MS_WORKER_IP:-$address}
}

zoo_devices() { # rank table or nothing: sets DEVICE_NUM, the processes of this host
    local hosts mine
    if [[ -n $1 ]]; then
        hosts=$(twinseg ranks "$1") || exit
        [[ $(wc -l <<< "$hosts") -eq $NNODES ]] ||
            die "RANK_TABLE_FILE $1: lists $(wc -l <<< "$hosts") hosts, but NNODES=$NNODES"
        mine=$(sed -n "$((NODE_RANK + 1))p" <<< "$hosts")
        export RANK_TABLE_FILE=$1
        [[ $DEVICE != ascend ]] || zoo_table_is_visible "$1" "$mine"
        mine=${mine//[!,]/}
        [[ -z ${DEVICE_NUM:-} || $DEVICE_NUM == $((${#mine} + 1)) ]] ||
            die "DEVICE_NUM=$DEVICE_NUM: but the rank table lists $((${#mine} + 1)) devices for this host; leave it out"
        DEVICE_NUM=$((${#mine} + 1))
    elif [[ $DEVICE == gpu ]]; then
        zoo_gpus
    elif [[ -z ${DEVICE_NUM:-} ]]; then
        die "set DEVICE_NUM to the number of processes"
    fi
    [[ $DEVICE_NUM =~ ^[1-9][0-9]*$ ]] || die "DEVICE_NUM=$DEVICE_NUM: expected a number of processes"
}

zoo_table_is_visible() { # rank table, its devices for this host: they are visible, and become the only ones
    local device
    for device in ${ASCEND_RT_VISIBLE_DEVICES+${2//,/ }}; do
        [[ ,$ASCEND_RT_VISIBLE_DEVICES, == *,$device,* ]] ||
            die "RANK_TABLE_FILE $1: device $device is not among ASCEND_RT_VISIBLE_DEVICES=$ASCEND_RT_VISIBLE_DEVICES"
    done
    export ASCEND_RT_VISIBLE_DEVICES=$2
}

zoo_gpus() { # sets DEVICE_NUM, unless it is given, to the number of GPUs that a process sees here
    local listed visible=() mig='of MIG slices a process sees one, and NCCL joins none: run_standalone_train_gpu.sh trains on one'
    if [[ -n ${CUDA_VISIBLE_DEVICES+set} ]]; then
        IFS=, read -ra visible <<< "$CUDA_VISIBLE_DEVICES"
        [[ ${#visible[@]} -gt 0 ]] || die "CUDA_VISIBLE_DEVICES is empty, which hides all GPUs; leave it out, or name them"
        [[ ${#visible[@]} -eq 1 || $CUDA_VISIBLE_DEVICES != *MIG-* ]] || die "CUDA_VISIBLE_DEVICES=$CUDA_VISIBLE_DEVICES: $mig"
        [[ -z ${DEVICE_NUM:-} || ! $DEVICE_NUM =~ ^[0-9]+$ || $DEVICE_NUM -le ${#visible[@]} ]] ||
            die "DEVICE_NUM=$DEVICE_NUM: but CUDA_VISIBLE_DEVICES=$CUDA_VISIBLE_DEVICES shows ${#visible[@]} GPUs"
        DEVICE_NUM=${DEVICE_NUM:-${#visible[@]}}
    elif [[ -z ${DEVICE_NUM:-} ]]; then
        listed=$(nvidia-smi --list-gpus 2>&1) || # where the driver is broken it says so on stdout
            die "nvidia-smi: $(head -n 1 <<< "$listed"); set DEVICE_NUM, or DEVICE_TARGET=CPU to run on the host"
        [[ $listed != *MIG-* ]] || die "$mig; its name, MIG-..., goes into CUDA_VISIBLE_DEVICES"
        DEVICE_NUM=$(grep -c '^GPU [0-9]' <<< "$listed") ||
            die "nvidia-smi lists no GPU; set DEVICE_NUM, or DEVICE_TARGET=CPU to run on the host"
    fi
}

zoo_launch() { # arguments of twinseg: runs them in all processes of this host, and passes SIGTERM, SIGINT and SIGHUP on to each
    local launcher pid status=0
    unset RANK_ID RANK_SIZE DEVICE_ID
    export LOCAL_WORLD_SIZE=$DEVICE_NUM PIN_CORES=${PIN_CORES:-$([[ $DEVICE == ascend ]] && echo 1 || echo 0)}
    if [[ $BACKEND == pytorch ]]; then
        launcher=("$PYTHON" -m torch.distributed.run --nnodes "$NNODES" --nproc-per-node "$DEVICE_NUM" --node-rank "$NODE_RANK"
            --master-addr "${MASTER_ADDR:-127.0.0.1}" --master-port "$MASTER_PORT" --log-dir "$RANKS" --redirects 3 --tee 3
            --local-ranks-filter 0 -m twinseg)
    else
        PATH=$(dirname -- "$PYTHON"):$PATH # msrun starts the first python there
        launcher=("$PYTHON" -m mindspore.parallel.cluster.run --worker_num $((NNODES * DEVICE_NUM)) --local_worker_num
            "$DEVICE_NUM" --node_rank "$NODE_RANK" --master_addr "${MASTER_ADDR:-127.0.0.1}" --master_port "$MASTER_PORT"
            --log_dir "$RANKS" --join True --tail_worker_log 0 --cluster_time_out 600)
        [[ -z ${RANK_TABLE_FILE:-} ]] || launcher+=(--rank_table_file "$RANK_TABLE_FILE")
        launcher+=(python -m twinseg)
        mkdir -p -- "$RANKS"
    fi
    # A session of its own: Ctrl-C reaches this script alone, which tells the processes, not the launcher that would kill them.
    setsid "${launcher[@]}" "$@" < /dev/null &
    pid=$!
    trap 'pkill -TERM -P "$pid" || kill -TERM "$pid"' TERM
    trap 'pkill -INT -P "$pid" || kill -TERM "$pid"' INT
    trap 'pkill -HUP -P "$pid" || kill -TERM "$pid"' HUP # of no effect below nohup, as in bash
    while kill -0 "$pid" 2> /dev/null; do # a signal ends wait, not the launcher
        wait "$pid" || true
    done
    wait "$pid" || status=$?
    return "$status"
}

zoo_failure() { # status of the launcher: how the rank that failed first ended comes last; ends with that rank's status
    local log lines first_failure='' rank='' code=''
    lines=$(grep -rhoE 'twinseg: stopped by SIG(TERM|INT|HUP) .*' -- "$RANKS" 2> /dev/null | tail -n 1) || true
    if [[ -n $lines ]]; then
        say "$lines"
        [[ $lines == *SIGINT* ]] && exit 130
        [[ $lines == *SIGHUP* ]] && exit 129
        exit 75
    fi
    for _ in 1 2 3 4 5; do # the log is still being written
        first_failure=$(zoo_first_to_fail)
        [[ -z $first_failure ]] || break
        sleep 0.1
    done
    read -r rank code <<< "$first_failure" || true
    if [[ $code == -6 && $DEVICE != cpu ]]; then # SIGABRT
        lines=$(zoo_unaware_ranks)
        say "twinseg: error: rank $rank was ended by SIGABRT: the watchdog of NCCL or HCCL does that when a collective fails, or is not" \
            "done after collective_timeout, since another rank has ended or hangs${lines:+, here rank $lines}. Logs: $RANKS. RESUME=1 continues"
        exit "$1"
    fi
    if [[ $code == -* ]]; then
        say "twinseg: error: rank $rank was ended by SIG$(kill -l "${code#-}"); the kernel does that when memory runs out (see dmesg)." \
            "Logs: $RANKS. RESUME=1 continues"
        exit "$1"
    fi
    while IFS= read -r log; do # the oldest: the others fail because of it
        lines=$(grep -E 'twinseg: error:|^[A-Za-z.]*(Error|Exception): ' -- "$log" | tail -n 1) || continue
        say "the first error is in $log"
        say "$lines"
        break
    done < <(find "$RANKS" -name '*.log' -printf '%T@ %p\n' 2> /dev/null | sort -n | cut -d ' ' -f 2-)
    exit "${code:-$1}"
}

zoo_unaware_ranks() { # the ranks of this host whose watchdog saw no collective run out of time, if others did
    local rank aware unaware=()
    aware=$(grep -rhoE 'Rank [0-9]+\] Watchdog caught collective operation timeout' -- "$RANKS" 2> /dev/null | sort -u) || return 0
    for ((rank = NODE_RANK * DEVICE_NUM; rank < (NODE_RANK + 1) * DEVICE_NUM; rank++)); do
        grep -q "^Rank $rank\]" <<< "$aware" || unaware+=("$rank")
    done
    printf '%s\n' "${unaware[*]}"
}

zoo_first_to_fail() { # rank and status, -N for signal N, as the launcher reported last; nothing where it did not
    local line
    line=$(grep -A 5 'Root Cause (first observed failure)' -- "$FOLDER/log.txt" | tail -n 5 | tr -s ' \n' ' ') || true # torchrun
    if [[ $line =~ rank\ :\ ([0-9]+).*exitcode\ :\ (-?[0-9]+) ]]; then
        printf '%s %s\n' "${BASH_REMATCH[1]}" "${BASH_REMATCH[2]}"
        return
    fi
    line=$(grep -E 'Worker process [0-9]+ exit with exception' -- "$FOLDER/log.txt" | tail -n 1) || true # msrun
    if [[ $line =~ process\ ([0-9]+)\ exit.*code:\ (-?[0-9]+) ]]; then
        line=$(grep -rhE "^rank [0-9]+ of [0-9]+: process ${BASH_REMATCH[1]} " -- "$RANKS" | tail -n 1) || true
        line=${line#rank }
        printf '%s %s\n' "${line%% *}" "${BASH_REMATCH[2]}"
    fi
}
