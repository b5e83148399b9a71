# Copyright (c) The nl_plugins authors. All rights reserved.
"""Many commands in processes of their own that share one start.

    python forks.py COMMANDS.json

Each command is a list of words, ``script.py ...`` or ``-m module ...``; the modules in
``preload`` are imported once, and a fork does the rest of each command.
"""

import importlib
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path


def run(commands, folder: Path, preload=(), **options) -> list[tuple[int, str, str]]:
    """Exit status, standard output and standard error of each command.

    Args:
        commands (Sequence[Sequence[str]]): The words after ``python``.
        folder (Path): Where the records go.
        preload (Sequence[str]): Modules that all of them share.
        **options: Of ``subprocess.run``.
    """
    plan = folder / 'commands.json'
    words = [[str(word) for word in command] for command in commands]
    plan.write_text(json.dumps(dict(commands=words, preload=list(preload))))
    subprocess.run([sys.executable, __file__, str(plan)], check=True, **options)
    return [
        (
            int((folder / f'{number}.status').read_text()),
            (folder / f'{number}.out').read_text(),
            (folder / f'{number}.err').read_text(),
        )
        for number in range(len(words))
    ]


def _execute(words: list[str]) -> int:
    try:
        if words[0] == '-m':
            sys.argv = words[1:]
            sys.path[0] = os.getcwd()
            runpy.run_module(words[1], run_name='__main__', alter_sys=True)
        else:
            sys.argv = words
            sys.path[0] = str(Path(words[0]).parent)
            runpy.run_path(words[0], run_name='__main__')
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
            return 1
        return stop.code or 0
    return 0


def _main(plan: Path) -> None:
    content = json.loads(plan.read_text())
    for name in content['preload']:
        importlib.import_module(name)
    for number, words in enumerate(content['commands']):
        child = os.fork()
        if child:
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            plan.with_name(f'{number}.status').write_text(str(status))
            continue
        for descriptor, suffix in ((1, 'out'), (2, 'err')):
            file = plan.with_name(f'{number}.{suffix}')
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), descriptor)
        status = 1
        try:
            status = _execute(words)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)


if __name__ == '__main__':
    _main(Path(sys.argv[1]).resolve())
