# Copyright (c) The nl_plugins authors. All rights reserved.
"""No file that wants to run code does, whoever opens it and however it is packed."""

import functools
import io
import json
import os
import pickle
import runpy
import subprocess
import sys
from pathlib import Path

import hostile_pickles as hostile
import pytest
import torch

from nl_plugins.compat import checkpoint_globals, is_installed
from nl_plugins.compat.plain_arrays import PlainUnpickler

ROOT = Path(__file__).resolve().parents[1]
pytestmark = [
    pytest.mark.skipif(not hasattr(os, 'fork'), reason='this system cannot fork'),
    pytest.mark.skipif(
        not checkpoint_globals.needed(), reason='this torch does not restrict'
    ),
]


REPAIRED = dict(NL_PLUGINS_COMPAT='1')
UNREPAIRED = dict(NL_PLUGINS_COMPAT='0')


@pytest.fixture(scope='module')
def outcome(tmp_path_factory):
    """What became of the attacks on every reader of a group: who, what, a mark?"""

    def run(group: str, *flags: str, **variables: str) -> list:
        folder = tmp_path_factory.mktemp('hostile') / group
        result = subprocess.run(
            [sys.executable, hostile.__file__, str(folder), group, *flags],
            capture_output=True,
            text=True,
            env=dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1') | variables,
        )
        assert result.returncode == 0, result.stderr[-4000:]
        return json.loads(result.stdout.splitlines()[-1])

    return run


def test_the_attacks_are_real(outcome):
    """Where nothing is restricted, every one of them runs its code."""
    results = outcome('everything_allowed')
    ran = {kind for _, kind, marked, _ in results if marked}
    # torch.load hands a script's archive to another reader, of code by design.
    expected = {kind for _, kind, _, _ in results if 'torchscript' not in kind}
    assert ran == expected


@pytest.mark.parametrize(
    'group, flags, variables, codebases',
    [
        ('readers', (), REPAIRED, ('mmpretrain', 'mmseg', 'mmaction')),
        ('readers', ('--few',), UNREPAIRED, ('mmpretrain', 'mmseg', 'mmaction')),
        ('commands', ('--few',), REPAIRED, ('mmpretrain', 'mmseg')),
    ],
)
def test_no_file_runs_code(outcome, group, flags, variables, codebases):
    missing = [package for package in codebases if not is_installed(package)]
    if missing:
        pytest.skip(f'needs {missing}')
    results = outcome(group, *flags, **variables)
    assert [(reader, kind) for reader, kind, marked, _ in results if marked] == []
    # A reader that fails before it opens the file would pass for free.
    for reader in {reader for reader, *_ in results}:
        said = {text for name, _, _, text in results if name == reader}
        assert len(said) > 1 and 'died' not in said, (reader, said)


def _arrays(content: bytes) -> None:
    PlainUnpickler(io.BytesIO(content), encoding='latin1').load()


@functools.cache
def _dump_unpickler() -> type:
    path = ROOT / 'tools/analysis_tools/fuse_scores.py'
    return runpy.run_path(str(path))['_DumpUnpickler']


def _scores(content: bytes) -> None:
    _dump_unpickler()(io.BytesIO(content)).load()


@pytest.mark.skipif(not is_installed('mmengine'), reason='needs mmengine')
@pytest.mark.parametrize(
    'read',
    [
        lambda content: torch.load(io.BytesIO(hostile.zipped(content))),
        lambda content: torch.load(io.BytesIO(hostile.legacy(content))),
        _arrays,
        _scores,
    ],
    ids=['torch', 'legacy', 'arrays', 'scores'],
)
def test_names_and_states_are_refused(read):
    import mmengine.logging  # noqa: F401 - the repair waits for it

    attacks = list(hostile.refused())
    before = hostile.fingerprint()
    passed, changed = [], []
    for kind, content in attacks:
        try:
            read(hostile.pickled(content))
        except Exception:
            pass
        else:
            passed.append(kind)
        if hostile.fingerprint() != before:
            changed.append(kind)
            break
    assert (passed, changed) == ([], [])
    assert len(attacks) > 1000


@pytest.mark.skipif(not is_installed('mmengine'), reason='needs mmengine')
@pytest.mark.parametrize(
    'owner, name', [(hostile.FROM_NUMPY, '__globals__'), (hostile.BUFFER, 'update')]
)
def test_a_refused_attribute_is_named(owner, name):
    import mmengine.logging  # noqa: F401

    content = hostile.zipped(hostile.pickled(hostile.attribute(owner, name)))
    with pytest.raises(pickle.UnpicklingError, match=rf"getattr\(\w+, '{name}'\)"):
        torch.load(io.BytesIO(content))


@pytest.mark.skipif(not is_installed('mmengine'), reason='needs mmengine')
def test_the_statistics_of_a_file_are_not_taken():
    from mmengine.logging import HistoryBuffer

    state = hostile.mapping(
        max_length=hostile.number(9),
        _log_history=hostile.good_array(),
        _count_history=hostile.good_array(),
        mean=hostile.FROM_NUMPY,
        statistics_methods=hostile.mapping(mean=hostile.FROM_NUMPY),
    )
    content = hostile.build(hostile.new(hostile.BUFFER), state)
    before = HistoryBuffer([1.0], [1])._statistics_methods.copy()
    buffer = torch.load(io.BytesIO(hostile.zipped(hostile.pickled(content))))
    assert type(buffer) is HistoryBuffer
    assert HistoryBuffer._statistics_methods == before
    assert buffer.mean() == buffer.statistics('mean') == 1.0
    assert set(before) == set(checkpoint_globals.STATISTICS)
