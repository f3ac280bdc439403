#!/usr/bin/env bash
# Builds the site of docs/ into build/site, and fails at a broken link or a page without a way to it:
#   bash scripts/docs.sh            build/site/index.html
#   bash scripts/docs.sh serve      on this host, built again when a page changes
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
case ${1:-build} in
    build) arguments=(build --strict --quiet) ;;
    serve) arguments=(serve) ;;
    *) die "$1: expected build or serve" ;;
esac
[[ $# -le 1 ]] || die "takes one argument, build or serve"
use_python docs
cd -- "$ROOT"
NO_MKDOCS_2_WARNING=1 "$PYTHON" -m mkdocs "${arguments[@]}"
[[ ${arguments[0]} != build ]] || say "built $ROOT/build/site/index.html"
