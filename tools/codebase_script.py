# Copyright (c) The nl_plugins authors. All rights reserved.
"""Run a codebase's own train.py or test.py on a config that uses nl_plugins."""

import os
import sys
import traceback
from pathlib import Path

_CONFIG_SUFFIXES = ('.py', '.json', '.yaml', '.yml')

_USAGE = """usage: {name} CONFIG {rest}[flags]

Runs {name} of the codebase that CONFIG names in default_scope, with its flags.
`{name} CONFIG --help` lists them. --debug ends every error with its traceback."""


def _import_nl_plugins() -> None:
    # From the checkout, or the wheel, that this file belongs to; processes
    # started later find it too.
    for folder in Path(__file__).resolve().parents:
        if (folder / 'nl_plugins' / '__init__.py').is_file():
            sys.path.insert(0, str(folder))
            inherited = os.environ.get('PYTHONPATH')
            paths = [str(folder), *([inherited] if inherited else [])]
            os.environ['PYTHONPATH'] = os.pathsep.join(paths)
            break
    import nl_plugins  # noqa: F401 - the repairs come before everything else


def _scope(config: Path) -> str:
    from mmengine.config import Config

    from nl_plugins.codebases import CODEBASES, require
    from nl_plugins.compat import folder_of

    known = ', '.join(sorted(CODEBASES))
    # The codebase's script reads the config again and does its custom imports.
    scope = Config.fromfile(config, import_custom_modules=False).get('default_scope')
    if not scope:
        raise ValueError(f'{config} sets no default_scope; choose one of {known}')
    if scope in CODEBASES:
        require(scope)
    elif folder_of(scope) is None:
        raise ValueError(
            f"the default_scope '{scope}' of {config} is unknown: it is neither one "
            f'of {known} nor the name of an installed package'
        )
    return scope


def _is_ours(error: Exception) -> bool:
    """Whether nl_plugins raised it, whose sentences need no traceback."""
    import nl_plugins

    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return Path(frame.f_code.co_filename).is_relative_to(
        Path(nl_plugins.__file__).parent
    )


def main(name: str) -> None:
    """Hand the command line over to the codebase's script.

    Args:
        name (str): ``'train.py'`` or ``'test.py'``.
    """
    debug = '--debug' in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != '--debug']
    arguments = sys.argv[1:]
    configs = [
        index
        for index, argument in enumerate(arguments)
        if argument.endswith(_CONFIG_SUFFIXES) and not argument.startswith('-')
    ]
    if not configs:
        rest = 'CHECKPOINT ' if name == 'test.py' else ''
        usage = _USAGE.format(name=name, rest=rest)
        if {'-h', '--help'} & set(arguments):
            print(usage)
            return
        sys.exit(f'{usage}\n\n{name}: no CONFIG (a .py, .json or .yaml file) given')
    config = Path(arguments[configs[0]])
    if not config.is_file():
        sys.exit(f'{name}: the config {config} does not exist')
    if name == 'test.py':
        following = arguments[configs[0] + 1 : configs[0] + 2]
        for checkpoint in following:
            is_local = not checkpoint.startswith('-') and '://' not in checkpoint
            if is_local and not Path(checkpoint).is_file():
                sys.exit(f'{name}: the checkpoint {checkpoint} does not exist')
    try:
        _import_nl_plugins()
        from nl_plugins.run import find_script, start

        script = find_script(_scope(config), name)
    except (ImportError, ValueError) as error:
        sys.exit(f'{name}: {error}')
    try:
        start(script)
    except (OSError, ValueError) as error:
        if debug or not _is_ours(error):
            raise
        sys.exit(f'{name}: {" ".join(str(error).split())}')
