# Copyright (c) The nl_plugins authors. All rights reserved.
"""Every registered backbone as small as it goes: what changes, and its input."""

from __future__ import annotations

import importlib.util
from pathlib import Path

IMAGE, CLIP = (2, 3, 64, 64), (2, 3, 8, 64, 64)
_VIT = dict(embed_dims=24, num_layers=2, num_heads=2, feedforward_channels=32)
_SEG_VIT = dict(img_size=64, embed_dims=24, num_layers=2, num_heads=2, out_indices=1)
_PYRAMID = dict(embed_dims=[8, 16, 24, 32], num_heads=[1, 2, 3, 4])
_BRANCHES = (8, 16, 24, 32)


def _hrnet(**options) -> dict:
    extra = {}
    for i in range(1, 5):
        extra[f'stage{i}'] = dict(
            num_modules=1,
            num_branches=i,
            block='BOTTLENECK' if i == 1 else 'BASIC',
            num_blocks=(1,) * i,
            num_channels=_BRANCHES[:i],
        )
    return dict(extra=extra, **options)


_SHALLOW = dict(depth=18)
_NARROW = dict(base_channels=8, stem_channels=8)

_ONE = dict(
    num_blocks=[1, 1, 2, 1],
    width_factor=[0.25, 0.25, 0.25, 0.25],
    num_conv_branches=[1] * 4,
    num_se_blocks=[0] * 4,
)

