# Copyright (c) The nl_plugins authors. All rights reserved.
"""Run a codebase's own script with the repairs at work.

``python -m nl_plugins.run CODEBASE SCRIPT [ARGUMENTS]`` starts any script that an
installed codebase brings along, such as ``browse_dataset`` or ``analyze_logs``;
without SCRIPT it lists them.
"""

import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

from .codebases import CODEBASES, install_command
from .compat import folder_of
from .options import did_you_mean

_USAGE = """usage: python -m nl_plugins.run CODEBASE [SCRIPT [ARGUMENTS]]

Runs a script of an installed codebase with the repairs of nl_plugins at work.

  CODEBASE   one of {codebases}
  SCRIPT     a name of the list that CODEBASE alone prints
  ARGUMENTS  what the script takes; --help explains them"""


def tools_of(package: str) -> Path:
    """Folder of the scripts that an installed codebase brings along.

    Raises:
        ValueError: The package is not installed, or brings none.
    """
    folder = folder_of(package)
    if folder is None:
        codebase = CODEBASES.get(package)
        remedy = f': {codebase.remedy}' if codebase else ''
        raise ValueError(f'{package} is not installed{remedy}')
    # In a wheel, and beside the package in a source checkout.
    for tools in (folder / '.mim' / 'tools', folder.parent / 'tools'):
        if tools.is_dir():
            return tools
    raise ValueError(f'{package} in {folder} has no scripts: install it again')


def list_scripts(package: str) -> list[str]:
    """Paths of a codebase's scripts in its folder of tools, without ``.py``."""
    tools = tools_of(package)
    return sorted(
        path.relative_to(tools).with_suffix('').as_posix()
        for path in tools.rglob('*.py')
        if "__name__ == '__main__'" in path.read_text(encoding='utf-8')
    )


def find_script(package: str, name: str) -> Path:
    """Path of a codebase's own script.

    Args:
        package (str): Import name of the codebase.
        name (str): Its path in the folder of tools or the end of it, with or without
            ``.py``: ``'train.py'``, ``'browse_dataset'``, ``'misc/print_config'``.

    Raises:
        ValueError: The package is no installed codebase, it has no such script, or
            several.
    """
    wanted = name.removesuffix('.py').removeprefix('./')
    exact = tools_of(package) / f'{wanted}.py'
    if exact.is_file():
        return exact
    scripts = list_scripts(package)
    found = [each for each in scripts if f'/{each}'.endswith(f'/{wanted}')]
    # The one in the fewest folders, if there is one.
    depth = min((each.count('/') for each in found), default=0)
    found = [each for each in found if each.count('/') == depth]
    if not found:
        names = [each.rsplit('/', 1)[-1] for each in scripts]
        raise ValueError(
            f'{package} in {tools_of(package)} has no script {wanted!r}'
            f'{did_you_mean(wanted, [*scripts, *names])}: '
            f'python -m nl_plugins.run {package} lists them'
        )
    if len(found) > 1:
        raise ValueError(
            f'{package} has {len(found)} scripts {wanted}: use one of {found}'
        )
    return tools_of(package) / f'{found[0]}.py'


def start(script: Path) -> None:
    """Hand the rest of the command line over to a script."""
    sys.argv[0] = str(script)
    sys.path.insert(0, str(script.parent))
    # Some import each other as `tools.analysis_tools...`.
    sys.path += [
        str(folder.parent) for folder in script.parents if folder.name == 'tools'
    ]
    try:
        runpy.run_path(str(script), run_name='__main__')
    except ModuleNotFoundError as error:
        missing = (error.name or '').split('.')[0]
        if not missing or find_spec(missing) is not None:
            raise
        sys.exit(
            f'{script.name} needs {missing}, which is not installed: '
            f'{install_command("vis")}, or pip install {missing}'
        )


def main() -> None:
    """Find the script that the command line names, and start it."""
    package, *rest = sys.argv[1:] or ['--help']
    if package in ('-h', '--help'):
        print(_USAGE.format(codebases=', '.join(CODEBASES)))
        return
    try:
        if package not in CODEBASES:
            near = did_you_mean(package, list(CODEBASES))
            raise ValueError(
                f'unknown codebase {package!r}{near}, choose from {list(CODEBASES)}'
            )
        if not rest or rest[0] in ('-h', '--help'):
            print('\n'.join(list_scripts(package)))
            return
        script = find_script(package, rest[0])
    except ValueError as error:
        sys.exit(f'nl_plugins.run: {error}')
    sys.argv[1:] = rest[1:]
    start(script)


if __name__ == '__main__':
    main()
