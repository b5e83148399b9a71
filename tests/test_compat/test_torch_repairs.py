# Copyright (c) The nl_plugins authors. All rights reserved.
"""Repairs around torch: checkpoints, distributed runs, mixed precision."""

import os
import pickle
import subprocess
import sys
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from nl_plugins.compat import (
    checkpoint_globals,
    cpu_amp,
    cpu_distributed,
    torchvision_ops,
)

needs_mmengine = pytest.mark.skipif(
    not checkpoint_globals.is_installed('mmengine'), reason='needs mmengine'
)


class Canary:
    """Would write a file if its pickle were executed."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def checkpoint():
    from mmengine.logging import HistoryBuffer

    history = HistoryBuffer(list(range(5)), [1] * 5)
    history.update(2.0)
    return dict(
        state_dict=dict(weight=torch.ones(2)),
        message_hub=dict(
            log_scalars=dict(loss=history),
            runtime_info=dict(
                accuracy=np.float64(0.5),
                count=np.int64(3),
                values=np.arange(3),
                flags=np.array([True, False]),
                name='run',
            ),
        ),
    )


def rename_numpy(path, new):
    """Rewrite the pickle as if numpy's other generation had written it."""
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, 'w') as archive:
        for name, data in files.items():
            if name.endswith('data.pkl'):
                assert b'multiarray' in data
                data = data.replace(b'numpy._core.', b'numpy.core.')
                data = data.replace(b'numpy.core.', new)
            archive.writestr(name, data)


@needs_mmengine
@pytest.mark.parametrize('core', [None, b'numpy.core.', b'numpy._core.'])
def test_a_checkpoint_of_mmengine_loads_restricted(tmp_path, core):
    if core == b'numpy._core.' and np.__version__ < '1.26':
        pytest.skip('this numpy does not know its later names')
    path = tmp_path / 'epoch_1.pth'
    torch.save(checkpoint(), path)
    if core is not None:
        rename_numpy(path, core)
    weights_only = dict(weights_only=True) if checkpoint_globals.needed() else {}
    loaded = torch.load(path, **weights_only)
    info = loaded['message_hub']['runtime_info']
    assert info['accuracy'] == 0.5 and info['count'] == 3
    np.testing.assert_array_equal(info['values'], np.arange(3))
    history = loaded['message_hub']['log_scalars']['loss']
    assert history.current() == 2.0 and history.mean() == 2.0


@needs_mmengine
def test_the_state_of_a_one_cycle_schedule_loads_restricted(tmp_path):
    from mmengine.optim import OneCycleLR

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    state = OneCycleLR(optimizer, eta_max=1.0, total_steps=10).state_dict()
    torch.save(state, tmp_path / 'epoch_1.pth')
    weights_only = dict(weights_only=True) if checkpoint_globals.needed() else {}
    loaded = torch.load(tmp_path / 'epoch_1.pth', **weights_only)
    annealing, expected = loaded.pop('anneal_func'), state.pop('anneal_func')
    assert loaded == state
    assert annealing(0.0, 3.0, 0.25) == expected(0.0, 3.0, 0.25)
    # A run that is resumed saves it again.
    assert pickle.loads(pickle.dumps(annealing, 2)) is expected


SCHEDULERS = {
    'ConstantLR': {},
    'CosineAnnealingLR': dict(T_max=4),
    'CosineRestartLR': dict(periods=[4, 5], restart_weights=[1, 0.5], eta_min=0),
    'ExponentialLR': dict(gamma=0.9),
    'LinearLR': {},
    'MultiStepLR': dict(milestones=[1]),
    'OneCycleLR': dict(eta_max=0.2, total_steps=9),
    'PolyLR': dict(power=0.9),
    'ReduceOnPlateauLR': dict(monitor='loss'),
    'StepLR': dict(step_size=2),
}


