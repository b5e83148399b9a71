# Copyright (c) The nl_plugins authors. All rights reserved.
"""What every non-local block shares: options, projections, initialisation."""

from __future__ import annotations

from typing import Any, ClassVar

import torch.nn as nn
from mmengine.model import BaseModule
from mmengine.model.weight_init import initialize, update_init_info
from torch import Tensor

from ..graph import Affinity

# Norm types whose layer depends on the number of spatial dimensions.
_DIMENSIONAL_NORMS = ('BN', 'IN')


class NonLocalBlock(BaseModule):
    """Base of the blocks ``z = x + out(filter(A(x), g(x)))``.

    A block turns a feature map x (B, C, *S) with ``len(S) == ndim`` into a graph whose
    nodes are the N = prod(S) positions, filters an embedding of x on it and adds the
    result to x; the shape never changes. A subclass defines ``affinity(x)`` and
    ``forward(x)``, sets ``_abbr_`` (the prefix of its checkpoint keys as a plugin) and
    lists in ``variants`` the options that tests, benchmarks and docs run through.

    Args:
        in_channels (int): Channels C of the input and the output.
        ndim (int): Spatial dimensions of the input: 1, 2 or 3. Defaults to 2.
        reduction (int): Inner channels are ``in_channels // reduction``.
            Defaults to 2, half the channels (Wang et al. 2018, sec. 3.3).
        conv_cfg (dict, optional): Convolution layer; None means
            ``Conv1d/2d/3d`` by ``ndim``. Defaults to None.
        norm_cfg (dict, optional): Norm of the output; ``type='BN'`` becomes
            ``BN1d/2d/3d`` by ``ndim``. Defaults to None, no norm.
        init_cfg (dict, optional): Overrides the block's own initialisation.

    Raises:
        ValueError: If an option is outside its choices, or an input of another rank
            or width arrives.
    """

    ndims: ClassVar[tuple[int, ...]] = (1, 2, 3)
    variants: ClassVar[dict[str, dict[str, Any]]] = {'default': {}}

    def __init__(
        self,
        in_channels: int,
        *,
        ndim: int = 2,
        reduction: int = 2,
        conv_cfg: dict | None = None,
        norm_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        name = type(self).__name__
        check_choice(name, 'ndim', ndim, self.ndims)
        if not isinstance(in_channels, int) or in_channels < 1:
            raise ValueError(
                f'{name}: in_channels must be a positive integer, but got '
                f'{in_channels!r}'
            )
        if not 1 <= reduction <= in_channels:
            raise ValueError(
                f'{name}: reduction must be between 1 and in_channels={in_channels}, '
                f'but got {reduction!r}'
            )
        self.in_channels = in_channels
        self.inner_channels = int(in_channels // reduction)
        self.ndim = ndim
        self.reduction = reduction
        self.conv_cfg = conv_cfg or dict(type=f'Conv{ndim}d')
        self.norm_cfg = dimensional_norm(norm_cfg, ndim)

    def affinity(self, x: Tensor) -> Affinity:
        """The graph of the input x (B, C, *S), an affinity of shape (B, N, M)."""
        raise NotImplementedError(f'{type(self).__name__} does not define affinity()')

    def key_grid(self, spatial: tuple[int, ...]) -> tuple[int, ...]:
        """Grid of the M key positions for an input of size ``spatial``."""
        return tuple(spatial)

    def reset_parameters(self) -> None:
        """Draw the parameters as the paper's code does."""

    def init_weights(self) -> None:
        """Initialise; may be called any number of times, last call counts."""
        self.reset_parameters()
        if hasattr(self, '_params_init_info'):
            update_init_info(self, f'Initialised by {type(self).__name__}')
        if self.init_cfg:
            initialize(self, self.init_cfg)
        self._is_init = True

    def conv(
        self,
        in_channels: int,
        out_channels: int,
        *,
        bias: bool = True,
        norm_cfg: dict | None = None,
    ) -> nn.Module:
        """A 1x1 ConvModule without activation: keys ``conv.*``, and ``bn.*`` etc."""
        from mmcv.cnn import ConvModule  # 0.2 s that `import nl_plugins` need not pay

        return ConvModule(
            in_channels,
            out_channels,
            kernel_size=1,
            bias=bias,
            conv_cfg=self.conv_cfg,
            norm_cfg=dimensional_norm(norm_cfg, self.ndim),
            act_cfg=None,
        )

    def project(self, x: Tensor, *convs: nn.Module) -> list[Tensor]:
        """The maps of several 1x1 convolutions of x, each (B, N, channels)."""
        return [tokens(conv(x)) for conv in convs]

    def check_input(self, x: Tensor) -> None:
        """Raise ValueError unless x is (B, in_channels, *S) with ndim sizes in S."""
        if x.ndim != self.ndim + 2 or x.shape[1] != self.in_channels:
            sizes = ', '.join('LHT'[:1] if self.ndim == 1 else 'THW'[-self.ndim :])
            raise ValueError(
                f'{type(self).__name__} with in_channels={self.in_channels}, '
                f'ndim={self.ndim} takes (batch, {self.in_channels}, {sizes}), but got '
                f'{tuple(x.shape)}'
            )


def tokens(x: Tensor) -> Tensor:
    """(B, C, *S) -> (B, N, C), a view."""
    return x.flatten(2).mT


def fold(positions: Tensor, like: Tensor) -> Tensor:
    """(B, N, C) -> (B, C, *S) with the sizes S of ``like``."""
    return positions.mT.reshape(positions.shape[0], -1, *like.shape[2:])


def matrix(conv: nn.Module) -> Tensor:
    """The (out_channels, in_channels) weight of a 1x1 convolution or ConvModule."""
    return getattr(conv, 'conv', conv).weight.flatten(1)


def dimensional_norm(norm_cfg: dict | None, ndim: int) -> dict | None:
    """``norm_cfg`` with ``type='BN'`` made ``BN1d/2d/3d`` (and IN likewise)."""
    if norm_cfg is None or norm_cfg.get('type') not in _DIMENSIONAL_NORMS:
        return norm_cfg
    return {**norm_cfg, 'type': f'{norm_cfg["type"]}{ndim}d'}


def check_choice(name: str, option: str, value: Any, choices: Any) -> None:
    """Raise ValueError unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ValueError(
            f'{name}: {option} must be one of {list(choices)}, but got {value!r}'
        )
