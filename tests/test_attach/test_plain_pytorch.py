# Copyright (c) The nl_plugins authors. All rights reserved.
"""Networks of torchvision and timm, and any nn.Module, without a config."""

import pytest
import torch
import torch.nn as nn

from nl_plugins.attach import NonLocalBackbone

from .networks import blocks_of, wake


def _block(ndim=2):
    return dict(type='SNLBlock', ndim=ndim)


_VIDEO = (2, 3, 8, 32, 32)
_MVIT = dict(
    spatial_size=(32, 32),
    temporal_size=8,
    residual_pool=True,
    residual_with_cls_embed=False,
    rel_pos_embed=True,
    proj_after_attn=True,
)


def _torchvision(name, **options):
    models = pytest.importorskip('torchvision.models')
    if 'video.' not in name:
        return getattr(models, name)(num_classes=4, **options)
    video = models.video
    if name != 'video.mvit':
        return getattr(video, name.split('.')[1])(num_classes=4)
    setting = [
        video.mvit.MSBlockConfig(
            num_heads=1,
            input_channels=16,
            output_channels=16,
            kernel_q=[3, 3, 3],
            kernel_kv=[3, 3, 3],
            stride_q=[1, 1, 1],
            stride_kv=[1, 2, 2],
        )
        for _ in range(2)
    ]
    return video.MViT(block_setting=setting, num_classes=4, **_MVIT)


_TORCHVISION = {
    'resnet18': (dict(), ['layer2.1', 'layer3'], 2, (2, 3, 64, 64)),
    'swin_t': (dict(), ['features.1.0', 'features.5'], 2, (2, 3, 64, 64)),
    'video.r3d_18': (dict(), ['layer3.0'], 3, _VIDEO),
    'video.mvit': (dict(), ['blocks.0'], 3, _VIDEO),
}
_TIMM = {
    'resnet18': (['layer3.1'], (2, 3, 64, 64)),
    'convnext_atto': (['stages.2'], (2, 3, 64, 64)),
    'vit_tiny_patch16_224': (['blocks.5'], (1, 3, 224, 224)),
    'swin_tiny_patch4_window7_224': (['layers.2.blocks.0'], (1, 3, 224, 224)),
}


def _check(net, after, ndim, shape):
    x = torch.randn(shape)
    net.eval()
    keys = list(net.state_dict())
    with torch.no_grad():
        before = net(x)
    inserts = [dict(after=after, cfg=_block(ndim))]
    net = NonLocalBackbone(net, inserts)
    assert len(blocks_of(net)) == len(after)
    assert [key for key in net.state_dict() if 'snl_block' not in key] == keys
    for block in blocks_of(net).values():
        block.init_weights()
    with torch.no_grad():
        assert torch.equal(net(x), before)
        assert not torch.equal(wake(net)(x), before)


@pytest.mark.parametrize('name', _TORCHVISION)
def test_torchvision(name):
    options, after, ndim, shape = _TORCHVISION[name]
    torch.manual_seed(0)
    _check(_torchvision(name, **options), after, ndim, shape)


@pytest.mark.parametrize('name', _TIMM)
def test_timm(name):
    timm = pytest.importorskip('timm')
    after, shape = _TIMM[name]
    torch.manual_seed(0)
    _check(timm.create_model(name, num_classes=4), after, 2, shape)


class Layouts(nn.Module):
    """(L, B, C) tokens, channels-last maps, a list of one map, sizes as arguments."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, stride=4)
        self.last, self.listed, self.register = _Same(), _Listed(), _Same()
        self.first, self.told, self.pair = _Same(), _Told(), _Pair()

    def forward(self, x):
        x = self.stem(x)
        height, width = x.shape[2:]
        x = self.last(x.permute(0, 2, 3, 1))
        x = self.listed(x)[0].flatten(1, 2)
        x = self.told(torch.cat([x[:, :3], x], 1), height, width)
        x = self.register(x)
        x = self.first(x.transpose(0, 1))
        return self.pair(x)[1]['map']


class _Same(nn.Module):
    def forward(self, x):
        return x + 1


class _Listed(nn.Module):
    def forward(self, x):
        return [x + 1]


class _Told(nn.Module):
    def forward(self, x, height, width):
        return x + 1


class _Pair(nn.Module):
    def forward(self, x):
        return x, {'map': x}


# The spy sees (B, C, H, W); three tokens in front of the others stay outside.
@pytest.mark.parametrize('after', ['last', 'listed', 'told', 'register', 'first'])
def test_every_layout_is_folded_to_a_map(after):
    net = NonLocalBackbone(Layouts(), [dict(after=after, cfg=_block())]).eval()
    seen, x = [], torch.randn(2, 3, 20, 24)
    ((host, name),) = net.inserted_blocks
    block = net.get_submodule(f'{host}.{name}')
    block.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    block.register_forward_hook(lambda m, args, out: out + 5)
    net.get_submodule(host)
    with torch.no_grad():
        stem = net.stem(x)
        changed = net(x)
        plain = Layouts()
        plain.load_state_dict(net.state_dict(), strict=False)
        expected = plain(x)
    offset = seen[0] - stem
    assert seen[0].shape == (2, 8, 5, 6)
    assert torch.allclose(offset, offset.mean().expand_as(offset), atol=1e-5)
    moved = (changed - expected).round()
    positions = moved if after not in ('last', 'listed') else moved[3:]
    if after not in ('last', 'listed'):
        assert (positions[:3] == 0).all()
        positions = positions[3:]
    assert (positions == 5).all()
