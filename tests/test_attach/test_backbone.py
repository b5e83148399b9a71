# Copyright (c) The nl_plugins authors. All rights reserved.
"""Blocks inside the stock backbones: names, identity, weights, gradients."""

import copy
import pickle

import pytest
import torch
import torch.nn as nn

from .networks import NL, STOCK, blocks_of, build, features, wake


@pytest.fixture(scope='module', params=STOCK)
def pair(request):
    """A network, its bare form and the form with blocks, drawn from one seed."""
    network = STOCK[request.param]
    nets = []
    for blocks in (False, True):
        torch.manual_seed(0)
        net = network.build(blocks)
        torch.manual_seed(1)
        net.init_weights()
        nets.append(net)
    return network, *nets


def test_keys_and_class_stay(pair):
    network, bare, net = pair
    old, new = bare.state_dict(), net.state_dict()
    assert isinstance(net, type(bare)) and type(net).__name__ == type(bare).__name__
    assert [key for key in new if key in old] == list(old)
    added = set(new) - set(old)
    prefixes = tuple(f'{name}.' for name in blocks_of(net))
    assert added and all(key.startswith(prefixes) for key in added)


def test_init_leaves_the_backbone_and_the_blocks_are_the_identity(pair):
    network, bare, net = pair
    new = net.state_dict()
    for key, value in bare.state_dict().items():
        assert torch.equal(value, new[key]), key
    for mode in (True, False):
        bare.train(mode)
        assert net.train(mode) is net
        outs = []
        for backbone in (bare, net):
            torch.manual_seed(3)  # stochastic depth
            outs.append(features(copy.deepcopy(backbone), network.input()))
        for a, b in zip(*outs):
            assert torch.equal(a, b)


def test_gradients_reach_every_block(pair):
    network, _, net = pair
    net = wake(copy.deepcopy(net)).train()
    sum(out.square().mean() for out in features(net, network.input())).backward()
    for name, block in blocks_of(net).items():
        for key, parameter in block.named_parameters():
            assert parameter.grad is not None, f'{name}.{key}'
            assert torch.isfinite(parameter.grad).all(), f'{name}.{key}'
        assert any(p.grad.abs().sum() > 0 for p in block.parameters()), name


def test_copies_are_independent_and_complete(pair):
    network, _, net = pair
    net.eval()
    x = network.input()
    with torch.no_grad():
        before = features(net, x)
        for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
            assert type(twin) is type(net)
            wake(twin)
            assert not torch.equal(features(twin, x)[-1], before[-1])
            twin.load_state_dict(net.state_dict())
            assert torch.equal(features(twin, x)[-1], before[-1])
        assert torch.equal(features(net, x)[-1], before[-1])


@pytest.mark.parametrize('name', STOCK)
def test_pretrained_weights_win(name, tmp_path):
    network = STOCK[name]
    torch.manual_seed(2)
    trained = wake(network.build())
    state = {
        key: value * 1.01 + 1e-3 if value.is_floating_point() else value
        for key, value in trained.state_dict().items()
    }
    path = str(tmp_path / 'backbone.pth')
    loads = dict(init_cfg=dict(type='Pretrained', checkpoint=path))
    if network.scope == 'mmaction':
        loads = dict(pretrained=path)
        if network.backbone['type'] in ('ResNetTSM', 'C2D'):
            loads['torchvision_pretrain'] = False
        else:
            loads['pretrained2d'] = False

    torch.save(dict(state_dict=state), path)
    net = network.build(**loads)
    net.init_weights()
    for key, value in net.state_dict().items():
        assert torch.equal(value, state[key]), key

    # Published weights hold no blocks: the backbone loads, the blocks initialise.
    bare = {
        key: value
        for key, value in state.items()
        if not key.startswith(tuple(blocks_of(trained)))
    }
    torch.save(dict(state_dict=bare), path)
    net = network.build(**loads)
    net.init_weights()
    for key, value in bare.items():
        assert torch.equal(net.state_dict()[key], value), key
    plain = network.build(blocks=False, **loads)
    plain.init_weights()
    x = network.input()
    a, b = (features(backbone.eval() or backbone, x) for backbone in (plain, net))
    assert torch.equal(a[-1], b[-1])


