# Copyright (c) The nl_plugins authors. All rights reserved.
"""Decode heads: mmseg's FCN head with a non-local block between its convolutions."""

from __future__ import annotations

import difflib
import inspect
import logging
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from mmengine.logging import print_log
from mmseg.models.decode_heads import FCNHead
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import MODELS
from torch import Tensor

from ..options import Cfg, Count, Odd, Range, Share, checked


@MODELS.register_module()
@checked
class NonLocalHead(FCNHead):
    """``convs.0 -> nl_block -> convs.1 [-> conv_cat] -> conv_seg``.

    The layout of mmseg's NL, DNL, CC and GC heads with any registered block::

        x (B, in_channels, H, W) -> 3x3 conv -> block (B, channels, H, W) -> 3x3 conv
        -> 3x3 conv of concat[x, .] if concat_input -> dropout -> 1x1 conv

    Losses, sampling, ``align_corners`` and feature extraction are those of mmseg. The
    published checkpoints of its NLHead load unchanged with ``block=dict(
    type='NLBlock')``, those of its DNLHead with ``block=dict(type='DNLBlock')``.

    Args:
        block (dict): Config of the block. ``in_channels`` is set to ``channels``, and
            ``conv_cfg`` and ``norm_cfg`` to those of the head where the config has
            none and the head has some. A block without a batch norm of its own needs
            its ``norm_cfg`` here: None for CCBlock, ``dict(type='GN')`` for CGNLBlock.
        **kwargs: Options of mmseg's ``FCNHead``. ``num_convs`` must be 2, its default.

    Raises:
        ValueError: If ``block`` names no type or ``num_convs`` is not 2.
    """

    passed_on = dict(
        in_channels=Count | Sequence[Count],
        channels=Count,
        num_classes=Count,
        out_channels=Count | None,
        num_convs=Literal[2],
        kernel_size=Annotated[int, Range(1), Odd()],
        concat_input=bool,
        dilation=Count,
        dropout_ratio=Share | Literal[-1],
        threshold=Share | None,
        in_index=int | Sequence[int],
        input_transform=Literal['resize_concat', 'multiple_select'] | None,
        ignore_index=int | None,
        align_corners=bool,
        loss_decode=Cfg | Sequence[Cfg],
        conv_cfg=Cfg | None,
        norm_cfg=Cfg | None,
        act_cfg=Cfg | None,
        sampler=Cfg | None,
    )

    def __init__(self, block: Cfg | None = None, **kwargs) -> None:
        name = type(self).__name__
        super().__init__(**kwargs)
        if block is None:
            raise ValueError(
                f"{name}: block must be a config such as dict(type='SNLBlock'), but "
                'got None'
            )
        layers = dict(conv_cfg=self.conv_cfg, norm_cfg=self.norm_cfg)
        layers = {key: value for key, value in layers.items() if value is not None}
        self.nl_block = MODELS.build({**layers, **block, 'in_channels': self.channels})
        self._register_load_state_dict_pre_hook(_rename_dnl_block)

    @classmethod
    def refuse_options(cls, options: dict) -> None:
        """Raise ValueError if ``options`` are those of another head."""
        _check_options(cls, options)

    def _forward_feature(self, inputs: list[Tensor]) -> Tensor:
        """Features before the classifier.

        Args:
            inputs (list[Tensor]): Feature maps of the backbone.

        Returns:
            Tensor: (B, channels, H, W).
        """
        x = self._transform_inputs(inputs)
        features = self.convs[1](self.nl_block(self.convs[0](x)))
        if self.concat_input:
            features = self.conv_cat(torch.cat([x, features], dim=1))
        return features


