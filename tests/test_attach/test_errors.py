# Copyright (c) The nl_plugins authors. All rights reserved.
"""Every mistake in an insertion is one sentence that names it."""

import pytest
import torch
import torch.nn as nn

from nl_plugins.attach import NonLocalBackbone
from nl_plugins.blocks import NLBlock

from .networks import GATE, NL, NL3D, SHORT, STOCK, build


class Body(nn.Module):
    """Stages, a shared activation, an unused layer and a pair of outputs."""

    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm2d(8)
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.stages = nn.ModuleList([nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)])
        self.relu = nn.ReLU()
        self.unused = nn.Conv2d(8, 8, 1)
        self.split = Split()
        self.embed = Tokens()

    def forward(self, x):
        x = self.bn(self.relu(self.stem(x)))
        for stage in self.stages:
            x = self.relu(stage(x))
        x, _ = self.split(x)
        self.embed(x)
        return x


class Split(nn.Module):
    def forward(self, x):
        return x, x


class Tokens(nn.Module):
    """Half of the tokens, in no grid."""

    def forward(self, x):
        return x.flatten(2).mT[:, 1::3]


@pytest.mark.parametrize(
    'insert, words',
    [
        (dict(after='stage.0', cfg=NL), "no module 'stage.0'.*'stages.0'"),
        (dict(after='stages.2', cfg=NL), "'stages.0', 'stages.1'"),
        (dict(after=[], cfg=NL), r'inserts\[0\] .*: after must be .*at least one'),
        (dict(after='', cfg=NL), r'after must be .*at least one'),
        (dict(after=3, cfg=NL), 'after must be a string or a sequence.* got 3'),
        (dict(after='stem'), "keys 'after' and 'cfg'"),
        (dict(after='stem', cfg=NL, segments=4), "did you mean 'num_segments'"),
        (dict(after='stem', cfg=5), "a dict with the key 'type', but got 5"),
        (dict(after='stem', cfg=None), 'at least one block'),
        (dict(after='stem', cfg=NL3D, num_segments='all'), "or 'input' or None.*'all'"),
        (dict(after='stem', cfg=NL3D, num_segments=True), 'positive integer.*True'),
        (dict(after='stem', cfg=NL3D, num_segments=2.5), 'positive integer.*2.5'),
        (dict(after='stem', cfg=[]), 'at least one block'),
        (dict(after='stem', cfg=dict(ndim=2)), "key 'type'"),
        (dict(after='stem', cfg=NL, num_segments=0), 'positive integer'),
        (dict(after='stages', cfg=NL), r"ModuleList.*; 'stages\.0', 'stages\.1' work"),
        (dict(after='bn', cfg=NL), 'SyncBN'),
        (dict(after='relu', cfg=NL), "'relu': the backbone calls it 3 times"),
        (dict(after='unused', cfg=NL), "'unused': the backbone never calls it"),
        (dict(after='split', cfg=NL), "'split': it does not return one feature map"),
        (dict(after='embed', cfg=NL), 'without the size of their grid'),
        (dict(after='stem', cfg=NL3D), 'give num_segments'),
        (dict(after='stem', cfg=dict(type='NLBlock', ndim=1)), 'give ndim=2'),
        (
            dict(after='stem', cfg=dict(type='NLBlock', in_channels=7)),
            'in_channels=7 is wrong.*give in_channels=8',
        ),
        (dict(after='stem', cfg='NLBlock'), r"write dict\(type='NLBlock'\)"),
        (dict(after='stem', cfg=dict(type='NLBlok')), "did you mean 'NLBlock'"),
        (dict(after='stem', cfg=NLBlock(16)), 'built for 16 channels.*have 8'),
        (dict(after=['stem', 'stages.0'], cfg=NLBlock(8)), 'after one module'),
        (dict(after='bn', cfg=NL), "'stem' works|'stages.0' works"),
        (dict(after='split', cfg=NL), "; '[a-z.0-9]*' works"),
    ],
)
def test_mistakes_in_inserts(insert, words):
    with pytest.raises(ValueError, match=words):
        NonLocalBackbone(Body(), [insert])


def test_a_built_block_is_taken():
    block = NLBlock(8)
    net = NonLocalBackbone(Body(), [dict(after='stem', cfg=block)])
    assert net.stem.nl_block is block


def test_an_empty_batch_is_named():
    net = NonLocalBackbone(Body(), [dict(after='stem', cfg=NL)])
    with pytest.raises(ValueError, match='NLBlock got an empty batch'):
        net(torch.randn(0, 3, 8, 8))


@pytest.mark.parametrize(
    'scope, cfg, after, works',
    [
        (
            'mmseg',
            dict(
                type='SwinTransformer',
                embed_dims=8,
                depths=(1, 1, 2, 1),
                num_heads=(1, 2, 2, 4),
            ),
            'stages.2',
            r'stages\.2\.blocks\.1',
        ),
        (
            'mmseg',
            dict(
                type='SwinTransformer',
                embed_dims=8,
                depths=(1, 1, 2, 1),
                num_heads=(1, 2, 2, 4),
            ),
            'stages',
            r'stages\.\d\.blocks\.\d',
        ),
        ('mmpretrain', dict(type='HRNet', arch='w18'), 'stage3.3', r'stage3\.3\..*'),
    ],
)
def test_a_refusal_names_a_module_that_works(scope, cfg, after, works):
    pytest.importorskip(scope)
    net = build(scope, cfg)
    with pytest.raises(
        ValueError, match=f"(does not return one|it runs its ch).*; '{works}' works"
    ) as e:
        NonLocalBackbone(net, [dict(after=after, cfg=NL)])
    name = str(e.value).split("'")[-2]
    NonLocalBackbone(net, [dict(after=name, cfg=NL)])