@pytest.mark.parametrize('kind', ['torchvision', 'inflated'])
def test_2d_weights_of_video_backbones(kind, tmp_path):
    # Both ways of loading 2D weights walk over every ConvModule by name.
    resnet = pytest.importorskip('torchvision.models').resnet50
    pytest.importorskip('mmaction')
    torch.manual_seed(0)
    state = resnet().state_dict()
    path = str(tmp_path / 'resnet50.pth')
    torch.save(state, path)
    if kind == 'inflated':
        cfg = dict(type='ResNet3dSlowOnly', depth=50, pretrained=path)
    else:
        cfg = dict(type='C2D', depth=50, pretrained=path, torchvision_pretrain=True)
    insert = dict(after='layer3.0', cfg={**NL, 'ndim': 3})
    if kind == 'torchvision':
        insert['num_segments'] = 2
    net = build(
        'mmaction', dict(type='NonLocalBackbone', backbone=cfg, inserts=[insert])
    )
    net.init_weights()
    found = net.state_dict()['layer3.0.conv1.conv.weight']
    expected = state['layer3.0.conv1.weight']
    torch.testing.assert_close(
        found.flatten(2).sum(2), expected.flatten(2).sum(2), rtol=1e-6, atol=1e-7
    )
    (block,) = blocks_of(net).values()
    assert block.conv_out.conv.weight.abs().sum() == 0


def test_second_init_keeps_what_a_base_module_keeps(tmp_path):
    network = STOCK['mmseg-resnetv1c18']
    net = wake(network.build())
    path = str(tmp_path / 'backbone.pth')
    torch.save(net.state_dict(), path)
    again = network.build(init_cfg=dict(type='Pretrained', checkpoint=path))
    for _ in range(2):
        again.init_weights()
        for key, value in net.state_dict().items():
            assert torch.equal(value, again.state_dict()[key]), key


# Every backbone has frozen_stages, with its own count: up to that ``layer`` or Swin
# stage, or as many ConvNeXt stages. The last is a freezing that ends before the blocks.
@pytest.mark.parametrize(
    'name, frozen_stages, stage, num_frozen',
    [
        ('mmpretrain-resnet50', 3, 'layer3', 2),
        ('mmpretrain-convnext-tiny', 3, 'stages.2', 2),
        ('mmpretrain-swin-tiny', 1, 'stages.1', 1),
        ('mmseg-resnetv1c50-d8', 3, 'layer3', 2),
        ('mmseg-resnetv1c18', 3, 'layer3', 2),
        ('mmaction-i3d', 2, 'layer2', 1),
        ('mmaction-slowonly', 2, 'layer2', 1),
        ('mmaction-tsm', 2, 'layer2', 2),
        ('mmaction-c2d', 2, 'layer2', 1),
        ('mmpretrain-resnet50', 2, 'layer2', 0),
    ],
)
def test_frozen_stages_freeze_their_blocks_with_a_warning(
    name, frozen_stages, stage, num_frozen, log
):
    net = STOCK[name].build(frozen_stages=frozen_stages)
    frozen = {
        block_name
        for block_name, block in blocks_of(net).items()
        if not any(parameter.requires_grad for parameter in block.parameters())
    }
    inside = {name for name in blocks_of(net) if name.startswith(f'{stage}.')}
    assert frozen == inside and len(inside) == num_frozen
    warned = [text for level, text in log if level == 'WARNING' and 'frozen' in text]
    assert len(warned) == len(inside)
    assert all(any(block in text for text in warned) for block in inside)
    net.train()
    for block_name, block in blocks_of(net).items():
        assert block.training is (block_name not in inside)


def test_what_was_inserted_is_logged_in_a_line_a_block(log):
    net = STOCK['mmseg-resnetv1c18'].build()
    lines = [text for _, text in log if text.startswith('Inserted ')]
    assert len(lines) == len(blocks_of(net)) == 2
    assert lines[0].startswith('Inserted layer3.1.nl_block: NLBlock after')
    assert lines[1].startswith('Inserted layer3.1.nl_block_2: ')
    assert 'in_channels=256' in lines[0]


def test_a_built_backbone_of_no_codebase():
    body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    from nl_plugins.attach import NonLocalBackbone

    net = NonLocalBackbone(body, [dict(after='1', cfg=NL)])
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(net(x), nn.Sequential(*body)(x))
    assert set(net.state_dict()) > {'0.weight', '1.nl_block.g.conv.weight'}


@pytest.mark.parametrize('stages, frozen', [(1, True), (0, False)])
def test_a_layer_without_weights_is_frozen_with_what_is_around_it(stages, frozen):
    pytest.importorskip('mmpretrain')
    net = build(
        'mmpretrain',
        dict(
            type='NonLocalBackbone',
            backbone=dict(type='ResNet', depth=18, frozen_stages=stages),
            inserts=[dict(after='layer1.1.drop_path', cfg=NL)],
        ),
    )
    (block,) = blocks_of(net.train()).values()
    assert block.training is not frozen
    assert all(p.requires_grad is not frozen for p in block.parameters())
