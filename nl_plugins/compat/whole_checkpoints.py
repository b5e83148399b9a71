# Copyright (c) The nl_plugins authors. All rights reserved.
"""A run that is killed while it writes a checkpoint cannot be resumed.

mmengine removes the old checkpoint first, then writes the new one in place, then
``last_checkpoint``. Killed in between, the old one is gone, the new one is half
written, and ``last_checkpoint`` names a file that is not there.

Here each file is written beside its place, flushed and renamed, and the old ones go
last, so that at every moment a whole checkpoint lies there and is found.
"""

import os
import re
import zipfile
from pathlib import Path

import torch

from ..files import open_whole, remove_unfinished
from .imports import is_installed
from .repair import Repair, replace

# What a run leaves that was told to end.
INTERRUPTED = 'interrupted.pth'
# Where the message hub of a run keeps what its newest checkpoint replaces.
_SUPERSEDED = 'superseded_ckpts'


class _WholeFiles:
    """A local file backend whose ``put`` writes whole files."""

    def __init__(self, backend) -> None:
        self._backend = backend

    def __getattr__(self, name: str):
        return getattr(self._backend, name)

    def put(self, obj: bytes, filepath: str | os.PathLike) -> None:
        Path(filepath).parent.mkdir(parents=True, exist_ok=True)
        with open_whole(filepath) as file:
            file.write(obj)


def _local_backends_write_whole(original):
    def get_file_backend(*args, **kwargs):
        backend = original(*args, **kwargs)
        is_local = type(backend).__name__ == 'LocalBackend'
        return _WholeFiles(backend) if is_local else backend

    return get_file_backend


class _RemovesLater:
    """A file backend that keeps in mind what it is told to remove.

    The list goes into the checkpoint that is saved meanwhile, so that a run that is
    resumed from it removes what a kill has left.
    """

    def __init__(self, backend, message_hub) -> None:
        self._backend = backend
        self._message_hub = message_hub
        self.paths: list[str] = []

    def __getattr__(self, name: str):
        return getattr(self._backend, name)

    def remove(self, path: str) -> None:
        self.paths.append(path)
        names = [os.path.basename(path) for path in self.paths]
        self._message_hub.update_info(_SUPERSEDED, names)

    rmtree = remove


def _remove(hook, paths: list[str]) -> None:
    best = getattr(hook, 'best_ckpt_path_dict', {}).values()
    # A run that was resumed may write a name again that it wants removed.
    keep = {hook.last_ckpt, getattr(hook, 'best_ckpt_path', None), *best}
    folder = os.path.abspath(hook.out_dir)
    for path in paths:
        # A path comes from a file, which may not choose what to remove elsewhere.
        if path in keep or os.path.dirname(os.path.abspath(path)) != folder:
            continue
        if hook.file_backend.isfile(path):
            hook.file_backend.remove(path)
        elif hook.file_backend.isdir(path):  # as DeepSpeed writes them
            hook.file_backend.rmtree(path)


def _remove_last(original):
    def save(self, runner, *args, **kwargs):
        backend = self.file_backend
        if isinstance(backend, _RemovesLater):  # saving the best one saves both
            return original(self, runner, *args, **kwargs)
        self.file_backend = later = _RemovesLater(backend, runner.message_hub)
        try:
            result = original(self, runner, *args, **kwargs)
        finally:
            self.file_backend = backend
        _remove(self, later.paths)
        return result

    return save


def _clean_first(original):
    def before_train(self, runner):
        result = original(self, runner)
        if runner.rank == 0:
            for folder in {str(self.out_dir), str(runner.work_dir)}:
                remove_unfinished(folder)
            names = runner.message_hub.runtime_info.get(_SUPERSEDED, [])
            _remove(self, [os.path.join(self.out_dir, name) for name in names])
        return result

    return before_train


def damage_of(path: str | os.PathLike) -> str | None:
    """What keeps a local checkpoint from being read whole; None when nothing does."""
    path = Path(path)
    if path.is_dir():  # as DeepSpeed writes them
        return None
    try:
        with open(path, 'rb') as file:
            # torch.save wrote pickles before version 1.6, without a check sum.
            if file.read(4) == b'\x80\x02\x8a\n':
                return None
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip() if _has_check_sums() else None
    except FileNotFoundError:
        return 'is not there'
    except OSError as error:
        return f'cannot be read ({error.strerror})'
    except Exception:  # a damaged archive can end in any of Python's errors
        return 'is damaged'
    return None if broken is None else 'is damaged'


