# Copyright (c) The nl_plugins authors. All rights reserved.
"""Decode heads: mmseg's FCN head with a non-local block between its convolutions."""

from __future__ import annotations

import torch
from mmseg.models.decode_heads import FCNHead
from mmseg.registry import MODELS
from torch import Tensor


@MODELS.register_module()
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
            none and the head has some.
        **kwargs: Options of mmseg's ``FCNHead``. ``num_convs`` must be 2, its default.

    Raises:
        ValueError: If ``block`` names no type or ``num_convs`` is not 2.
    """

    def __init__(self, block: dict, **kwargs) -> None:
        super().__init__(**kwargs)
        name = type(self).__name__
        if self.num_convs != 2:
            raise ValueError(
                f'{name}: num_convs must be 2, because the block sits between the two '
                f'convolutions, but got {self.num_convs}'
            )
        if not isinstance(block, dict) or 'type' not in block:
            raise ValueError(
                f"{name}: block must be a config such as dict(type='SNLBlock'), but "
                f'got {block!r}'
            )
        layers = dict(conv_cfg=self.conv_cfg, norm_cfg=self.norm_cfg)
        layers = {key: value for key, value in layers.items() if value is not None}
        self.nl_block = MODELS.build({**layers, **block, 'in_channels': self.channels})
        self._register_load_state_dict_pre_hook(_rename_dnl_block)

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


def _rename_dnl_block(state_dict: dict, prefix: str, *_) -> None:
    # mmseg's DNLHead is the same skeleton, only this attribute is called otherwise.
    old = f'{prefix}dnl_block.'
    for key in [key for key in state_dict if key.startswith(old)]:
        state_dict[f'{prefix}nl_block.{key[len(old) :]}'] = state_dict.pop(key)
