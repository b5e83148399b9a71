# Copyright (c) The nl_plugins authors. All rights reserved.
"""What the three-stage residual networks for 32x32 images share."""

from collections.abc import Callable, Sequence
from typing import Literal

from mmengine.model import Sequential
from mmpretrain.models.backbones.base_backbone import BaseBackbone
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

OutIndices = Sequence[Literal[0, 1, 2]]
FrozenStages = Literal[-1, 0, 1, 2, 3]


class CIFARStages(BaseBackbone):
    """Stem, ``layer1``, ``layer2``, ``layer3`` (strides 1, 2, 2) and a tail.

    A subclass sets ``stem_names`` and ``tail_names``, the modules before and after the
    stages, and fills the stages with :meth:`make_stages`.

    Args:
        out_indices (Sequence[int]): Stages (0, 1, 2) whose output is returned.
        frozen_stages (int): Stem and so many stages stay fixed; -1 means none.
        norm_eval (bool): Whether batch norms use their running statistics in
            training.
        init_cfg (dict | list[dict], optional): Initialisation.

    Raises:
        ValueError: If ``out_indices`` or ``frozen_stages`` lie outside.
    """

    stages = ('layer1', 'layer2', 'layer3')
    stem_names: tuple[str, ...] = ()
    tail_names: tuple[str, ...] = ()

    def __init__(self, out_indices, frozen_stages, norm_eval, init_cfg) -> None:
        super().__init__(init_cfg)
        self.out_indices = tuple(out_indices)
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval

    def make_stages(
        self,
        block: Callable[[int, int, int], nn.Module],
        num_blocks: int,
        base_channels: int,
        expansion: int,
    ) -> int:
        """Fill the stages with ``block(in_channels, width, stride)``.

        Returns:
            int: Channels of the last stage, ``4 * base_channels * expansion``.
        """
        channels = base_channels
        for i, stage in enumerate(self.stages):
            width = base_channels * 2**i
            blocks = []
            for j in range(num_blocks):
                blocks.append(block(channels, width, 2 if i and not j else 1))
                channels = width * expansion
            # mmengine's Sequential passes init_weights() on to inserted blocks.
            self.add_module(stage, Sequential(*blocks))
        return channels

    def stem(self, x: Tensor) -> Tensor:
        """What comes before ``layer1``."""
        raise NotImplementedError

    def tail(self, x: Tensor) -> Tensor:
        """What comes after ``layer3``."""
        return x

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Images (B, C, H, W) -> the maps of ``out_indices``; with ``layer3`` the tail.

        For 32x32 images the stages give 32x32, 16x16 and 8x8.
        """
        outputs = []
        x = self.stem(x)
        for i, stage in enumerate(self.stages):
            x = getattr(self, stage)(x)
            if i in self.out_indices:
                outputs.append(self.tail(x) if i == 2 else x)
        return tuple(outputs)

    def _freeze_stages(self) -> None:
        if self.frozen_stages < 0:
            return
        frozen = [*self.stem_names, *self.stages[: self.frozen_stages]]
        if self.frozen_stages == 3:
            frozen += self.tail_names
        for name in frozen:
            module = getattr(self, name)
            module.eval()
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> 'CIFARStages':
        """Switch modes; frozen stages and ``norm_eval`` norms stay in eval mode."""
        super().train(mode)
        if mode:
            self._freeze_stages()
            if self.norm_eval:
                for module in self.modules():
                    if isinstance(module, _BatchNorm):
                        module.eval()
        return self