def _has_check_sums() -> bool:
    """Whether torch.save writes them: who has switched them off here, had before."""
    return getattr(torch.serialization, 'get_crc32_options', lambda: True)()


def _number(path: Path) -> int:
    return int((re.findall(r'\d+', path.name) or [0])[-1])


def _alike(named: str, folder: Path) -> list[Path]:
    """Files with the kind of name of ``named``, oldest first.

    No ``best_*``, which hold no optimizer, and no weights from elsewhere.
    """
    kind = re.sub(r'\d+', r'\\d+', re.escape(Path(named).name))
    kinds = '|'.join(filter(None, (kind, r'(epoch|iter)_\d+\.pth', INTERRUPTED)))
    files = [
        path
        for path in folder.iterdir()
        if re.fullmatch(kinds, path.name) and path.is_file()
    ]
    return sorted(files, key=lambda path: (path.stat().st_mtime_ns, _number(path)))


def _follows(path: Path, named: Path) -> bool:
    """Whether ``path`` was written after ``named``; copying a folder mixes times."""
    later = path.stat().st_mtime_ns - named.stat().st_mtime_ns
    if INTERRUPTED in (path.name, named.name):
        return later > 0
    return later >= 0 and _number(path) > _number(named)


def find_whole_checkpoint(folder: str | os.PathLike) -> tuple[str | None, str | None]:
    """The checkpoint from which a run in ``folder`` can be resumed.

    It is the one that ``last_checkpoint`` names, unless that is damaged, or a later one
    was completed just before the run was killed.

    Returns:
        tuple[str | None, str | None]: Its path, None where there is none, and a
        sentence when it is not the one of ``last_checkpoint``.

    Raises:
        ValueError: The last one is damaged and there is no other.
    """
    last = Path(folder) / 'last_checkpoint'
    named = last.read_text().strip() if last.is_file() else ''
    if '://' in named:
        return named, None
    parent = Path(named).parent
    files = _alike(named, parent if named and parent.is_dir() else Path(folder))
    if named:
        fault = damage_of(named)
        fault = fault and f'{named} {fault}'
        if fault is None:
            fault = f'{last} names {named}'
            files = [path for path in files if _follows(path, Path(named))]
            if not files:
                return named, None
    else:
        fault = f'{last} names nothing' if last.is_file() else f'{last} is not there'
    for path in reversed(files):
        if damage_of(path) is None:
            return str(
                path
            ), f'{fault}, but {path} is the newest whole checkpoint: using it.'
    if not last.is_file():  # a run that was killed before its first one, or never began
        return None, None
    if named and damage_of(named) is None:
        return named, None
    raise ValueError(
        f'{fault}, and no whole checkpoint lies beside it: copy one there, or remove '
        f'{last} to start anew'
    )


def _from_a_whole_checkpoint(original):
    def load_or_resume(self):
        if self._has_loaded or self._resume is not True or self._load_from is not None:
            return original(self)
        path, sentence = find_whole_checkpoint(self.work_dir)
        if sentence is None:
            return original(self)
        self.logger.warning(sentence)
        self._load_from = path
        try:
            return original(self)
        finally:
            self._load_from = None

    return load_or_resume


def needed() -> bool:
    return is_installed('mmengine')


def apply(module) -> None:
    if module.__name__ == 'mmengine.runner.checkpoint':
        # Whoever has imported save_checkpoint before now finds it there too.
        replace(module, 'get_file_backend', _local_backends_write_whole)
    elif module.__name__ == 'mmengine.hooks.checkpoint_hook':
        # It opens last_checkpoint alone.
        module.open = open_whole
        replace(module.CheckpointHook, 'before_train', _clean_first)
        replace(module.CheckpointHook, '_save_checkpoint_with_step', _remove_last)
        replace(module.CheckpointHook, '_save_best_checkpoint', _remove_last)
    else:
        is_flexible = module.__name__.endswith('_flexible_runner')
        runner = module.FlexibleRunner if is_flexible else module.Runner
        replace(runner, 'load_or_resume', _from_a_whole_checkpoint)


REPAIR = Repair(
    name='whole_checkpoints',
    symptom='a run that is killed while it saves cannot be resumed',
    remedy='checkpoints are renamed when complete, and old ones go last',
    upstream='mmengine/hooks/checkpoint_hook.py',
    needed=needed,
    apply=apply,
    modules=(
        'mmengine.runner.checkpoint',
        'mmengine.hooks.checkpoint_hook',
        'mmengine.runner.runner',
        'mmengine.runner._flexible_runner',
    ),
)
