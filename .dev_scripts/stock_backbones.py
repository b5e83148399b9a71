# Copyright (c) The nl_plugins authors. All rights reserved.
"""Every backbone that the four codebases register, and where a block goes into it.

python .dev_scripts/stock_backbones.py            # how many were tried, how many work
python .dev_scripts/stock_backbones.py --write    # the table of the docs
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'tools' / 'analysis_tools')]

from list_places import binary, build, matrix_bytes  # noqa: E402

from nl_plugins.attach.places import Place, list_places  # noqa: E402

PAGE = ROOT / 'docs' / 'en' / 'places.md'
MARK = '<!-- written by .dev_scripts/stock_backbones.py -->'
STRIDES = (8, 16, 32)

_BN = dict(type='BN')
_RELU = dict(type='ReLU')
_RESNET_CONTEXT = dict(type='ResNet', depth=18, out_indices=(0, 1, 2, 3), norm_cfg=_BN)
_STDC = dict(
    type='STDCNet',
    stdc_type='STDCNet1',
    in_channels=3,
    channels=(32, 64, 256, 512, 1024),
    bottleneck_type='cat',
    norm_cfg=_BN,
    act_cfg=_RELU,
)


def _branches(*stages: tuple[str, int]) -> dict:
    """The ``extra`` of an HRNet of w18's widths."""
    return {
        f'stage{i}': dict(
            num_modules=modules,
            num_branches=i,
            block=block,
            num_blocks=(4,) * i,
            num_channels=(64,) if i == 1 else (18, 36, 72, 144)[:i],
        )
        for i, (block, modules) in enumerate(stages, 1)
    }


_HRNET = _branches(('BOTTLENECK', 1), ('BASIC', 1), ('BASIC', 4), ('BASIC', 3))
_SKELETON = dict(graph_cfg=dict(layout='coco', mode='stgcn_spatial'))

#: Arguments that a class cannot do without, or that are the usual ones.
ARGUMENTS = {
    'mmpretrain': {
        **{
            name: dict(depth=50)
            for name in (
                'ResNet',
                'ResNetV1c',
                'ResNetV1d',
                'ResNeXt',
                'CSPResNet',
                'CSPResNeXt',
                'Res2Net',
                'ResNeSt',
                'SEResNet',
                'SEResNeXt',
                'SparseResNet',
            )
        },
        'CSPDarkNet': dict(depth=53),
        'HRNet': dict(arch='w18'),
        'LeViT': dict(arch='128s'),
        'MobileOne': dict(arch='s0'),
        'PCPVT': dict(arch='small'),
        'PyramidVig': dict(arch='tiny'),
        'RegNet': dict(arch='regnetx_400mf'),
        'RepLKNet': dict(arch='31B'),
        'RepMLPNet': dict(arch='base'),
        'RepVGG': dict(arch='A0'),
        'ResNet_CIFAR': dict(depth=18),
        'SVT': dict(arch='small'),
        'TIMMBackbone': dict(model_name='resnet18'),
        'VGG': dict(depth=16),
        'Vig': dict(arch='tiny'),
    },
    'mmseg': {
        'BiSeNetV1': dict(backbone_cfg=_RESNET_CONTEXT),
        'HRNet': dict(extra=_HRNET, norm_cfg=_BN),
        'ICNet': dict(
            backbone_cfg=dict(
                type='ResNetV1c',
                depth=50,
                out_indices=(0, 1, 2, 3),
                dilations=(1, 1, 2, 4),
                strides=(1, 2, 1, 1),
                norm_cfg=_BN,
            ),
            norm_cfg=_BN,
        ),
        'MSCAN': dict(norm_cfg=_BN),
        'ResNeSt': dict(depth=50),
        'ResNeXt': dict(depth=50),
        'ResNet': dict(depth=50),
        'ResNetV1c': dict(depth=50),
        'ResNetV1d': dict(depth=50),
        'STDCContextPathNet': dict(
            backbone_cfg=_STDC,
            ffm_cfg=dict(in_channels=384, out_channels=256, scale_factor=4),
        ),
        'STDCNet': {key: value for key, value in _STDC.items() if key != 'type'},
        'TIMMBackbone': dict(model_name='resnet18', pretrained=False),
    },
    'mmaction': {
        'AAGCN': dict(graph_cfg=dict(layout='coco', mode='spatial')),
        'C2D': dict(depth=50),
        'MobileOneTSM': dict(arch='s0'),
        'RGBPoseConv3D': {},
        'ResNet': dict(depth=50),
        'ResNet2Plus1d': dict(
            depth=34, pretrained2d=False, conv_cfg=dict(type='Conv2plus1d')
        ),
        'ResNet3dCSN': dict(depth=50, pretrained=None),
        'ResNet3dLayer': dict(depth=50),
        'ResNet3dSlowOnly': dict(depth=50),
        'ResNetAudio': dict(depth=50),
        'ResNetTIN': dict(depth=50),
        'ResNetTSM': dict(depth=50),
        'STGCN': _SKELETON,
        'SwinTransformer3D': dict(arch='tiny'),
        'TANet': dict(depth=50, num_segments=8),
        'TimeSformer': dict(num_frames=8, img_size=224, patch_size=16),
    },
    'mmdet': {
        **{
            name: dict(depth=50)
            for name in (
                'DetectoRS_ResNet',
                'DetectoRS_ResNeXt',
                'Res2Net',
                'ResNeSt',
                'ResNeXt',
                'ResNet',
                'ResNetV1d',
            )
        },
        'HRNet': dict(extra=_HRNET),
        'RegNet': dict(arch='regnetx_400mf'),
        'SSDVGG': dict(depth=16),
        'TridentResNet': dict(
            depth=50,
            num_branch=3,
            test_branch_idx=1,
            trident_dilations=(1, 2, 3),
            num_stages=3,
            strides=(1, 2, 2),
            dilations=(1, 1, 1),
            out_indices=(2,),
        ),
    },
}

