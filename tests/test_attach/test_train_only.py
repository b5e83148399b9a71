# Copyright (c) The nl_plugins authors. All rights reserved.
"""TrainOnlyHook on small models and in a runner."""

import copy

import pytest
import torch
import torch.nn as nn
from mmengine.model import BaseModel
from mmengine.runner import Runner

from nl_plugins.attach import TrainOnlyHook
from nl_plugins.blocks import NLBlock, SNLBlock


class Net(BaseModel):
    """conv -> norm -> stage (two convolutions with norms) -> classifier."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.stage = nn.Sequential(
            nn.Conv2d(4, 4, 1),
            nn.BatchNorm2d(4),
            nn.Conv2d(4, 4, 1),
            nn.GroupNorm(2, 4),
        )
        self.head = nn.Linear(4, 3)

    def forward(self, inputs, labels=None, mode='tensor'):
        x = self.stage(self.norm(self.stem(inputs))).mean((2, 3))
        scores = self.head(x)
        if mode == 'loss':
            return dict(loss=nn.functional.cross_entropy(scores, labels))
        return scores


def trained(**options) -> set[str]:
    net = Net()
    TrainOnlyHook(**options).apply(net)
    return {name for name, p in net.named_parameters() if p.requires_grad}


EVERYTHING = {name for name, _ in Net().named_parameters()}
NORMS = {
    f'{layer}.{tensor}'
    for layer in ('norm', 'stage.1', 'stage.3')
    for tensor in ('weight', 'bias')
}


def test_no_option_freezes_nothing():
    assert trained() == EVERYTHING


def test_patterns_match_parameters_and_modules():
    assert trained(train='head') == {'head.weight', 'head.bias'}
    assert trained(train=['stage.?', '*.bias']) == {
        name for name in EVERYTHING if name.startswith('stage') or 'bias' in name
    }
    assert trained(freeze='*.weight') == {n for n in EVERYTHING if n.endswith('bias')}
    assert trained(train='stage', freeze='stage.2') == {
        n for n in EVERYTHING if n.startswith('stage') and not n.startswith('stage.2')
    }


def test_freeze_before_freezes_what_is_registered_before():
    assert trained(freeze_before='stage.2') == {
        n for n in EVERYTHING if n.startswith(('stage.2', 'stage.3', 'head'))
    }


def test_what_the_model_froze_stays_frozen():
    net = Net()
    net.head.requires_grad_(False)
    TrainOnlyHook(freeze='stem').apply(net)
    assert not net.head.weight.requires_grad


@pytest.mark.parametrize('norm', ['freeze_affine', 'freeze'])
def test_norms(norm):
    net = Net()
    hook = TrainOnlyHook(norm=norm, norm_except='stage.1')
    hook.apply(net)
    frozen = {name for name, p in net.named_parameters() if not p.requires_grad}
    assert frozen == {n for n in NORMS if not n.startswith('stage.1')}
    net.train()
    hook.before_train_iter(None, 0)
    assert net.norm.training == (norm == 'freeze_affine')
    assert net.stage[1].training and net.stage[0].training


def _new_blocks():
    from mmcv.cnn import NonLocal2d

    yield NLBlock(4, norm_cfg=dict(type='BN'))
    yield SNLBlock(4)
    yield NonLocal2d(4, norm_cfg=dict(type='BN'))


@pytest.mark.parametrize('norm', ['freeze_affine', 'freeze'])
@pytest.mark.parametrize('block', _new_blocks(), ids=lambda b: type(b).__name__)
def test_the_norm_of_a_new_block_learns(block, norm):
    """It starts at zero gain: frozen there the block would stay the identity."""
    net = Net()
    net.stage[2].block = block = copy.deepcopy(block)
    net.stage[2].register_forward_hook(lambda m, args, out: m.block(out))
    hook = TrainOnlyHook(norm=norm)
    hook.apply(net.train())
    hook.before_train_iter(None, 0)
    assert all(module.training for module in block.modules())
    frozen = {name for name, p in net.named_parameters() if not p.requires_grad}
    assert frozen == NORMS
    net(torch.randn(4, 2, 6, 6)).square().sum().backward()
    gain = block.conv_out.bn.weight
    assert (gain == 0).all() and gain.grad.abs().sum() > 0
    hook = TrainOnlyHook(norm=norm, norm_except=())
    hook.apply(net)
    assert not gain.requires_grad


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(train='heat'), r"train pattern 'heat' matches nothing.*'head'"),
        (dict(freeze=['stem', 'stag']), r"freeze pattern 'stag'.*'stage'"),
        (dict(freeze_before='stage.9'), r"freeze_before='stage.9' is not a module"),
        (dict(norm='freeze', norm_except='*.bn'), "norm_except pattern '\\*.bn'"),
        (dict(freeze='*'), 'leaves none of the 14 parameters'),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        TrainOnlyHook(**options).apply(Net())


def test_unknown_norm_mode():
    with pytest.raises(
        ValueError, match=r"\['train', 'freeze_affine', 'freeze'\].*'off'"
    ):
        TrainOnlyHook(norm='off')


def run(tmp_path, hook: dict, launcher: str = 'none') -> tuple[Net, dict]:
    """Train and return the net and the state it had before."""
    torch.manual_seed(0)
    net = Net()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    batch = dict(inputs=torch.randn(8, 2, 5, 5), labels=torch.arange(8) % 3)
    samples = [{key: value[i] for key, value in batch.items()} for i in range(8)]
    runner = Runner(
        net,
        str(tmp_path),
        train_dataloader=dict(
            dataset=samples,
            batch_size=4,
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='default_collate'),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=2),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1, weight_decay=0.1)),
        custom_hooks=[hook],
        default_hooks=dict(checkpoint=None, logger=None),
        experiment_name=tmp_path.name,
        launcher=launcher,
        env_cfg=dict(dist_cfg=dict(backend='gloo')),
    )
    runner.train()
    return net, before


@pytest.mark.parametrize('norm', ['freeze_affine', 'freeze'])
def test_training_changes_only_what_trains(tmp_path, norm):
    hook = dict(type='TrainOnlyHook', train=['head', 'stage.2'], norm=norm)
    net, before = run(tmp_path, hook)
    changed = {k for k, v in net.state_dict().items() if not torch.equal(v, before[k])}
    trained = {'head.weight', 'head.bias', 'stage.2.weight', 'stage.2.bias'}
    statistics = {
        f'{layer}.{buffer}'
        for layer in ('norm', 'stage.1')
        for buffer in ('running_mean', 'running_var', 'num_batches_tracked')
    }
    assert changed == trained | (statistics if norm == 'freeze_affine' else set())


def _distributed(rank: int, port: int, folder: str) -> None:
    import os
    from pathlib import Path

    import torch.distributed as dist

    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE='2',
        MASTER_ADDR='127.0.0.1',
        MASTER_PORT=str(port),
    )
    net, before = run(Path(folder), dict(type='TrainOnlyHook', train='head'), 'pytorch')
    state = net.state_dict()
    assert not torch.equal(state['head.weight'], before['head.weight'])
    assert torch.equal(state['stem.weight'], before['stem.weight'])
    other = [torch.zeros_like(net.head.weight) for _ in range(2)]
    dist.all_gather(other, net.head.weight.detach())
    assert torch.equal(*other)
    dist.destroy_process_group()


def test_two_processes_do_not_wait_for_frozen_parameters(tmp_path):
    import socket

    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_distributed, (port, str(tmp_path)), nprocs=2)
