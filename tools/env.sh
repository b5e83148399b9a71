#!/usr/bin/env bash
# Source it, then `ensure_env EXTRAS`: leaves in $PYTHON the interpreter of an
# environment that holds nl_plugins with those extras (comma separated).
#
# The environment is .venv in the repository's root, or $NL_PLUGINS_VENV. It is
# made with $PYTHON, else the first of python3.11, python3.12, python3 that
# works. Nothing is installed again while setup.cfg and the constraints stay.

NL_PLUGINS_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

_find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3.11 python3.12 python3; do
        if "$candidate" -c 'import sys, venv, ensurepip
sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
            echo "$candidate"
            return 0
        fi
    done
    echo "No Python from 3.10 to 3.13 with the venv module was found: install" \
        "python3.11 and python3.11-venv, or set PYTHON to an interpreter." >&2
    return 1
}

ensure_env() {
    local root="$NL_PLUGINS_ROOT" extras="$1"
    local constraints="$root/requirements/constraints-modern.txt"
    local venv="${NL_PLUGINS_VENV:-$root/.venv}"
    local stamp="$venv/nl_plugins.stamp"
    local python="$venv/bin/python" state have extra missing=0

    if [ ! -x "$python" ]; then
        local base
        base="$(_find_python)" || return 1
        echo "Making $venv with $("$base" --version)"
        "$base" -m venv "$venv" || return 1
    fi
    state="$(cat "$root/setup.cfg" "$constraints" "$root/tools/env.sh" | cksum)"
    have=""
    if [ -f "$stamp" ] && [ "$(head -n 1 "$stamp")" = "$state $root" ]; then
        have="$(sed -n 2p "$stamp")"
    fi
    for extra in ${extras//,/ }; do
        case ",$have," in
            *",$extra,"*) ;;
            *) missing=1; have="${have:+$have,}$extra" ;;
        esac
    done
    if [ "$missing" = 1 ]; then
        echo "Installing nl_plugins[$have] into $venv (minutes, up to 7 GB)"
        rm -f "$stamp"
        "$python" -m pip install --disable-pip-version-check --progress-bar off \
            -c "$constraints" "setuptools<82" wheel || return 1
        "$python" -m pip install --disable-pip-version-check --progress-bar off \
            -c "$constraints" -e "$root[$have]" || return 1
        # The codebases ask for OpenCV builds that need the system's libGL.
        # Where it is missing the headless build takes over, installed last.
        if ! "$python" -c 'import cv2' 2>/dev/null; then
            "$python" -m pip install --disable-pip-version-check -c "$constraints" \
                --force-reinstall --no-deps opencv-python-headless || return 1
            "$python" -c 'import cv2' || return 1
        fi
        printf '%s\n%s\n' "$state $root" "$have" > "$stamp"
    fi
    PYTHON="$python"
    export PYTHON
}