@pytest.mark.parametrize(
    'options, words',
    [
        (dict(insert=[]), r"\['insert'\] \(did you mean 'inserts'"),
        (dict(), 'inserts must be'),
        (dict(inserts=[dict(after='stem', cfg=NL)], init_cfg='x.pth'), 'init_cfg must'),
        (dict(inserts=[dict(after='stem', cfg=NL)], pretrained=1), 'pretrained must'),
    ],
)
def test_mistakes_in_options(options, words):
    with pytest.raises(ValueError, match=words):
        NonLocalBackbone(Body(), **options)


@pytest.mark.parametrize('backbone', [None, 'ResNet', dict(depth=18), nn.Conv2d])
def test_a_backbone_is_a_config_or_a_module(backbone):
    with pytest.raises(ValueError, match="backbone must be a dict with the key 'type'"):
        NonLocalBackbone(backbone, [dict(after='stem', cfg=NL)])


@pytest.mark.parametrize('inserts', [[], None, dict(after='stem', cfg=NL), ['stem']])
def test_inserts_must_be_a_list_of_dicts(inserts):
    with pytest.raises(ValueError, match='inserts must be'):
        NonLocalBackbone(Body(), inserts)


def test_a_failed_insertion_leaves_the_backbone_as_it_was():
    body = Body()
    keys, x = list(body.state_dict()), torch.randn(1, 3, 8, 8)
    expected = body.eval()(x)
    with pytest.raises(ValueError):
        NonLocalBackbone(
            body, [dict(after='stem', cfg=NL), dict(after='stages.0', cfg=NL3D)]
        )
    assert list(body.state_dict()) == keys and type(body) is Body
    assert torch.equal(body(x), expected)


def test_options_of_an_inherited_backbone_are_refused():
    with pytest.raises(ValueError, match=r"\['depth'\].*_delete_=True"):
        NonLocalBackbone(Body(), [dict(after='stem', cfg=NL)], depth=50)


def test_a_type_of_no_scope_names_the_remedy():
    cfg = dict(type='NoSuchNet')
    with pytest.raises(KeyError, match='write its codebase before it'):
        NonLocalBackbone(cfg, [dict(after='stem', cfg=NL)])


def test_pretrained_is_passed_inward_but_not_twice():
    pytest.importorskip('mmseg')
    backbone = dict(type='mmseg.ResNetV1c', depth=18)
    inserts = [dict(after='layer3.1', cfg=NL)]
    net = NonLocalBackbone(backbone, inserts, pretrained='some.pth')
    assert net.init_cfg == dict(type='Pretrained', checkpoint='some.pth')
    with pytest.raises(ValueError, match='pretrained is given both'):
        NonLocalBackbone(dict(backbone, pretrained='a'), inserts, pretrained='b')
    with pytest.raises(ValueError, match='built Body'):
        NonLocalBackbone(Body(), [dict(after='stem', cfg=NL)], pretrained='b')


def test_frames_that_do_not_divide():
    network = SHORT['mmaction-tsm']
    net = network.build(is_shift=False)
    with pytest.raises(ValueError, match='num_segments=4 does not divide the 6 frames'):
        net(torch.randn(6, 3, 32, 32))


def test_num_segments_makes_a_3d_block_of_a_2d_network_see_time():
    network = SHORT['mmaction-tsm']
    net = network.build(is_shift=False).eval()
    seen = []
    gate = net.get_submodule('.'.join(net.inserted_blocks[0]))
    gate.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape))
    net(torch.randn(8, 3, 32, 32))
    assert tuple(seen[0])[:3] == (2, 64, 4)


def test_swin_tokens_keep_their_grid():
    # A block sees token l of a (H, W) grid at (l // W, l % W).
    network = STOCK['mmpretrain-swin-tiny']
    net = network.build().eval()
    tokens, maps = [], []
    host = net.get_submodule('stages.1.blocks.0')
    host.register_forward_hook(lambda m, a, out: tokens.append(out))
    block = net.get_submodule('stages.1.blocks.1.nl_block')
    host = net.get_submodule('stages.1.blocks.1')
    block.register_forward_pre_hook(lambda m, args: maps.append(args[0]))
    host.register_forward_hook(lambda m, a, out: tokens.append(out))
    net(network.input())
    (grid,) = maps
    assert grid.shape == (2, 192, 4, 8)
    assert torch.equal(grid.permute(0, 2, 3, 1).flatten(1, 2), tokens[-1])


def test_the_wrapper_in_another_scope():
    pytest.importorskip('mmaction')
    pytest.importorskip('mmpretrain')
    # The recogniser looks for the prefix mmpretrain. in the outer type.
    cfg = dict(
        type='Recognizer2D',
        backbone=dict(
            type='mmpretrain.NonLocalBackbone',
            backbone=dict(type='mmpretrain.ResNet', depth=18),
            inserts=[dict(after='layer3.1', num_segments=2, cfg=GATE)],
        ),
        cls_head=dict(type='TSNHead', num_classes=3, in_channels=512),
    )
    model = build('mmaction', cfg).eval()
    assert model.backbone_from == 'mmpretrain'
    assert model(torch.randn(1, 2, 3, 32, 32), mode='tensor').shape == (2, 512, 1, 1)
