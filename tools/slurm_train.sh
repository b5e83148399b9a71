#!/usr/bin/env bash
# Train under Slurm: slurm_train.sh PARTITION JOB_NAME CONFIG [flags of train.py]
# GPUS (8), GPUS_PER_NODE (8; 0 on nodes without any), CPUS_PER_TASK (5) and
# SRUN_ARGS are read from the environment.
set -euo pipefail

if [ $# -lt 3 ]; then
    echo "usage: $0 PARTITION JOB_NAME CONFIG [flags of train.py]" >&2
    exit 2
fi
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
run_slurm "$1" "$2" train.py "${@:3}"
