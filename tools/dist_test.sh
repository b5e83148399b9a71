#!/usr/bin/env bash
# Test in several processes: dist_test.sh CONFIG CHECKPOINT GPUS [flags of test.py]
# Several machines: set NNODES, NODE_RANK, MASTER_ADDR and PORT on each.
# Without a GPU, GPUS counts processes and they talk through gloo.
set -euo pipefail

if [ $# -lt 3 ]; then
    echo "usage: $0 CONFIG CHECKPOINT GPUS [flags of test.py]" >&2
    exit 2
fi
TOOLS="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
export PYTHONPATH="$TOOLS/..${PYTHONPATH:+:$PYTHONPATH}"

exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes "${NNODES:-1}" \
    --node_rank "${NODE_RANK:-0}" \
    --master_addr "${MASTER_ADDR:-127.0.0.1}" \
    --master_port "${PORT:-29500}" \
    --nproc_per_node "$3" \
    "$TOOLS/test.py" "$1" "$2" --launcher pytorch "${@:4}"
