# Copyright (c) The nl_plugins authors. All rights reserved.
"""A block goes into every backbone that the four codebases register."""

import copy
import warnings

import pytest
import torch

from nl_plugins.attach import insert
from nl_plugins.attach.places import list_places

from .networks import blocks_of, build
from .tiny_backbones import IMAGE, TINY, stock

CONFIGS, UNTRIED = stock()


def _tensors(value):
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in _tensors(item)]
    return []


def _tiny(scope, name):
    options, shape = TINY.get((scope, name), ({}, IMAGE))
    cfg = {**copy.deepcopy(CONFIGS[scope, name]), **copy.deepcopy(options)}
    torch.manual_seed(0)
    shapes = shape if isinstance(shape[0], tuple) else (shape,)
    net = build(scope, cfg)
    if name == 'TridentResNet':  # its convolutions begin with what memory held
        net.init_weights()
    for parameter in net.parameters():  # some begin with branches of zeros
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    return net, cfg, [torch.randn(one) for one in shapes]


@pytest.mark.parametrize('scope, name', CONFIGS, ids=str)
def test_blocks_start_as_the_identity_and_learn(scope, name, monkeypatch):
    pytest.importorskip(scope)
    if (scope, name) in UNTRIED:
        pytest.skip(UNTRIED[scope, name])
    if name == 'TIMMBackbone':
        pytest.importorskip('timm')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        net, cfg, inputs = _tiny(scope, name)
    places = list_places(net, arguments=cfg)
    chosen = places.at_strides()
    # The same network is not probed twice: that is most of the time.
    monkeypatch.setattr(insert, 'probe', lambda *args: places.probe)
    assert chosen, 'no module of it can be followed'
    keys = list(net.state_dict())
    for weight in net.parameters():
        if not (weight.isfinite().all() and weight.abs().max() < 1e3):
            torch.nn.init.normal_(weight, std=0.1)  # some begin as memory was
    net.eval()
    with torch.no_grad():
        before = _tensors(net(*inputs))

    inserts = [
        dict(after=place.name, cfg=dict(type='NLBlock', ndim=place.ndim))
        for place in chosen.values()
    ]
    state = net.state_dict()
    net = build(scope, dict(type='NonLocalBackbone', backbone=cfg, inserts=inserts))
    missing, unexpected = net.load_state_dict(state, strict=False)
    blocks = blocks_of(net)
    # Swin V2 leaves out buffers that it computes itself.
    missing = set(missing) & {key for key, _ in net.named_parameters()}
    assert not unexpected and all(key.startswith(tuple(blocks)) for key in missing)
    added = set(net.state_dict()) - set(keys)
    assert [key for key in net.state_dict() if key not in added] == keys
    assert added and all(key.startswith(tuple(blocks)) for key in added)
    for block in blocks.values():
        block.init_weights()
    net.eval()
    with torch.no_grad():
        after = _tensors(net(*inputs))
    assert len(after) == len(before)
    for a, b in zip(before, after):
        assert torch.equal(a, b)

    net.train()
    # A reversible layer computes its gradients itself, and wants all of them.
    if not any('Rev' in type(module).__name__ for module in net.modules()):
        for key, parameter in net.named_parameters():  # theirs alone are looked at
            parameter.requires_grad_(key.startswith(tuple(blocks)))
    loss = sum(out.square().mean() for out in _tensors(net(*inputs)))
    loss.backward()
    learning = 0
    for block_name, block in blocks.items():
        parameters = dict(block.named_parameters())
        assert all(p.grad is not None for p in parameters.values()), block_name
        learning += any(p.grad.abs().sum() > 0 for p in parameters.values())
    assert learning == len(blocks)
    torch.optim.SGD([p for b in blocks.values() for p in b.parameters()], 0.1).step()
    net.eval()
    with torch.no_grad():
        moved = _tensors(net(*inputs))
    assert any(not torch.equal(a, b) for a, b in zip(after, moved))


@pytest.mark.parametrize(
    'cfg, after, width',
    [
        (dict(type='SparseResNet', depth=50), 'layer3.4', 1024),
        (
            dict(
                type='SparseConvNeXt',
                arch=dict(depths=[1, 1, 2, 1], channels=[8, 16, 24, 32]),
            ),
            'stages.2.1',
            24,
        ),
    ],
    ids=lambda each: each['type'] if isinstance(each, dict) else None,
)
def test_a_network_that_cannot_be_probed_takes_a_given_width(
    cfg, after, width, monkeypatch
):
    """SparK's networks ask a mask of their pre-training."""
    sparse = pytest.importorskip('mmpretrain.models.utils.sparse_modules')
    insert = dict(after=after, cfg=dict(type='NLBlock', in_channels=width))
    torch.manual_seed(0)
    net = build(
        'mmpretrain', dict(type='NonLocalBackbone', backbone=cfg, inserts=[insert])
    )
    (block,) = blocks_of(net).values()
    block.init_weights()
    monkeypatch.setattr(sparse.SparseHelper, '_cur_active', torch.ones(2, 1, 2, 2) > 0)
    x = torch.randn(2, 3, 64, 64)
    net.eval()
    with torch.no_grad():
        found = _tensors(net(x))
        hook = block.register_forward_hook(lambda module, args, out: args[0])
        expected = _tensors(net(x))
    hook.remove()
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    sum(out.square().mean() for out in _tensors(net.train()(x))).backward()
    assert block.conv_out.conv.weight.grad.abs().sum() > 0


def test_every_class_has_a_config():
    assert set(TINY) | set(UNTRIED) <= set(CONFIGS)