@needs_mmengine
def test_a_run_with_every_scheduler_and_ema_resumes(tmp_path):
    """The checkpoints of real runners, restricted: written, read, written again."""
    from mmengine.logging import HistoryBuffer
    from mmengine.model import BaseModel
    from mmengine.optim import scheduler
    from mmengine.runner import Runner

    names = {name for name in vars(scheduler) if name.endswith('LR')}
    assert names == SCHEDULERS.keys()

    class Model(BaseModel):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 1)

        def forward(self, x, mode):
            return dict(loss=self.layer(x).square().mean())

    def train(epochs: int) -> Runner:
        runner = Runner(
            Model(),
            work_dir=str(tmp_path),
            train_dataloader=torch.utils.data.DataLoader([dict(x=torch.ones(2))] * 4),
            optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.1)),
            param_scheduler=[
                dict(type=name, by_epoch=name == 'ReduceOnPlateauLR', **options)
                for name, options in SCHEDULERS.items()
            ],
            custom_hooks=[dict(type='EMAHook')],
            train_cfg=dict(by_epoch=True, max_epochs=epochs),
            resume=epochs > 1,
            experiment_name=f'schedulers_{tmp_path.name}_{epochs}',
            log_level='ERROR',
        )
        runner.message_hub.update_info('score', np.float64(0.5))
        runner.message_hub.update_info('counts', np.array([[1, 2]], dtype='>i4'))
        runner.message_hub.update_info('names', np.array(['a', 'bc']))
        runner.message_hub.update_info('nothing', np.zeros(0))
        runner.train()
        return runner

    train(1)
    resumed = train(2)
    assert resumed.iter == 8 and len(resumed.param_schedulers) == len(SCHEDULERS)
    steps = {s._global_step for s in resumed.param_schedulers if not s.by_epoch}
    assert steps == {8}
    loaded = torch.load(tmp_path / 'epoch_2.pth')
    hub = loaded['message_hub']
    loss = hub['log_scalars']['train/loss']
    assert type(loss) is HistoryBuffer and len(loss.data[0]) == 8
    assert [type(values) for values in loss.data] == [np.ndarray] * 2
    info = hub['runtime_info']
    assert info['score'] == 0.5 and type(info['score']) is np.float64
    assert info['counts'].tolist() == [[1, 2]]
    assert info['names'].tolist() == ['a', 'bc'] and info['nothing'].shape == (0,)
    assert 'ema_state_dict' in loaded
    # What was read is pickled as plain arrays, for readers without this package.
    assert b'nl_plugins' not in pickle.dumps(loaded, 2)


LOAD = """
import sys

import torch

import nl_plugins

assert 'mmengine.optim' not in sys.modules and 'mmengine.runner' not in sys.modules
checkpoint = torch.load(sys.argv[1])
assert checkpoint['meta']['epoch'] == 1
assert len(checkpoint['message_hub']['log_scalars']['train/loss'].data[0]) == 4
assert checkpoint['param_schedulers'][0]['anneal_func'](0, 1, 1) == 1
"""


@needs_mmengine
def test_a_plain_script_loads_what_a_runner_saved(tmp_path):
    from mmengine.model import BaseModel
    from mmengine.runner import Runner

    class Model(BaseModel):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 1)

        def forward(self, x, mode):
            return dict(loss=self.layer(x).square().mean())

    Runner(
        Model(),
        work_dir=str(tmp_path),
        train_dataloader=torch.utils.data.DataLoader([dict(x=torch.ones(2))] * 4),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9)),
        param_scheduler=dict(
            type='OneCycleLR', eta_max=0.1, total_steps=4, by_epoch=False
        ),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        experiment_name='plain_script',
    ).train()
    result = subprocess.run(
        [sys.executable, '-c', LOAD, str(tmp_path / 'epoch_1.pth')],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-4000:]


@needs_mmengine
def test_loading_stays_restricted(tmp_path):
    if not checkpoint_globals.needed():
        pytest.skip('this torch does not restrict by default')
    path = tmp_path / 'evil.pth'
    torch.save(dict(state_dict={}, extra=Canary(tmp_path / 'executed')), path)
    with pytest.raises(Exception, match='[Ww]eights.only'):
        torch.load(path)
    assert not (tmp_path / 'executed').exists()


@pytest.mark.parametrize(
    'version, needed',
    [('2.1.2+cpu', False), ('2.5.1', False), ('2.6.0', True), ('2.15.0', True)],
)
@needs_mmengine
def test_globals_are_needed_since_torch_2_6(monkeypatch, version, needed):
    monkeypatch.setattr(torch, '__version__', version)
    assert checkpoint_globals.needed() is needed


@needs_mmengine
@pytest.mark.parametrize('repair', [cpu_amp, cpu_distributed])
def test_cpu_repairs_are_not_needed_with_cuda(monkeypatch, repair):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    assert not repair.needed()
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    assert repair.needed()


@pytest.fixture
def dist_utils(monkeypatch):
    """Like ``mmengine.dist.utils``; records what reaches torch."""
    calls = []

    def refuse(device):
        raise RuntimeError('no CUDA')

    def init(backend, **kwargs):
        torch.cuda.set_device(0)
        calls.append((backend, kwargs))
        if kwargs.get('fail'):
            raise ValueError('failed')

    monkeypatch.setattr(torch.cuda, 'set_device', refuse)
    names = ('_init_dist_pytorch', '_init_dist_mpi', '_init_dist_slurm')
    module = SimpleNamespace(**{name: init for name in names})
    module.__name__ = 'mmengine.dist.utils'
    cpu_distributed.apply(module)
    return module, calls, refuse


