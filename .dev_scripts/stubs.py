# Copyright (c) The nl_plugins authors. All rights reserved.
"""Stubs by which editors complete what the package imports when first used.

python .dev_scripts/stubs.py --write    # after a new public name or option
python .dev_scripts/stubs.py --check    # what CI runs
"""

from __future__ import annotations

import argparse
import inspect
import subprocess
import sys
import types
import typing
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import nl_plugins  # noqa: E402
from nl_plugins.blocks import BLOCKS, NonLocalBlock  # noqa: E402
from nl_plugins.options import annotations, plain  # noqa: E402

HEAD = """# Copyright (c) The nl_plugins authors. All rights reserved.
# Made by .dev_scripts/stubs.py --write
"""


def written(annotation) -> str:
    """A resolved annotation as source."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is type(None):
        return 'None'
    if origin is typing.Literal:
        return f'Literal[{", ".join(map(repr, args))}]'
    if origin in (typing.Union, types.UnionType):
        return ' | '.join(map(written, args))
    if origin is not None:
        return f'{origin.__name__}[{", ".join(map(written, args))}]'
    return annotation.__name__


def block_stub(block: type) -> str:
    """A block's class with all options that its constructor takes."""
    hints: dict = {}
    for base in block.__mro__:
        if issubclass(base, NonLocalBlock) and '__init__' in vars(base):
            hints = {**annotations(base.__init__), **hints}
    lines = []
    for name, parameter in inspect.signature(block).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY and '*,' not in lines:
            lines.append('*,')
        default = parameter.default
        end = ',' if default is parameter.empty else f' = {default!r},'
        lines.append(f'{name}: {written(plain(hints[name]))}{end}')
    body = ''.join(f'        {line}\n' for line in ['self,', *lines])
    base = block.__mro__[1]
    return (
        f'class {block.__name__}({base.__name__}):\n'
        f'    def __init__(\n{body}    ) -> None: ...\n'
    )


def blocks() -> str:
    """The stub of ``nl_plugins.blocks``."""
    bases = {block.__mro__[1] for block in BLOCKS.values()} - set(BLOCKS.values())
    imports = [
        f'from .{base.__module__.split(".")[-1]} import {base.__name__}\n'
        for base in {NonLocalBlock, *bases}
    ]
    return (
        f'{HEAD}\nfrom collections.abc import Sequence\nfrom typing import Literal\n\n'
        f'{"".join(sorted(imports))}\n'
        f'__all__ = {nl_plugins._public_names("blocks")}\n\n'
        'BLOCKS: dict[str, type[NonLocalBlock]]\n\n'
        + '\n'.join(block_stub(BLOCKS[name]) for name in sorted(BLOCKS))
    )


def package() -> str:
    """The stub of ``nl_plugins``: every name and the submodule that has it."""
    lines = [f'from . import {part} as {part}\n' for part in nl_plugins._SUBMODULES]
    names = ['__version__']
    for part in (*nl_plugins._SHARED, *nl_plugins._ADAPTERS):
        for name in nl_plugins._public_names(part):
            if len(nl_plugins._owners(name)) == 1:
                names.append(name)
                lines.append(f'from .{part} import {name}\n')
    lines.append('from .version import __version__\n')
    return f'{HEAD}\n{"".join(lines)}\n__all__ = {sorted(names)}\n'


def formatted(text: str, path: Path) -> str:
    command = [sys.executable, '-m', 'ruff', '--quiet']
    name = ['--stdin-filename', str(path), '-']
    for step in (['check', '--fix', '--select', 'I'], ['format']):
        text = subprocess.run(
            [*command, *step, *name],
            input=text,
            cwd=ROOT,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout
    return text


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument('--write', action='store_true', help='write the stubs')
    action.add_argument('--check', action='store_true', help='1 if one is out of date')
    args = parser.parse_args(arguments)
    folder = ROOT / 'nl_plugins'
    stubs = {
        folder / '__init__.pyi': package(),
        folder / 'blocks' / '__init__.pyi': blocks(),
    }
    outdated = 0
    for path, text in stubs.items():
        text = formatted(text, path)
        if path.is_file() and path.read_text(encoding='utf-8') == text:
            continue
        outdated += 1
        if args.write:
            path.write_text(text, encoding='utf-8')
        print(
            f'{path.relative_to(ROOT)} {"written" if args.write else "is out of date"}'
        )
    return 1 if args.check and outdated else 0


if __name__ == '__main__':
    sys.exit(main())
