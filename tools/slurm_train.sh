#!/usr/bin/env bash
# Train under Slurm: slurm_train.sh PARTITION JOB_NAME CONFIG [flags of train.py]
# GPUS (8), GPUS_PER_NODE (8; 0 on nodes without any), CPUS_PER_TASK (5) and
# SRUN_ARGS are read from the environment.
set -euo pipefail

if [ $# -lt 3 ]; then
    echo "usage: $0 PARTITION JOB_NAME CONFIG [flags of train.py]" >&2
    exit 2
fi
TOOLS="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
export PYTHONPATH="$TOOLS/..${PYTHONPATH:+:$PYTHONPATH}"
GPUS="${GPUS:-8}"
GPUS_PER_NODE="${GPUS_PER_NODE:-8}"
RESOURCES=()
if [ "$GPUS_PER_NODE" -gt 0 ]; then
    RESOURCES=("--gres=gpu:$GPUS_PER_NODE" "--ntasks-per-node=$GPUS_PER_NODE")
fi

# SRUN_ARGS holds several words on purpose.
# shellcheck disable=SC2086
exec srun --partition "$1" --job-name "$2" --ntasks "$GPUS" \
    --cpus-per-task "${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 \
    ${RESOURCES[@]+"${RESOURCES[@]}"} ${SRUN_ARGS:-} \
    "${PYTHON:-python}" -u "$TOOLS/train.py" "$3" --launcher slurm "${@:4}"