def test_gloo_replaces_nccl(dist_utils):
    module, calls, refuse = dist_utils
    module._init_dist_pytorch('nccl', timeout=3)
    module._init_dist_slurm('mpi')
    assert calls == [('gloo', dict(timeout=3)), ('mpi', {})]
    assert torch.cuda.set_device is refuse


def test_set_device_is_restored_after_a_failure(dist_utils):
    module, _, refuse = dist_utils
    with pytest.raises(ValueError, match='failed'):
        module._init_dist_pytorch('nccl', fail=True)
    assert torch.cuda.set_device is refuse


@pytest.mark.parametrize('device, kept', [('cpu', None), ('meta', [0])])
def test_ddp_gets_no_device_ids_for_cpu_modules(device, kept):
    class Wrapper:
        def __init__(self, module, detect_anomalous_params=False, **kwargs):
            self.detect, self.kwargs = detect_anomalous_params, kwargs

    module = SimpleNamespace(MMDistributedDataParallel=Wrapper)
    module.__name__ = 'mmengine.model.wrappers.distributed'
    for _ in range(2):
        cpu_distributed.apply(module)
    wrapper = Wrapper(
        module=nn.Linear(2, 2, device=device),
        detect_anomalous_params=True,
        device_ids=[0],
        broadcast_buffers=False,
    )
    assert wrapper.detect
    assert wrapper.kwargs == dict(device_ids=kept, broadcast_buffers=False)


@needs_mmengine
def test_amp_trains_in_bf16_on_a_cpu():
    if torch.cuda.is_available():
        pytest.skip('there is a GPU')
    from mmengine.optim import AmpOptimWrapper

    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    before = model.weight.detach().clone()
    wrapper = AmpOptimWrapper(optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    with wrapper.optim_context(model):
        output = model(torch.ones(2, 4))
        assert output.dtype == torch.bfloat16
        wrapper.update_params(output.float().square().sum())
    assert model.weight.dtype == torch.float32
    assert not torch.equal(model.weight, before)
    wrapper.load_state_dict(wrapper.state_dict())


def test_torchvision_ops_are_not_needed_with_cuda(monkeypatch):
    monkeypatch.setattr(torch.version, 'cuda', '13.0')
    assert not torchvision_ops.needed()


def test_torchvision_ops_are_not_needed_where_its_library_loads(monkeypatch):
    monkeypatch.setattr(torch.version, 'cuda', None)
    monkeypatch.setattr(torchvision_ops, '_is_defined', lambda name: True)
    assert not torchvision_ops.needed()
    monkeypatch.setattr(torchvision_ops, 'folder_of', lambda name: None)
    monkeypatch.setattr(torchvision_ops, '_is_defined', lambda name: False)
    assert not torchvision_ops.needed()


BROKEN_TORCHVISION = """
import sys, torch

def refuse(path):
    raise OSError('libcudart is missing')

torch.version.cuda = None
torch.ops.load_library = refuse
from nl_plugins.compat import torchvision_ops
assert torchvision_ops.REPAIR.state == sys.argv[1], torchvision_ops.REPAIR.state
try:
    import torchvision
except RuntimeError as error:
    assert 'torchvision::nms' in str(error)
    assert sys.argv[1] == 'switched off'
else:
    assert torchvision.models.resnet18(weights=None) is not None
    try:
        torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except RuntimeError:
        pass
    else:
        raise AssertionError('nms should explain that it is missing')
"""


@pytest.mark.parametrize('switch, state', [('1', 'applied'), ('0', 'switched off')])
def test_torchvision_without_its_library(root, switch, state):
    pytest.importorskip('torchvision')
    environment = dict(
        os.environ, PYTHONPATH=str(root), NL_PLUGINS_COMPAT=switch, RANK='1'
    )
    subprocess.run(
        [sys.executable, '-c', BROKEN_TORCHVISION, state], check=True, env=environment
    )


@pytest.mark.parametrize('size', [1, 3, (2, 5), (8, 4)])
def test_adaptive_pooling_is_exported_with_open_sizes(size, tmp_path):
    onnxruntime = pytest.importorskip('onnxruntime')
    pool = torch.nn.AdaptiveAvgPool2d(size)
    axes = {'x': {0: 'batch', 2: 'height', 3: 'width'}}
    for name, options in (('open', dict(dynamic_axes=axes)), ('fixed', {})):
        path = tmp_path / f'{name}.onnx'
        torch.onnx.export(
            pool,
            (torch.randn(1, 2, 8, 8),),
            path,
            dynamo=False,
            opset_version=17,
            input_names=['x'],
            **options,
        )
        session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
        shapes = [(1, 2, 8, 8), (2, 2, 13, 9), (1, 2, 6, 30)]
        for shape in shapes if options else shapes[:1]:
            x = torch.randn(shape)
            (found,) = session.run(None, {'x': x.numpy()})
            torch.testing.assert_close(torch.from_numpy(found), pool(x))
