#!/usr/bin/env bash
# Run the whole test suite in an environment that is made when there is none.
#   bash tools/run_tests.sh [pytest arguments]
# Ends with pytest's closing line and its exit status.
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
ensure_env all,tests
cd "$NL_PLUGINS_ROOT"
# Two processes of one thread finish sooner than one process of two.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" MKL_NUM_THREADS="${MKL_NUM_THREADS:-1}"
exec "$PYTHON" -m pytest -n 2 --dist worksteal "$@"
