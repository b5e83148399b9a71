# Copyright (c) The nl_plugins authors. All rights reserved.
"""How a command of ours ends."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

HELP = 'end an error with its traceback'


def add_debug(parser: argparse.ArgumentParser) -> None:
    """Add the flag that :func:`run` looks for."""
    parser.add_argument('--debug', action='store_true', help=HELP)


def run(main: Callable[[], int | None], *, debug: bool | None = None) -> int | None:
    """Call ``main``; an error of a file or an option ends in one sentence, status 1.

    Args:
        main (Callable): Takes nothing.
        debug (bool, optional): Let the error end in its traceback. Defaults to None,
            whether the command line has ``--debug``.
    """
    debug = '--debug' in sys.argv[1:] if debug is None else debug
    try:
        return main()
    except (ImportError, OSError, ValueError) as error:
        if debug:
            raise
        sys.exit(f'{Path(sys.argv[0]).name}: {" ".join(str(error).split())}')