_SPARSE = (
    'runs inside its pre-training alone, with a mask: give the block `in_channels`'
)

#: What cannot be probed, and why.
UNTRIED = {
    ('mmpretrain', 'SparseConvNeXt'): _SPARSE,
    ('mmpretrain', 'SparseResNet'): _SPARSE,
    (
        'mmaction',
        'ResNetTIN',
    ): 'a block goes in with a warning; it runs with compiled mmcv alone',
    ('mmseg', 'VPD'): 'needs the package ldm and a diffusion model',
}

#: Registered among the backbones, but none.
NOT_BACKBONES = {
    ('mmseg', 'DeconvModule'): 'an upsampling layer of UNet',
    ('mmseg', 'InterpConv'): 'an upsampling layer of UNet',
}


def stock_backbones() -> dict[tuple[str, str], dict]:
    """Configs of all backbones, by codebase and class."""
    found = {}
    for scope, arguments in ARGUMENTS.items():
        if importlib.util.find_spec(scope) is None:
            continue
        importlib.import_module(f'{scope}.models')
        registry = importlib.import_module(f'{scope}.registry').MODELS
        for name, cls in [*registry.module_dict.items()]:
            if f'{scope}.models.backbones.' not in cls.__module__:
                continue
            if (scope, name) not in NOT_BACKBONES:
                found[scope, name] = dict(type=name, **arguments.get(name, {}))
    return found


def tried() -> list[tuple[str, str, dict | None, str]]:
    """(codebase, class, places by stride or None, why not) of every backbone."""
    rows = []
    for (scope, name), cfg in stock_backbones().items():
        places, why = None, UNTRIED.get((scope, name), '')
        if not why:
            try:
                found = list_places(build(scope, cfg), arguments=cfg)
                places = found.at_strides() or None
                why = '' if places else found.probe.error
            except Exception as failure:  # whatever a network refuses with
                why = f'{type(failure).__name__}: {failure}'.split('\n')[0]
        rows.append((scope, name, places, why))
    return rows


def table(rows: list[tuple[str, str, dict | None, str]]) -> str:
    """One line a class: a name at each stride with width, grid and matrix."""
    titles = dict(
        mmpretrain='mmpretrain',
        mmseg='mmseg',
        mmaction='mmaction2',
        mmdet='mmdetection',
    )
    lines = []
    for scope, title in titles.items():
        lines += ['', f'### {title}', '', '| backbone | stride 8 | 16 | 32 |']
        lines += ['|---|---|---|---|']
        for _, name, places, why in (row for row in rows if row[0] == scope):
            if places is None:
                lines.append(f'| `{name}` | {why} | | |')
                continue
            cells = [
                cell(places[stride]) if stride in places else '' for stride in STRIDES
            ]
            if 0 in places:
                cells[0] = cell(places[0])
            lines.append(f'| `{name}` | {" | ".join(cells)} |')
    return '\n'.join(lines)


def cell(place: Place) -> str:
    """``after`` name, width, grid and memory of the matrix, for the first input."""
    grid = 'x'.join(map(str, place.grids[0]))
    return f'`{place.name}`: {place.width}, {grid}, {binary(matrix_bytes(place, 0))}'


def summary(rows: list[tuple[str, str, dict | None, str]]) -> str:
    """How many were tried, how many work, and why the others do not."""
    works = sum(places is not None for _, _, places, _ in rows)
    lines = [f'{len(rows)} backbones: {works} take a block, {len(rows) - works} do not']
    lines += [f'  {scope}.{name}: {why}' for scope, name, p, why in rows if p is None]
    return '\n'.join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--write', action='store_true', help=f'the table in {PAGE.name}'
    )
    args = parser.parse_args(argv)
    rows = tried()
    if args.write:
        text = PAGE.read_text(encoding='utf-8')
        PAGE.write_text(f'{text.split(MARK)[0]}{MARK}\n{table(rows)}\n', 'utf-8')
    print(summary(rows))


if __name__ == '__main__':
    main()
