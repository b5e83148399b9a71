#!/usr/bin/env bash
# Sourced by dist_*.sh and slurm_*.sh: starts a script of this folder in several
# processes that find nl_plugins.

TOOLS="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
export PYTHONPATH="$TOOLS/..${PYTHONPATH:+:$PYTHONPATH}"

# run_distributed PROCESSES SCRIPT ARGUMENTS: on this machine of NNODES.
run_distributed() {
    exec "${PYTHON:-python}" "$TOOLS/distributed_run.py" \
        --nnodes "${NNODES:-1}" \
        --node_rank "${NODE_RANK:-0}" \
        --master_addr "${MASTER_ADDR:-127.0.0.1}" \
        --master_port "${PORT:-29500}" \
        --nproc_per_node "$1" \
        "$TOOLS/$2" "${@:3}" --launcher pytorch
}

# run_slurm PARTITION JOB_NAME SCRIPT ARGUMENTS
run_slurm() {
    local gpus_per_node="${GPUS_PER_NODE:-8}" resources=()
    if [ "$gpus_per_node" -gt 0 ]; then
        resources=("--gres=gpu:$gpus_per_node" "--ntasks-per-node=$gpus_per_node")
    fi
    # SRUN_ARGS holds several words on purpose.
    # shellcheck disable=SC2086
    exec srun --partition "$1" --job-name "$2" --ntasks "${GPUS:-8}" \
        --cpus-per-task "${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 \
        ${resources[@]+"${resources[@]}"} ${SRUN_ARGS:-} \
        "${PYTHON:-python}" -u "$TOOLS/$3" "${@:4}" --launcher slurm
}
