# Copyright (c) The nl_plugins authors. All rights reserved.
"""Any backbone of any codebase, with blocks after some of its modules."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Annotated

import torch.nn as nn
from mmengine.logging import print_log
from mmengine.registry import MODELS

from ..options import Cfg, Filled, check, did_you_mean
from .insert import insert_blocks

_OPTIONS = {
    'backbone': Cfg | nn.Module,
    'inserts': Annotated[Sequence[dict], Filled()],
    'pretrained': str | None,
    'init_cfg': dict | Sequence[dict] | None,
}


@MODELS.register_module()
def NonLocalBackbone(
    backbone: dict | nn.Module = None,
    inserts: Sequence[dict] = None,
    pretrained: str | None = None,
    init_cfg: dict | Sequence[dict] | None = None,
    **unexpected,
) -> nn.Module:
    """Build a backbone and insert blocks after named modules.

    Returns the backbone itself: its class, parameters and state-dict keys stay, and
    each block becomes a child of the module it follows, named by its abbreviation::

        after=['layer3.1', 'layer3.3', 'layer3.5']

        layer3:  0  1 [nl]  2  3 [nl]  4  5 [nl]        keys: layer3.1.nl.*, ...

    Use it in a config over an inherited backbone (``_delete_`` keeps the options of
    the inherited one from reaching this function)::

        custom_imports = dict(imports=['nl_plugins'], allow_failed_imports=False)
        model = dict(backbone=dict(
            _delete_=True,
            type='NonLocalBackbone',
            backbone={{_base_.model.backbone}},
            inserts=[dict(after='layer3.5', cfg=dict(type='NLBlock'))]))

    ``init_weights()`` initialises the backbone as if it had no blocks, then the
    blocks; weights of a checkpoint win over both. Blocks in frozen stages are frozen
    with them, with a warning. In mmaction a backbone of mmpretrain is written
    ``type='mmpretrain.NonLocalBackbone', backbone=dict(type='mmpretrain.ResNet')``,
    since its recognisers look for that prefix in the outer type; the prefixes
    ``torchvision.`` and ``timm.`` bypass every registry and cannot be used.

    Args:
        backbone (dict | nn.Module): Config of any backbone, or a built one.
        inserts (Sequence[dict]): Each a dict with the keys

            - after (str | Sequence[str]): Dotted names of the modules to follow. A
              block after an ``nn.Sequential`` follows its last child.
            - cfg (dict | Sequence[dict]): Config of a block, or of several in a row.
              ``in_channels`` is found from the module that the block follows unless
              it is given; ``postfix`` is appended to the name.
            - num_segments (int | str, optional): Frames T of a clip. 3D blocks then
              see frame-stacked features (N * T, C, H, W) as (N, C, T, H, W).
              ``'input'`` takes those of the clips that a recogniser of mmaction gets.
        pretrained (str, optional): Passed on to the backbone; mmseg's
            ``EncoderDecoder`` sets it. Defaults to None.
        init_cfg (dict | Sequence[dict], optional): Passed on to the backbone.

    Returns:
        nn.Module: The backbone.

    Raises:
        ValueError: If an option is missing, misspelt or not what it takes, a module
            does not exist, cannot be followed or does not fit the block.
    """
    if unexpected:
        near = did_you_mean(next(iter(unexpected)), _OPTIONS)
        raise ValueError(
            f'NonLocalBackbone got the unexpected option(s) {sorted(unexpected)}{near}'
            ': options of the backbone go into backbone=dict(...), and over an '
            'inherited backbone _delete_=True keeps its options out'
        )
    given = (backbone, inserts, pretrained, init_cfg)
    for (option, annotation), value in zip(_OPTIONS.items(), given):
        check('NonLocalBackbone', option, value, annotation)
    if isinstance(backbone, nn.Module):
        if pretrained is not None or init_cfg is not None:
            raise ValueError(
                'pretrained and init_cfg need a config of the backbone, but a built '
                f'{type(backbone).__name__} was given'
            )
        arguments = None
    else:
        arguments = backbone
        backbone = _build(backbone, pretrained, init_cfg)
    insert_blocks(backbone, inserts, arguments)
    return backbone


def _build(cfg: dict, pretrained: str | None, init_cfg: dict | None) -> nn.Module:
    passed = {'pretrained': pretrained, 'init_cfg': init_cfg}
    for option, value in passed.items():
        if value is None:
            continue
        if cfg.get(option) is not None:
            raise ValueError(
                f'NonLocalBackbone: {option} is given both to it and to its backbone '
                f'{cfg["type"]}: give one'
            )
        cfg = {**cfg, option: value}
        print_log(f'{option} goes to {cfg["type"]}', 'current', logging.DEBUG)
    with MODELS.switch_scope_and_registry(None) as registry:
        if isinstance(cfg['type'], str) and registry.get(cfg['type']) is None:
            raise KeyError(
                f'backbone {cfg["type"]!r} is not in the registry of the scope '
                f'{registry.scope!r}: write its codebase before it, as in '
                f'"mmseg.{cfg["type"]}", or set default_scope'
            )
        return registry.build(cfg)
