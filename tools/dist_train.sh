#!/usr/bin/env bash
# Train in several processes: dist_train.sh CONFIG GPUS [flags of train.py]
# Several machines: set NNODES, NODE_RANK, MASTER_ADDR and PORT on each.
# Without a GPU, GPUS counts processes and they talk through gloo.
set -euo pipefail

if [ $# -lt 2 ]; then
    echo "usage: $0 CONFIG GPUS [flags of train.py]" >&2
    exit 2
fi
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
run_distributed "$2" train.py "$1" "${@:3}"
