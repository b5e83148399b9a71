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

#: What computes on --device; the other tests need no GPU and are left out there.
ON_DEVICE = (
    'test_accelerate',
    'test_analysis',
    'test_attach',
    'test_blocks',
    'test_cuda.py',
    'test_graph',
)
#: Least tolerances on a GPU, by dtype: its sums have another order.
_FLOORS = {
    torch.float64: 1e-9,
    torch.float32: 2e-5,
    torch.float16: 2e-3,
    torch.bfloat16: 2e-2,
}
_TF32_FLOOR = 2e-2


def pytest_addoption(parser):
    parser.addoption(
        '--device',
        default='cpu',
        help='where the tests of graph, blocks, attach, accelerate and analysis '
        'compute: cpu, cuda, cuda:1, ...; elsewhere than on the cpu only these run',
    )
    parser.addoption(
        '--tf32',
        action='store_true',
        help='with --device cuda: float32 products in TF32, tolerances to match',
    )


def pytest_configure(config):
    device = config.getoption('--device')
    if device == 'cpu':
        return
    if not torch.cuda.is_available():
        raise pytest.UsageError(
            f'--device {device}: torch finds no CUDA device here; leave the option out'
        )
    _compute_on(device, config.getoption('--tf32'))


def pytest_collection_modifyitems(config, items):
    if config.getoption('--device') == 'cpu':
        return
    kept, left = [], []
    for item in items:
        first = item.path.relative_to(ROOT / 'tests').parts[0]
        (kept if first in ON_DEVICE else left).append(item)
    config.hook.pytest_deselected(items=left)
    items[:] = kept


def _compute_on(device: str, tf32: bool) -> None:
    """Make tensors on a GPU wherever a test names no device, for the whole run."""
    torch.set_default_device(device)
    torch.cuda.set_device(torch.device(device).index or 0)
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.deterministic = True

    class Generator(torch.Generator):
        """Of the default device, as the tensors that it draws."""

        def __new__(cls, device=device):
            return super().__new__(cls, device)

    torch.Generator = Generator
    own = torch.testing.assert_close

    def assert_close(actual, expected, *, rtol=None, atol=None, **options):
        if isinstance(actual, torch.Tensor) and actual.is_cuda:
            dtype = actual.dtype.to_real()
            floor = _FLOORS.get(dtype, 0.0)
            if tf32 and dtype == torch.float32:
                floor = _TF32_FLOOR
            if rtol is not None or atol is not None or floor > 1e-4:
                rtol, atol = max(rtol or 0, floor), max(atol or 0, floor)
        own(actual, expected, rtol=rtol, atol=atol, **options)

    torch.testing.assert_close = assert_close


@pytest.fixture(scope='session')
def device(request) -> torch.device:
    """Where the tests compute."""
    return torch.device(request.config.getoption('--device'))


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
    """Run a test in ``request.param`` threads of the CPU: parametrise indirectly."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    with torch.device('cpu'):
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
