#!/usr/bin/env bash
# From a fresh clone to trained and tested networks of all three codebases:
# makes the environment when there is none, then the mini data, then runs
#   bash tools/quickstart.sh [--task NAME] [--help]
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
for argument in "$@"; do
    case "$argument" in
        -h | --help)
            # The driver needs nothing but Python to explain itself.
            exec "${PYTHON:-python3}" "$here/quickstart.py" --help
            ;;
    esac
done

source "$here/env.sh"
if ! ensure_env all; then
    echo "quickstart: step 'environment' failed; the messages above say why." \
        "What was installed stays, run the same command again." >&2
    exit 1
fi
cd "$NL_PLUGINS_ROOT"
exec "$PYTHON" tools/quickstart.py "$@"
