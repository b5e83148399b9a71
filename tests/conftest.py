# Copyright (c) The nl_plugins authors. All rights reserved.
"""Shared by all tests: few threads, the repository's root, optional data."""

import functools
import os
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '2')
os.environ.setdefault('MKL_NUM_THREADS', '2')

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / 'shared'

torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture(scope='session')
def root() -> Path:
    """The repository's root folder."""
    return ROOT


@pytest.fixture(scope='session')
def shared() -> Path:
    """The folder of published data beside the repository; skips without it."""
    if not SHARED.is_dir():
        pytest.skip(f'needs the published data in {SHARED}')
    return SHARED


@pytest.fixture
def threads(request):
    """Run a test in ``request.param`` threads: parametrise it indirectly."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope='session')
def read_upstream_metafiles_once():
    """A base ``'mmseg::...'`` reads every metafile of its package, each time anew."""
    from mmengine.config import utils

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, 'load', functools.cache(utils.load))
        yield


@pytest.fixture(autouse=True)
def no_scope_from_other_tests():
    """A scope that a test leaves behind would decide where the next one looks."""
    from mmengine.registry import DefaultScope

    DefaultScope._instance_dict.clear()
