# Copyright (c) The nl_plugins authors. All rights reserved.
"""mmcv's and mmseg's own modules give the same numbers, in less memory."""

import copy
import os
import subprocess
import sys
import weakref

import pytest
import torch
from mmcv.cnn import NonLocal1d, NonLocal2d, NonLocal3d
from mmengine.registry import MODELS
from mmengine.registry.default_scope import DefaultScope
from torch.utils._python_dispatch import TorchDispatchMode

from nl_plugins import accelerate

MODES = ('gaussian', 'embedded_gaussian', 'dot_product', 'concatenation')


@pytest.fixture(autouse=True)
def restore():
    """Each test begins and ends with mmcv as it was installed."""
    accelerate.undo()
    yield
    accelerate.undo()


def build(scope, cfg):
    pytest.importorskip(scope)
    with DefaultScope.overwrite_default_scope(scope):
        with MODELS.switch_scope_and_registry(None) as registry:
            return registry.build(cfg)


def wake(model, noise=0.1):
    """Let the blocks act, and residual branches add a little, as in trained nets."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if any(part in name for part in ('non_local', 'nl_block')):
            values = torch.randn(parameter.shape, generator=generator)
            parameter.data.add_(noise * values)
        elif name.endswith('conv3.bn.weight'):
            parameter.data.fill_(0.2)
    return model


def outcome(model, *args):
    """Outputs and gradients, those of the input included."""
    model = copy.deepcopy(model)
    if not accelerate.is_applied():
        trainable(model)
    args = [arg.clone().requires_grad_() for arg in args]
    out = model(args if len(args) > 1 else args[0])
    out = out[0] if isinstance(out, tuple) else out
    weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    (out * weight).sum().backward()
    gradients = {key: p.grad for key, p in model.named_parameters()}
    return {'out': out, 'input': args[-1].grad, **gradients}


def assert_same(found, expected, tolerance, exact):
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        if value is None:
            assert found[key] is None, key
            continue
        # The gradient of a bias that softmax ignores is rounding around zero: it is
        # measured by that of its weight.
        weight = expected.get(key.replace('bias', 'weight'), value)
        scale = max(value.abs().max(), weight.abs().max())
        # Where mmcv itself rounds by more than the tolerance, that is the measure.
        rounding = (value - exact[key]).abs().max()
        error = (found[key] - value).abs().max()
        assert error <= max(tolerance * scale, 4 * rounding), key


def trainable(model):
    """mmcv divides the output of a ReLU in place, which has no gradient."""
    for module in model.modules():
        if hasattr(module, 'concat_project'):
            module.concat_project.register_forward_hook(lambda m, a, out: out.clone())
    return model


def compare(model, *args, tolerance=1e-5):
    model.eval()
    keys = list(model.state_dict())
    expected = outcome(model, *args)
    exact = outcome(copy.deepcopy(model).double(), *(arg.double() for arg in args))
    accelerate.apply()
    found = outcome(model, *args)
    assert list(model.state_dict()) == keys
    assert_same(found, expected, tolerance, exact)
    accelerate.undo()
    for key, value in outcome(model, *args).items():
        if value is not None:
            assert torch.equal(value, expected[key]), key


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('sub_sample', [False, True])
@pytest.mark.parametrize(
    'cls, size', [(NonLocal1d, (10,)), (NonLocal2d, (6, 5)), (NonLocal3d, (3, 4, 5))]
)
@pytest.mark.parametrize('norm_cfg', [None, dict(type='GN', num_groups=2)])
def test_mmcv(cls, size, mode, sub_sample, norm_cfg):
    torch.manual_seed(0)
    options = dict(mode=mode, sub_sample=sub_sample, norm_cfg=norm_cfg)
    module = cls(8, use_scale=sub_sample, zeros_init=False, std=0.3, **options)
    compare(module.double(), torch.randn(2, 8, *size).double(), tolerance=1e-12)


@pytest.mark.parametrize('mode', ['embedded_gaussian'])
def test_tsm_nl(mode):
    torch.manual_seed(0)
    cfg = dict(
        type='ResNetTSM',
        depth=50,
        pretrained=None,
        pretrained2d=False,
        num_segments=4,
        non_local=((0, 0, 0), (1, 0, 1, 0), (1, 0, 1, 0, 1, 0), (0, 0, 0)),
        non_local_cfg=dict(
            sub_sample=True,
            use_scale=False,
            norm_cfg=dict(type='BN3d', requires_grad=True),
            mode=mode,
        ),
    )
    compare(wake(build('mmaction', cfg), noise=0.02), torch.randn(4, 3, 32, 32))


@pytest.mark.parametrize('mode', ['dot_product'])
def test_i3d_nl(mode):
    torch.manual_seed(0)
    cfg = dict(
        type='ResNet3d',
        depth=50,
        pretrained=None,
        pretrained2d=False,
        conv1_kernel=(5, 7, 7),
        conv1_stride_t=2,
        pool1_stride_t=2,
        inflate=((1, 1, 1), (1, 0, 1, 0), (1, 0, 1, 0, 1, 0), (0, 1, 0)),
        non_local=((0, 0, 0), (0, 1, 0, 1), (0, 1, 0, 1, 0, 1), (0, 0, 0)),
        non_local_cfg=dict(
            sub_sample=True,
            use_scale=False,
            norm_cfg=dict(type='BN3d', requires_grad=True),
            mode=mode,
        ),
    )
    compare(wake(build('mmaction', cfg), noise=0.02), torch.randn(1, 3, 8, 32, 32))


def has_gradient(model, *args):
    try:
        return bool(outcome(model, *args))
    except RuntimeError as error:
        assert 'inplace operation' in str(error)
        return False


@pytest.mark.parametrize('head', ['NLHead', 'DNLHead'])
@pytest.mark.parametrize('mode', MODES)
def test_decode_heads(head, mode):
    torch.manual_seed(0)
    cfg = dict(
        type=head,
        in_channels=8,
        in_index=0,
        channels=16,
        num_classes=3,
        mode=mode,
        norm_cfg=dict(type='BN'),
    )
    model = wake(build('mmseg', cfg))
    model.register_forward_pre_hook(lambda module, args: ([args[0]],))
    x = torch.randn(2, 8, 6, 7)
    if head == 'NLHead' or has_gradient(model, x):
        return compare(model, x)
    # mmseg subtracts means in place: same numbers, but no gradient for the Gaussian,
    # and for no mode with torch 2.1.
    model.eval()
    with torch.no_grad():
        expected = model(x)
        accelerate.apply()
        torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)


class PeakMemory(TorchDispatchMode):
    """The largest total size of live tensors that operators have made."""

    def __init__(self):
        super().__init__()
        self.live = self.peak = 0
        self.known = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_flatten(out)[0]:
            if isinstance(tensor, torch.Tensor):
                self.add(tensor.untyped_storage())
        return out

    def add(self, storage):
        key, size = storage._cdata, storage.nbytes()
        if key in self.known:
            return
        self.known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)

        def free():
            self.known.discard(key)
            self.live -= size

        weakref.finalize(storage, free)


def peak_of_a_step(module, x):
    x = x.clone().requires_grad_()
    with PeakMemory() as memory:
        module(x).sum().backward()
    return memory.peak


@pytest.mark.parametrize(
    'mode, channels, size',
    [
        ('gaussian', 8, (64, 128)),
        ('embedded_gaussian', 16, (64, 128)),
        ('dot_product', 16, (64, 128)),
        ('concatenation', 2, (64, 128)),
    ],
)
def test_memory_of_a_training_step(mode, channels, size):
    torch.manual_seed(0)
    module = NonLocal2d(channels, mode=mode, zeros_init=False)
    x = torch.randn(1, channels, *size)
    dense = peak_of_a_step(trainable(copy.deepcopy(module)), x)
    accelerate.apply()
    fast = peak_of_a_step(module, x)
    assert dense > 2 * 4 * (64 * 128) ** 2  # several matrices of float32
    assert fast * 8 <= dense


def test_half_precision_and_gradients_through_autocast():
    torch.manual_seed(0)
    module = NonLocal2d(8, zeros_init=False, std=0.3)
    x = torch.randn(1, 8, 6, 6, requires_grad=True)
    expected = module(x)
    accelerate.apply()
    with torch.autocast('cpu', torch.bfloat16):
        found = module(x)
    torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.05)
    found.float().sum().backward()
    assert torch.isfinite(x.grad).all()


def test_apply_and_undo_are_idempotent():
    original = NonLocal2d.forward
    accelerate.apply()
    accelerate.apply()
    assert accelerate.is_applied() and NonLocal2d.forward is not original
    accelerate.undo()
    accelerate.undo()
    assert not accelerate.is_applied() and NonLocal2d.forward is original


SCRIPT = """
import sys
from importlib import import_module
from mmengine.config import Config
Config.fromfile(sys.argv[1])
assert not any(name.startswith('mmseg') for name in sys.modules)
from nl_plugins import accelerate
classes = [getattr(import_module(m), name) for m, name in accelerate.TARGETS]

def ours():
    return ['accelerate' in c.forward.__code__.co_filename for c in classes]

assert accelerate.is_applied() and all(ours()), ours()
accelerate.undo()
assert not any(ours()), ours()
accelerate.apply()
assert all(ours()), ours()
"""


def test_custom_imports_come_before_the_codebase(tmp_path, root):
    """The other order, a codebase that is imported already, is that of all tests."""
    pytest.importorskip('mmseg')
    config = tmp_path / 'config.py'
    config.write_text(
        "custom_imports = dict(imports=['nl_plugins', 'nl_plugins.accelerate'], "
        'allow_failed_imports=False)\n'
    )
    ran = subprocess.run(
        [sys.executable, '-c', SCRIPT, str(config)],
        env=dict(os.environ, PYTHONPATH=str(root)),
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
