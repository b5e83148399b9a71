# Copyright (c) The nl_plugins authors. All rights reserved.
"""Lists of files that begin with a byte order mark lose their first file.

``mmengine.list_from_file`` keeps the mark as part of the first name, and its error for
another encoding does not name the list.
"""

import re

from .imports import is_installed
from .repair import Repair, replace


def read_list(path: str, backend_args: dict | None = None) -> str:
    """Text of a list in UTF-8, with or without a byte order mark.

    Raises:
        ValueError: It cannot be read, is in another encoding or holds NUL bytes.
    """
    from mmengine.fileio import get

    try:
        return decode(get(path, backend_args=backend_args), path)
    except OSError as error:
        raise ValueError(
            f'the list {path} cannot be read ({error.strerror or error}): check '
            'data_root and ann_file'
        ) from error


def decode(content: bytes, path: str) -> str:
    """The text of a list's bytes, as :func:`read_list`."""
    try:
        text = content.decode('utf-8-sig')
    except UnicodeDecodeError as error:
        raise ValueError(
            f'the list {path} is not UTF-8 ({error}): convert it, for example with '
            'iconv -t UTF-8'
        ) from error
    if '\0' in text:
        raise ValueError(
            f'the list {path} holds NUL bytes: it is no text, or UTF-16 without its '
            'mark; convert it to UTF-8'
        )
    return text


def leaves(path: str) -> bool:
    """Whether an entry of a list may lead out of the folder that it is joined to."""
    parts = re.split(r'[/\\]', path)
    return path.startswith(('/', '\\')) or '..' in parts or ':' in parts[0]


def _without_mark(original):
    def get_text(filepath, encoding: str = 'utf-8', *args, **kwargs):
        if encoding.lower() != 'utf-8':
            return original(filepath, encoding, *args, **kwargs)
        # latin-1 is one character for each byte of any file.
        text = original(filepath, 'latin-1', *args, **kwargs)
        return decode(text.encode('latin-1'), filepath)

    return get_text


def needed() -> bool:
    return is_installed('mmengine')


def apply(module) -> None:
    # Whoever has imported list_from_file before finds it there too.
    replace(module, 'get_text', _without_mark)


REPAIR = Repair(
    name='text_lists',
    symptom='lists with a byte order mark lose their first entry',
    remedy='the mark is skipped, and errors of the encoding name the list',
    upstream='mmengine/fileio/parse.py',
    needed=needed,
    apply=apply,
    modules=('mmengine.fileio.parse',),
)
