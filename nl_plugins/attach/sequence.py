# Copyright (c) The nl_plugins authors. All rights reserved.
"""Several blocks as one."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from typing import Any, Literal

import torch.nn as nn
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor

from ..blocks import NonLocalBlock
from ..blocks.base import apply_init_cfg
from ..options import Cfg, Count, checked
from .layout import apply_block


def build_blocks(
    cfg: dict | Sequence[dict], in_channels: int, taken: Collection[str] = ()
) -> dict[str, nn.Module]:
    """Build blocks of one width, keyed by the names of their state-dict keys.

    A name is the class's ``_abbr_`` plus the option ``postfix`` of its cfg; a name
    that is already taken gets ``_2``, ``_3``, ... appended.

    Args:
        cfg (dict | nn.Module | Sequence): Configs of any registered blocks, or blocks.
        in_channels (int): Channels of the features, unless a cfg gives its own.
        taken (Collection[str]): Names that are in use.

    Raises:
        ValueError: If there is no cfg, one without a type or with an unknown one, or
            a block of another width.
    """
    from mmcv.cnn.bricks.plugin import infer_abbr

    cfgs = as_cfgs(cfg)
    if not cfgs:
        raise ValueError('cfg must hold at least one block, but it is empty')
    blocks: dict[str, nn.Module] = {}
    for one in cfgs:
        postfix = ''
        if isinstance(one, nn.Module):
            block = _fitting(one, in_channels)
        else:
            _check_cfg(one)
            one = dict(one)
            postfix = one.pop('postfix', '')
            with MODELS.switch_scope_and_registry(None) as registry:
                block = registry.build({'in_channels': in_channels, **one})
        stem = name = f'{infer_abbr(type(block))}{postfix}'
        count = 1
        while name in blocks or name in taken:
            count += 1
            name = f'{stem}_{count}'
        blocks[name] = block
    return blocks


def as_cfgs(cfg: Any) -> list:
    """One cfg, or several in a row, as a list."""
    if cfg is None:
        return []
    return list(cfg) if isinstance(cfg, (list, tuple)) else [cfg]


def check_sees_clips(cfg: Any, num_segments: int | str | None, where: str = '') -> None:
    """Raise ValueError if frames are to be joined to clips that no block looks at."""
    cfgs = as_cfgs(cfg)
    if num_segments is None or not cfgs or not all(map(_sees_frames_alone, cfgs)):
        return
    first = cfgs[0]['type'] if isinstance(cfgs[0], dict) else type(cfgs[0])
    kind = first if isinstance(first, str) else first.__name__
    raise ValueError(
        f'num_segments={num_segments} is given{where}, but {kind} sees each frame '
        'alone: give ndim=3 in its cfg, or leave num_segments out'
    )


def _sees_frames_alone(one: Any) -> bool:
    """Whether a block, or its config, has dimensions that are not three."""
    if isinstance(one, nn.Module):
        return getattr(one, 'ndim', 3) != 3
    if not isinstance(one, dict) or one.get('ndim', 2) == 3:
        return False
    cls = one.get('type')
    if isinstance(cls, str):
        with MODELS.switch_scope_and_registry(None) as registry:
            cls = registry.get(cls)
    return isinstance(cls, type) and issubclass(cls, NonLocalBlock)


def _fitting(block: nn.Module, in_channels: int) -> nn.Module:
    width = getattr(block, 'in_channels', in_channels)
    if width != in_channels:
        raise ValueError(
            f'the {type(block).__name__} was built for {width} channels, but the '
            f'features have {in_channels}: build it with in_channels={in_channels}, or '
            'give its config'
        )
    return block


def _check_cfg(one: Any) -> None:
    if not isinstance(one, dict) or 'type' not in one:
        remedy = f': write dict(type={one!r})' if isinstance(one, str) else ''
        raise ValueError(
            f"the cfg of a block must be a dict with the key 'type', but got {one!r}"
            f'{remedy}'
        )
    kind = one['type']
    with MODELS.switch_scope_and_registry(None) as registry:
        if not isinstance(kind, str) or registry.get(kind) is not None:
            return
    names = sorted(
        name
        for name, cls in MODELS.module_dict.items()
        if isinstance(cls, type) and issubclass(cls, NonLocalBlock)
    )
    near = difflib.get_close_matches(kind, names, n=3, cutoff=0.5)
    raise ValueError(
        f'no block {kind!r} is registered; '
        + (f'did you mean {" or ".join(map(repr, near))}?' if near else '')
        + ('' if near else f'the blocks are {", ".join(names)}')
    )


def initialise(block: nn.Module) -> None:
    """Call ``init_weights`` of a block, also when it was called before."""
    if hasattr(block, 'init_weights'):
        if getattr(block, 'is_init', False):
            block.is_init = False
        block.init_weights()


@MODELS.register_module()
@checked
class BlockSequence(BaseModule):
    """Blocks one after the other: ``z = block_n(... block_1(x))``.

    Serves where one block is expected but several are wanted, such as one position
    of ``plugins=`` in mmseg, which runs only the last of several plugins::

        plugins=[dict(
            cfg=dict(type='BlockSequence',
                     blocks=[dict(type='ChannelGate'), dict(type='NLBlock')]),
            stages=(False, False, True, False), position='after_conv3')]

    Args:
        in_channels (int): Channels of the input and the output.
        blocks (Sequence[dict]): Configs of the blocks, without ``in_channels``.
        num_segments (int | str, optional): Frames of a clip, or ``'input'``, see
            :func:`NonLocalBackbone`; 3D blocks then see features (N * T, C, H, W) as
            (N, C, T, H, W). Defaults to None.
        init_cfg (dict, optional): Config of an initialisation.

    Example:
        >>> blocks = [dict(type='ChannelGate'), dict(type='NLBlock')]
        >>> sequence = BlockSequence(16, blocks=blocks)
        >>> sequence(torch.rand(2, 16, 8, 8)).shape
        torch.Size([2, 16, 8, 8])
    """

    _abbr_ = 'blocks'

    def __init__(
        self,
        in_channels: Count,
        *,
        blocks: Sequence[Cfg],
        num_segments: Count | Literal['input'] | None = None,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.in_channels = in_channels
        self.num_segments = num_segments
        check_sees_clips(blocks, num_segments)
        built = build_blocks(blocks, in_channels)
        self.names = tuple(built)
        for name, block in built.items():
            self.add_module(name, block)

    def init_weights(self) -> None:
        """Initialise every block; may be called any number of times."""
        for name in self.names:
            initialise(getattr(self, name))
        apply_init_cfg(self)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S) -> (B, C, *S)."""
        for name in self.names:
            x = apply_block(getattr(self, name), x, self.num_segments)
        return x