#: By codebase and class: options that shrink it, and the shape of its input.
TINY: dict[tuple[str, str], tuple[dict, tuple]] = {
    ('mmpretrain', 'AlexNet'): ({}, (2, 3, 96, 96)),
    ('mmpretrain', 'LeNet5'): ({}, (2, 1, 32, 32)),
    ('mmpretrain', 'VisionTransformer'): (dict(arch=_VIT, img_size=64), IMAGE),
    ('mmpretrain', 'BEiTViT'): (dict(arch=_VIT, img_size=64), IMAGE),
    ('mmpretrain', 'Conformer'): (
        dict(
            arch=dict(embed_dims=24, depths=3, num_heads=2, channel_ratio=1),
            base_channels=8,
        ),
        IMAGE,
    ),
    ('mmpretrain', 'ConvMixer'): (
        dict(arch=dict(embed_dims=16, depth=2, patch_size=7, kernel_size=3)),
        IMAGE,
    ),
    ('mmpretrain', 'ConvNeXt'): (
        dict(arch=dict(depths=[1, 1, 2, 1], channels=[8, 16, 24, 32])),
        IMAGE,
    ),
    ('mmpretrain', 'DaViT'): (
        dict(
            arch=dict(embed_dims=8, depths=[1, 1, 2, 1], num_heads=[1, 2, 2, 4]),
            window_size=2,
        ),
        IMAGE,
    ),
    ('mmpretrain', 'DistilledVisionTransformer'): (
        dict(arch=_VIT, img_size=64),
        IMAGE,
    ),
    ('mmpretrain', 'DeiT3'): (dict(arch=_VIT, img_size=64), IMAGE),
    ('mmpretrain', 'DenseNet'): (
        dict(arch=dict(growth_rate=8, depths=[2, 2, 2, 2], init_channels=16)),
        IMAGE,
    ),
    ('mmpretrain', 'EdgeNeXt'): (
        dict(
            arch=dict(channels=[8, 16, 24, 32], depths=[1, 1, 2, 1], num_heads=[1] * 4)
        ),
        IMAGE,
    ),
    ('mmpretrain', 'PoolFormer'): (
        dict(
            arch=dict(
                layers=[1, 1, 2, 1],
                embed_dims=[8, 16, 24, 32],
                mlp_ratios=[2, 2, 2, 2],
                layer_scale_init_value=1e-5,
            )
        ),
        IMAGE,
    ),
    ('mmpretrain', 'RIFormer'): (
        dict(
            arch=dict(
                layers=[1, 1, 2, 1],
                embed_dims=[8, 16, 24, 32],
                mlp_ratios=[2, 2, 2, 2],
                layer_scale_init_value=1e-5,
            )
        ),
        IMAGE,
    ),
    ('mmpretrain', 'EfficientFormer'): (
        dict(
            arch=dict(
                layers=[1, 1, 2, 2],
                embed_dims=[8, 16, 24, 32],
                downsamples=[False, True, True, True],
                vit_num=1,
            ),
        ),
        (2, 3, 224, 224),
    ),
    ('mmpretrain', 'HiViT'): (
        dict(arch='tiny'),
        (1, 3, 224, 224),
    ),
    ('mmpretrain', 'HorNet'): (
        dict(
            arch=dict(
                base_dim=8,
                depths=[1, 1, 2, 1],
                orders=[2, 3, 4, 5],
                dw_cfg=[dict(type='DW', kernel_size=7)] * 4,
            ),
            scale=1 / 3,
        ),
        IMAGE,
    ),
    ('mmpretrain', 'HRNet'): (_hrnet(), IMAGE),
    ('mmpretrain', 'InceptionV3'): ({}, (2, 3, 96, 96)),
    ('mmpretrain', 'LeViT'): (dict(img_size=64), IMAGE),
    ('mmpretrain', 'MixMIMTransformer'): (
        dict(
            arch=dict(embed_dims=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2]),
            img_size=64,
            window_size=[4, 4, 4, 2],
        ),
        IMAGE,
    ),
    ('mmpretrain', 'MlpMixer'): (
        dict(
            arch=dict(
                embed_dims=24, num_layers=2, tokens_mlp_dims=16, channels_mlp_dims=32
            ),
            img_size=64,
        ),
        IMAGE,
    ),
    ('mmpretrain', 'MViT'): (
        dict(
            arch=dict(
                embed_dims=16, num_layers=4, num_heads=1, downscale_indices=[1, 2, 3]
            ),
            img_size=64,
        ),
        IMAGE,
    ),
    ('mmpretrain', 'MobileOne'): (
        dict(arch=_ONE),
        IMAGE,
    ),
    ('mmpretrain', 'RepLKNet'): (
        dict(
            arch=dict(
                large_kernel_sizes=[7, 7, 5, 3],
                layers=[1, 1, 2, 1],
                channels=[8, 16, 24, 32],
                small_kernel=3,
                dw_ratio=1,
            )
        ),
        IMAGE,
    ),
    ('mmpretrain', 'RepMLPNet'): (
        dict(
            arch=dict(
                channels=[8, 16, 24, 32],
                depths=[1, 1, 2, 1],
                sharesets_nums=[1, 2, 4, 4],
            ),
            img_size=64,
        ),
        IMAGE,
    ),
    ('mmpretrain', 'RepVGG'): (
        dict(
            arch=dict(
                num_blocks=[1, 1, 2, 1],
                width_factor=[0.25, 0.25, 0.25, 0.25],
                group_layer_map=None,
                group_width=None,
                se_cfg=None,
            ),
            base_channels=32,
        ),
        IMAGE,
    ),
    ('mmpretrain', 'RevVisionTransformer'): (dict(arch=_VIT, img_size=64), IMAGE),
    ('mmpretrain', 'SwinTransformer'): (
        dict(
            arch=dict(embed_dims=8, depths=[1, 1, 2, 1], num_heads=[1, 2, 2, 4]),
            img_size=64,
            window_size=4,
            pad_small_map=True,
        ),
        IMAGE,
    ),
    ('mmpretrain', 'SwinTransformerV2'): (
        dict(
            arch=dict(
                embed_dims=8,
                depths=[1, 1, 2, 1],
                num_heads=[1, 2, 2, 4],
                extra_norm_every_n_blocks=0,
            ),
            img_size=64,
            window_size=4,
            pad_small_map=True,
        ),
        IMAGE,
    ),
    ('mmpretrain', 'T2T_ViT'): (
        dict(
            img_size=64,
            embed_dims=24,
            num_layers=2,
            t2t_cfg=dict(token_dims=16, use_performer=False),
            layer_cfgs=dict(num_heads=2, feedforward_channels=32),
        ),
        IMAGE,
    ),
    ('mmpretrain', 'TinyViT'): (
        dict(
            arch=dict(
                channels=[8, 16, 24, 32], num_heads=[1, 2, 2, 4], depths=[1, 1, 2, 1]
            ),
            img_size=(64, 64),
            window_size=[4, 4, 4, 2],
        ),
        IMAGE,
    ),
    ('mmpretrain', 'TNT'): (
        dict(
            arch=dict(
                embed_dims_outer=32,
                embed_dims_inner=8,
                num_layers=2,
                num_heads_inner=2,
                num_heads_outer=2,
            ),
            img_size=64,
        ),
        IMAGE,
    ),
    **{
        ('mmpretrain', name): (
            dict(
                arch=dict(
                    depths=[1, 1, 2, 1],
                    patch_sizes=[4, 2, 2, 2],
                    strides=[4, 2, 2, 2],
                    mlp_ratios=[2, 2, 2, 2],
                    sr_ratios=[4, 2, 1, 1],
                    **_PYRAMID,
                    **more,
                ),
            ),
            IMAGE,
        )
        for name, more in (
            ('PCPVT', {}),
            ('SVT', dict(window_sizes=[4, 4, 4, 4])),
        )
    },
    ('mmpretrain', 'VAN'): (
        dict(
            arch=dict(
                embed_dims=[8, 16, 24, 32], depths=[1, 1, 2, 1], ffn_ratios=[2, 2, 2, 2]
            )
        ),
        IMAGE,
    ),
    ('mmpretrain', 'ViTEVA02'): (
        dict(arch=dict(_VIT, feedforward_channels=32), img_size=64),
        IMAGE,
    ),
    ('mmpretrain', 'ViTSAM'): (
        dict(
            arch=dict(_VIT, global_attn_indexes=[1]),
            img_size=64,
            out_channels=16,
            window_size=2,
        ),
        IMAGE,
    ),
    ('mmpretrain', 'XCiT'): (
        dict(embed_dims=24, depth=2, num_heads=2, cls_attn_layers=1),
        IMAGE,
    ),
    ('mmpretrain', 'Vig'): ({}, (1, 3, 224, 224)),
    ('mmpretrain', 'PyramidVig'): ({}, (1, 3, 224, 224)),
    ('mmpretrain', 'VGG'): (dict(depth=11), IMAGE),
    **{
        ('mmpretrain', name): ({**_SHALLOW, **_NARROW}, IMAGE)
        for name in ('ResNet', 'ResNetV1c', 'ResNetV1d')
    },
    **{
        ('mmpretrain', name): (dict(num_stages=4, **_NARROW), IMAGE)
        for name in ('ResNeXt', 'SEResNeXt')
    },
    ('mmpretrain', 'ResNeSt'): (_NARROW, IMAGE),
    ('mmpretrain', 'Res2Net'): (dict(base_channels=8, stem_channels=8), IMAGE),
    ('mmseg', 'ResNeSt'): (_NARROW, IMAGE),
    ('mmpretrain', 'SEResNet'): (_NARROW, IMAGE),
    ('mmpretrain', 'ResNet_CIFAR'): (dict(base_channels=8), (2, 3, 32, 32)),
    ('mmseg', 'VisionTransformer'): (_SEG_VIT, IMAGE),
    ('mmseg', 'BEiT'): (dict(_SEG_VIT, qv_bias=True, init_values=0.1), IMAGE),
    ('mmseg', 'MAE'): (dict(_SEG_VIT, init_values=0.1), IMAGE),
    ('mmseg', 'HRNet'): (_hrnet(), IMAGE),
    ('mmseg', 'CGNet'): (dict(num_blocks=(1, 2)), IMAGE),
    ('mmseg', 'DDRNet'): (dict(channels=8, ppm_channels=8), (2, 3, 128, 128)),
    ('mmseg', 'PIDNet'): (dict(channels=8, ppm_channels=8), (2, 3, 128, 128)),
    ('mmseg', 'MixVisionTransformer'): (
        dict(
            embed_dims=8, num_layers=[1, 1, 2, 1], num_heads=[1, 2, 3, 4], mlp_ratio=2
        ),
        IMAGE,
    ),
    ('mmseg', 'MSCAN'): (
        dict(embed_dims=[8, 16, 24, 32], depths=[1, 1, 2, 1], mlp_ratios=[2, 2, 2, 2]),
        IMAGE,
    ),
    ('mmseg', 'SwinTransformer'): (
        dict(embed_dims=8, depths=(1, 1, 2, 1), num_heads=(1, 2, 2, 4), window_size=4),
        IMAGE,
    ),
    ('mmseg', 'PCPVT'): (
        dict(depths=[1, 1, 2, 1], mlp_ratios=[2, 2, 2, 2], **_PYRAMID),
        IMAGE,
    ),
    ('mmseg', 'SVT'): (
        dict(embed_dims=[8, 16, 24], num_heads=[1, 2, 3], depths=[1, 1, 2]),
        IMAGE,
    ),
    ('mmseg', 'UNet'): (dict(base_channels=8), IMAGE),
    **{
        ('mmseg', name): ({**_SHALLOW, **_NARROW}, IMAGE)
        for name in ('ResNet', 'ResNetV1c', 'ResNetV1d')
    },
    ('mmseg', 'ResNeXt'): (dict(groups=1, base_width=4, **_NARROW), IMAGE),
    **{
        ('mmdet', name): ({**_SHALLOW, 'base_channels': 8, **more}, IMAGE)
        for name, more in (
            ('ResNet', dict(stem_channels=8)),
            ('ResNetV1d', dict(stem_channels=8)),
        )
    },
    **{
        ('mmdet', name): (dict(num_stages=4, stem_channels=8, base_channels=8), IMAGE)
        for name in ('ResNeSt', 'Res2Net')
    },
    ('mmdet', 'CSPDarknet'): (dict(widen_factor=0.125, deepen_factor=0.33), IMAGE),
    ('mmdet', 'CSPNeXt'): (dict(widen_factor=0.125, deepen_factor=0.33), IMAGE),
    ('mmdet', 'HRNet'): (_hrnet(), IMAGE),
    ('mmdet', 'HourglassNet'): (
        dict(
            downsample_times=3,
            num_stacks=1,
            stage_channels=(16, 16, 24, 32),
            stage_blocks=(1, 1, 1, 1),
            feat_channel=16,
        ),
        (2, 3, 128, 128),
    ),
    ('mmdet', 'SwinTransformer'): (
        dict(embed_dims=8, depths=(1, 1, 2, 1), num_heads=(1, 2, 2, 4), window_size=4),
        IMAGE,
    ),
    **{
        ('mmdet', name): (
            dict(num_layers=[1, 1, 2, 1], embed_dims=8, num_heads=[1, 2, 3, 4], **more),
            IMAGE,
        )
        for name, more in (
            ('PyramidVisionTransformer', dict(pretrain_img_size=64)),
            ('PyramidVisionTransformerV2', {}),
        )
    },
    ('mmaction', 'AAGCN'): ({}, (2, 2, 8, 17, 3)),
    ('mmaction', 'STGCN'): ({}, (2, 2, 8, 17, 3)),
    ('mmaction', 'C2D'): (_SHALLOW, CLIP),
    ('mmaction', 'C3D'): (dict(out_dim=8192), (1, 3, 16, 112, 112)),
    ('mmaction', 'ResNet'): (_SHALLOW, IMAGE),
    ('mmaction', 'ResNetTSM'): (dict(depth=18, num_segments=2), IMAGE),
    ('mmaction', 'MobileNetV2TSM'): (dict(num_segments=2), IMAGE),
    ('mmaction', 'MobileOneTSM'): (dict(num_segments=2, arch=_ONE), IMAGE),
    ('mmaction', 'TANet'): (dict(num_segments=4), (4, 3, 64, 64)),
    ('mmaction', 'MViT'): (
        dict(
            arch=dict(
                embed_dims=16, num_layers=4, num_heads=1, downscale_indices=[1, 2, 3]
            ),
            spatial_size=64,
            temporal_size=8,
        ),
        CLIP,
    ),
    ('mmaction', 'ResNet3d'): (dict(depth=18, base_channels=8), CLIP),
    ('mmaction', 'ResNet3dLayer'): (
        dict(depth=18),
        (2, 256, 2, 8, 8),
    ),
    ('mmaction', 'ResNet2Plus1d'): (dict(depth=18, base_channels=8), CLIP),
    ('mmaction', 'ResNet3dCSN'): (dict(base_channels=8), CLIP),
    ('mmaction', 'ResNet3dSlowFast'): (
        dict(resample_rate=4, speed_ratio=4),
        (2, 3, 16, 32, 32),
    ),
    ('mmaction', 'ResNet3dSlowOnly'): (dict(depth=18, base_channels=8), CLIP),
    ('mmaction', 'ResNetAudio'): (dict(base_channels=8), (2, 1, 32, 32)),
    ('mmaction', 'RGBPoseConv3D'): ({}, ((1, 3, 8, 64, 64), (1, 17, 32, 16, 16))),
    ('mmaction', 'OmniResNet'): (dict(layers=[1, 1, 2, 1]), (2, 3, 4, 64, 64)),
    ('mmaction', 'SwinTransformer3D'): (
        dict(
            arch=dict(embed_dims=8, depths=[1, 1, 2, 1], num_heads=[1, 2, 2, 4]),
            window_size=(4, 4, 4),
        ),
        CLIP,
    ),
    ('mmaction', 'TimeSformer'): (
        dict(
            num_frames=4,
            img_size=64,
            embed_dims=24,
            num_heads=2,
            num_transformer_layers=2,
        ),
        (2, 3, 4, 64, 64),
    ),
    ('mmaction', 'UniFormer'): (
        dict(depth=[1, 1, 2, 1], embed_dim=[8, 16, 24, 32], head_dim=8, img_size=64),
        CLIP,
    ),
    ('mmaction', 'UniFormerV2'): (
        dict(
            input_resolution=64,
            width=24,
            layers=2,
            heads=2,
            t_size=4,
            n_layers=1,
            n_dim=24,
            n_head=2,
            return_list=[1],
            mlp_factor=2.0,
            clip_pretrained=False,
        ),
        (2, 3, 8, 64, 64),
    ),
    ('mmaction', 'VisionTransformer'): (
        dict(img_size=64, embed_dims=24, depth=2, num_heads=2, num_frames=8),
        CLIP,
    ),
    ('mmaction', 'X3D'): (dict(gamma_d=1), CLIP),
}


def stock() -> tuple[dict[tuple[str, str], dict], dict[tuple[str, str], str]]:
    """The configs of the tool that writes the table of the docs, and what it omits."""
    path = Path(__file__).resolve().parents[2] / '.dev_scripts' / 'stock_backbones.py'
    spec = importlib.util.spec_from_file_location('stock_backbones', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.stock_backbones(), module.UNTRIED
