#!/usr/bin/env bash
# Builds out/main and an engine for each library found here: CANN (ASCEND_HOME_PATH, of its set_env.sh), MindSpore Lite
# (MS_LITE_HOME), OpenVINO (of the Python in PYTHON).
#
#   bash build.sh [--sanitize] [--out FOLDER] [-D...]
#
# --sanitize  with AddressSanitizer and UndefinedBehaviorSanitizer
# --out       the folder to build in (default: out/ beside this script)
# -D...       for CMake, such as -DWITH_OPENVINO=OFF
# shellcheck disable=SC2015  # `sh script` is dash on Debian, and bash without its extensions elsewhere
[ -n "${BASH_VERSION:-}" ] && ! shopt -qo posix || exec bash +o posix "$0" "$@"
set -euo pipefail

HERE=$(cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")" && pwd)

die() { # message: what is wrong and what to change
    printf 'build.sh: %s\n' "$*" >&2
    exit 2
}

out=$HERE/out
settings=(-DSANITIZE=OFF)
while (($#)); do
    case $1 in
        --sanitize) settings+=(-DSANITIZE=ON) ;;
        --out)
            [[ $# -ge 2 ]] || die '--out: no folder'
            out=$2
            shift
            ;;
        -D?*) settings+=("$1") ;;
        *) die "unknown argument $1; expected --sanitize, --out FOLDER or -D..." ;;
    esac
    shift
done

python=${PYTHON:-$HERE/../.venv/bin/python}
[[ -n ${PYTHON:-} || -x $python ]] || python=python3
python=$(command -v -- "$python") || die "PYTHON=${PYTHON:-python3} is no program"

cmake=$(command -v cmake || command -v -- "$(dirname -- "$python")/cmake") ||
    die 'cmake is missing: pip install cmake, or on Debian: apt-get install cmake'
command -v -- "${CXX:-c++}" > /dev/null || command -v g++ > /dev/null || command -v clang++ > /dev/null ||
    die 'there is no C++ compiler: on Debian, apt-get install g++'
command -v make > /dev/null || die 'make is missing: on Debian, apt-get install make'

openvino=$("$python" -c 'from importlib.util import find_spec
found = find_spec("openvino"); print(found.submodule_search_locations[0] if found else "")')
[[ -z $openvino ]] || settings+=("-DOpenVINO_DIR=$openvino/cmake")

mkdir -p -- "$out/build"
out=$(cd -- "$out" && pwd)
# What is found is searched anew each time: an environment may have been sourced since.
"$cmake" -S "$HERE" -B "$out/build" -G 'Unix Makefiles' -U 'ASCENDCL_*' -U 'MSLITE_*' -U 'WITH_*' -U 'OpenVINO_DIR' \
    -DCMAKE_RUNTIME_OUTPUT_DIRECTORY="$out" -DCMAKE_LIBRARY_OUTPUT_DIRECTORY="$out" "${settings[@]}"
rm -f -- "$out"/libengine_*.so
"$cmake" --build "$out/build" --parallel "$(nproc)"
printf 'built %s\n' "$out/main"