@MODELS.register_module()
@checked
class SNLHead(NonLocalHead):
    """NonLocalHead with SNLBlock as in the original segmentation code.

    ``z = x + relu(BN(W_0 g - W_1 A g))``: the second term has a minus sign and the
    norm starts at one, so that, unlike other blocks, a new one is not the identity
    (Unifying Nonlocal Blocks for Neural Networks, Zhu et al. 2021). With 2048 input
    channels, 512 channels and 19 classes it has 24,262,163 parameters.
    ``tools/model_converters/snl_segmentation.py`` converts the original's weights.

    Args:
        reduction (int): Inner channels are ``channels // reduction``. Defaults to 2.
        block (dict, optional): Further options of SNLBlock. Defaults to None.
        use_scale (bool, optional): Without effect, as in the original, whose configs
            set it; a warning says so. Defaults to None.
        mode (str, optional): Likewise.
        **kwargs: Options of mmseg's ``FCNHead``.
    """

    def __init__(
        self,
        reduction: Count = 2,
        block: dict | None = None,
        use_scale: bool | None = None,
        mode: str | None = None,
        **kwargs,
    ) -> None:
        given = dict(use_scale=use_scale, mode=mode)
        idle = [name for name, value in given.items() if value is not None]
        if idle:
            print_log(
                f'SNLHead: {" and ".join(idle)} had no effect in the original and '
                'have none here. Delete them from the config',
                logger='current',
                level=logging.WARNING,
            )
        original = dict(type='SNLBlock', reduction=reduction, sign=-1, zeros_init=False)
        super().__init__(block={**original, **(block or {})}, **kwargs)


@MODELS.register_module()
@checked
class CGNLHead(NonLocalHead):
    """NonLocalHead with CGNLBlock (Compact Generalized Non-local Network, Yue et al.
    2018, https://arxiv.org/abs/1810.13125).

    Args:
        reduction (int): Inner channels are ``channels // reduction``. Defaults to 2.
        groups (int): Channel groups of the block and of its group norm.
            Defaults to 8.
        block (dict, optional): Further options of CGNLBlock. Defaults to None.
        **kwargs: Options of mmseg's ``FCNHead``. ``norm_cfg`` is that of the
            convolutions; the block keeps its group norm.
    """

    def __init__(
        self,
        reduction: Count = 2,
        groups: Count = 8,
        block: dict | None = None,
        **kwargs,
    ) -> None:
        options = dict(
            type='CGNLBlock',
            reduction=reduction,
            groups=groups,
            norm_cfg=dict(type='GN'),
        )
        super().__init__(block={**options, **(block or {})}, **kwargs)


@MODELS.register_module()
@checked
class RNLHead(NonLocalHead):
    """NonLocalHead with RNLBlock (Region-based Non-local Operation for Video
    Classification, Huang and Bors 2020, https://arxiv.org/abs/2007.09033).

    Args:
        reduction (int): Inner channels are ``channels // reduction``. Defaults to 2.
        kernel_size (int | Sequence[int]): Odd size of a region. Defaults to 3.
        block (dict, optional): Further options of RNLBlock. Defaults to None.
        **kwargs: Options of mmseg's ``FCNHead``.
    """

    def __init__(
        self,
        reduction: Count = 2,
        kernel_size: Count | tuple[Count, Count] = 3,
        block: dict | None = None,
        **kwargs,
    ) -> None:
        options = dict(type='RNLBlock', reduction=reduction, kernel_size=kernel_size)
        super().__init__(block={**options, **(block or {})}, **kwargs)


def _check_options(cls: type, kwargs: dict) -> None:
    """Refuse options of other heads, which a config inherits without _delete_."""
    bases = [base for base in cls.__mro__ if '__init__' in vars(base)]
    known = {
        name
        for base in bases[: bases.index(BaseDecodeHead) + 1]
        for name in inspect.signature(base.__init__).parameters
    }
    unknown = [name for name in kwargs if name not in known]
    if unknown:
        near = difflib.get_close_matches(unknown[0], known, n=1)
        raise ValueError(
            f'{cls.__name__} has no option {unknown[0]!r}'
            + (f', did you mean {near[0]!r}?' if near else '')
            + ': over a head of another kind write the whole head with _delete_=True, '
            'or keep that head and put a NonLocalNeck before it'
        )
    if isinstance(kwargs.get('in_channels'), (list, tuple)) and not kwargs.get(
        'input_transform'
    ):
        raise ValueError(
            f'{cls.__name__} got in_channels={kwargs["in_channels"]} of several '
            "levels: give input_transform='resize_concat' to join them, or write the "
            'whole head with _delete_=True; or keep the inherited head and put a '
            'NonLocalNeck before it'
        )


def _rename_dnl_block(state_dict: dict, prefix: str, *_) -> None:
    # mmseg's DNLHead is the same skeleton, only this attribute is called otherwise.
    old = f'{prefix}dnl_block.'
    for key in [key for key in state_dict if key.startswith(old)]:
        state_dict[f'{prefix}nl_block.{key[len(old) :]}'] = state_dict.pop(key)
