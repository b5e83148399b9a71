# Copyright (c) The nl_plugins authors. All rights reserved.
"""What every non-local block shares: options, projections, initialisation."""

from __future__ import annotations

import math
import warnings
from typing import Any, ClassVar, Literal, get_args

import torch
import torch.nn as nn
from mmengine.model import BaseModule
from mmengine.model.weight_init import initialize, update_init_info
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import Tensor

from ..graph import Affinity
from ..graph.lazy import LinearMap, Map, as_tensor, transparent
from ..graph.precision import is_traced
from ..graph.products import is_row_major, tokens, transposed
from ..graph.result import Result
from ..options import Cfg, Count, check, checked, documented, parameters

# Norm types whose layer depends on the number of spatial dimensions.
_DIMENSIONAL_NORMS = ('BN', 'IN')
_PLAIN_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)

#: How the weights of the convolutions are drawn, see :func:`draw`.
Init = Literal['normal', 'mmcv', 'kaiming_fan_in', 'kaiming_fan_out', 'pytorch']
INITS = get_args(Init)


@checked
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
        init (str): How convolutions are drawn. ``'normal'``: N(0, 0.01), bias 0;
            ``'mmcv'``: the same, but an output convolution before a norm is Kaiming
            normal by fan-out, and a norm that is not zeroed N(0, 0.01);
            ``'kaiming_fan_out'``: bias 0; ``'kaiming_fan_in'``: bias as PyTorch draws
            it; ``'pytorch'``: PyTorch's default. Defaults to 'normal'.
        zeros_init (bool | str): True zeroes the last layer of the output, its norm if
            it has one, so that the new block is the identity; ``'conv'`` zeroes the
            output convolution even before a norm; False zeroes nothing.
            Defaults to True.
        init_cfg (dict, optional): Overrides the block's own initialisation.

    Raises:
        TypeError: If an option does not exist.
        ValueError: If an option is outside its choices, or an input of another rank
            or width arrives.
    """

    ndims: ClassVar[tuple[int, ...]] = (1, 2, 3)
    variants: ClassVar[dict[str, dict[str, Any]]] = {'default': {}}

    def __init__(
        self,
        in_channels: Count,
        *,
        ndim: Literal[1, 2, 3] = 2,
        reduction: Count = 2,
        conv_cfg: Cfg | None = None,
        norm_cfg: Cfg | None = None,
        init: Init = 'normal',
        zeros_init: Literal[True, False, 'conv'] = True,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg)
        name = type(self).__name__
        check(name, 'ndim', ndim, Literal[self.ndims])
        if reduction > in_channels:
            raise ValueError(
                f'{name}: reduction must be between 1 and in_channels={in_channels}, '
                f'but got {reduction!r}'
            )
        self.in_channels = in_channels
        self.inner_channels = in_channels // reduction
        self.ndim = ndim
        self.reduction = reduction
        self.conv_cfg = conv_cfg or dict(type=f'Conv{ndim}d')
        self.norm_cfg = dimensional_norm(norm_cfg, ndim)
        self.init = init
        self.zeros_init = zeros_init
        self.num_terms = 1  # terms of the filter that conv_out joins

    @property
    def starts_as_identity(self) -> bool:
        """Whether the block gives back its input bit for bit after init_weights()."""
        return bool(self.zeros_init)

    @classmethod
    def options(cls) -> list[str]:
        """Names of the options that the constructor takes."""
        known, _ = parameters(cls)
        return sorted(set(known) - {'in_channels'})

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        documented(checked(cls))

    def __repr__(self) -> str:
        given = {**self._given}
        options = [repr(given.pop('in_channels', self.in_channels))]
        options += [f'{name}={value!r}' for name, value in given.items()]
        return f'{type(self).__name__}({", ".join(options)})'

    def affinity(self, x: Tensor) -> Affinity:
        """The graph of the input x (B, C, *S), an affinity of shape (B, N, M)."""
        raise NotImplementedError(f'{type(self).__name__} does not define affinity()')

    def key_grid(self, spatial: tuple[int, ...]) -> tuple[int, ...]:
        """Grid of the M key positions for an input of size ``spatial``."""
        return tuple(spatial)

    def reset_parameters(self) -> None:
        """Draw every layer as ``init`` says, then zero as ``zeros_init`` says.

        The outputs are the ConvModules called ``conv_out``, at any depth.
        """
        for module in self.modules():
            if isinstance(module, (*_PLAIN_CONVS, nn.Linear)):
                draw(module, self.init)
            elif isinstance(module, _NORMS) and module.weight is not None:
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
        for name, module in self.named_modules():
            if name.split('.')[-1] == 'conv_out':
                self.reset_output(module)

    def reset_output(self, conv_out: nn.Module) -> None:
        """Draw and zero one output ConvModule."""
        init = self.init
        if init == 'mmcv' and conv_out.norm is not None:
            init = 'kaiming_fan_out'
        draw(conv_out.conv, init, self.num_terms)
        if self.zeros_init == 'conv' or (self.zeros_init and conv_out.norm is None):
            zero(conv_out.conv)
        elif self.zeros_init:
            zero(conv_out.norm)
        elif self.init == 'mmcv' and conv_out.norm is not None:
            nn.init.normal_(conv_out.norm.weight, std=0.01)

    def init_weights(self) -> None:
        """Initialise; may be called any number of times, last call counts."""
        self.reset_parameters()
        if hasattr(self, '_params_init_info'):
            update_init_info(self, f'Initialised by {type(self).__name__}')
        apply_init_cfg(self)
        # `is_init` stays False: a parent's init_weights() passes over modules that
        # claim to be initialised after it has redrawn their layers by type.

    def conv(
        self,
        in_channels: int,
        out_channels: int,
        *,
        bias: bool = True,
        groups: int = 1,
        norm_cfg: dict | None = None,
        act_cfg: dict | None = None,
    ) -> nn.Module:
        """A 1x1 ConvModule: keys ``conv.*``, and ``bn.*`` or another norm's."""
        from mmcv.cnn import ConvModule  # 0.2 s that `import nl_plugins` need not pay

        with warnings.catch_warnings():
            # Several originals have a bias before the norm.
            warnings.filterwarnings('ignore', 'Unnecessary conv bias')
            layers = dict(
                conv_cfg=self.conv_cfg,
                norm_cfg=dimensional_norm(norm_cfg, self.ndim),
                act_cfg=act_cfg,
            )
            try:
                return ConvModule(
                    in_channels,
                    out_channels,
                    kernel_size=1,
                    bias=bias,
                    groups=groups,
                    inplace=False,
                    **layers,
                )
            except (AssertionError, KeyError, TypeError, ValueError) as error:
                given = ', '.join(
                    f'{key}={cfg!r}' for key, cfg in layers.items() if cfg
                )
                raise ValueError(
                    f'{type(self).__name__}: a convolution of {in_channels} to '
                    f'{out_channels} channels cannot be built with {given}: one names '
                    'no layer of mmcv or torch, or has an option that does not fit '
                    f'({error})'
                ) from error

    def maps(self, x: Tensor, *layers: nn.Module) -> list[Map]:
        """The maps of several layers of x (B, C, *S), each (B, N, channels).

        Those of plain 1x1 convolutions are computed when somebody asks for them, and
        together; see :class:`..graph.lazy.LinearMap`. Every other layer is called.
        """
        joint: list = []
        pairs = [linear_map(layer) for layer in layers]
        return [
            LinearMap(x, *pair, joint) if pair else tokens(layer(x))
            for layer, pair in zip(layers, pairs)
        ]

    def project(self, x: Tensor, *layers: nn.Module) -> list[Tensor]:
        """:meth:`maps` as tensors."""
        return [as_tensor(each) for each in self.maps(x, *layers)]

    def at_positions(self, layer: nn.Module, positions: Tensor) -> Tensor:
        """``layer`` of a map (B, N, C), whose grid it need not know."""
        maps, pair = transposed(positions), linear_map(layer)
        if pair is None:
            return tokens(layer(maps.reshape(*maps.shape, *[1] * (self.ndim - 1))))
        return as_tensor(LinearMap(maps, *pair))

    def output(
        self, x: Tensor, filtered: Tensor, conv_out: nn.Module | None = None
    ) -> Tensor:
        """``x + conv_out(...)``: what follows the weight of conv_out, then the sum.

        Args:
            x (Tensor): Input of the block, (B, C, *S).
            filtered (Tensor): (B, N, C), the filter's result after the weight
                ``matrix(conv_out)``, or, where that is None, what the layer is called
                with, (B, N, C'); its memory may hold the sum afterwards.
            conv_out (nn.Module, optional): A ConvModule; None means
                ``self.conv_out``.
        """
        conv_out = self.conv_out if conv_out is None else conv_out
        out = Result(fold(filtered, x))
        del filtered
        if not transparent(conv_out):
            return out.to(x.dtype).called(conv_out).plus(x).value.to(x.dtype)
        weight, bias = conv_out.conv.weight, conv_out.conv.bias
        out.to(weight.dtype)
        if bias is not None:
            out.plus(bias.view(-1, *[1] * self.ndim))
        if conv_out.norm is not None:
            out.called(conv_out.norm, is_norm=True)
        if conv_out.with_activation and transparent(conv_out.activate):
            out.relu()
        elif conv_out.with_activation:
            out.called(conv_out.activate)
        return out.plus(x).value.to(x.dtype)

    def check_input(self, x: Tensor) -> None:
        """Raise ValueError unless x is (B, in_channels, *S), len(S) == ndim, filled."""
        if x.ndim != self.ndim + 2 or x.shape[1] != self.in_channels:
            sizes = ', '.join('LHT'[:1] if self.ndim == 1 else 'THW'[-self.ndim :])
            raise ValueError(
                f'{type(self).__name__} with in_channels={self.in_channels}, '
                f'ndim={self.ndim} takes (batch, {self.in_channels}, {sizes}), but got '
                f'{tuple(x.shape)}'
            )
        if not is_traced() and 0 in x.shape:
            kind = 'map' if x.shape[0] else 'batch'
            raise ValueError(
                f'{type(self).__name__} got an empty {kind} {tuple(x.shape)}: leave '
                'such inputs out of the loader'
            )


def apply_init_cfg(module: BaseModule) -> None:
    """Initialise a module as its ``init_cfg`` says, if it has one.

    Raises:
        ValueError: If that names no initialiser, or one that does not take it.
    """
    if not module.init_cfg:
        return
    try:
        initialize(module, module.init_cfg)
    except (AttributeError, KeyError, RuntimeError, TypeError) as error:
        reason = ' '.join(str(error.args[0]).split()).split('. ')[0]
        raise ValueError(
            f'{type(module).__name__}: init_cfg={module.init_cfg!r} cannot be applied '
            f'({reason}); its type is one of {sorted(WEIGHT_INITIALIZERS.module_dict)}'
        ) from error


def linear_map(layer: nn.Module) -> tuple[Tensor, Tensor | None] | None:
    """Weight (D, C) and bias of a layer that is a plain 1x1 convolution and no more."""
    if not transparent(layer):
        return None
    conv = getattr(layer, 'conv', layer)
    if conv is not layer and (layer.with_norm or layer.with_activation):
        return None
    return conv.weight.flatten(1), conv.bias


def matrix(layer: nn.Module) -> Tensor | None:
    """The weight (D, C) of a 1x1 convolution or ConvModule, or None if it has to be
    called: another layer, or one that somebody listens to or computes the weight of.
    """
    if not transparent(layer):
        return None
    return getattr(layer, 'conv', layer).weight.flatten(1)


def fold(positions: Tensor, like: Tensor) -> Tensor:
    """(B, N, C) -> (B, C, *S) with the sizes S and the layout of ``like``."""
    maps = transposed(positions).reshape(positions.shape[0], -1, *like.shape[2:])
    if is_row_major(tokens(like)) and not like.is_contiguous():  # channels last
        return maps
    # Of one small sample, torch's batch norm in eval mode returns wrong gradients when
    # its batch stride is odd.
    return maps.contiguous()


def draw(layer: nn.Module, init: str, num_terms: int = 1) -> None:
    """Draw a convolution or linear layer in place.

    Args:
        layer (nn.Module): With ``weight`` and maybe ``bias``.
        init (str): One of :data:`INITS`; ``'mmcv'`` is ``'normal'`` here.
        num_terms (int): The input joins this many equal parts, which the paper gives
            a layer each: the fan-in is that of one part. Defaults to 1.
    """
    layer.reset_parameters()
    if init in ('normal', 'mmcv'):
        nn.init.normal_(layer.weight, std=0.01)
    elif init.startswith('kaiming'):
        mode = init.removeprefix('kaiming_')
        nn.init.kaiming_normal_(layer.weight, mode=mode, nonlinearity='relu')
    if init in ('pytorch', 'kaiming_fan_in') and num_terms > 1:
        with torch.no_grad():
            layer.weight *= math.sqrt(num_terms)
    if init in ('normal', 'mmcv', 'kaiming_fan_out') and layer.bias is not None:
        nn.init.zeros_(layer.bias)


def zero(layer: nn.Module) -> None:
    """Zero the weight and the bias of a layer in place."""
    for parameter in (layer.weight, layer.bias):
        if parameter is not None:
            nn.init.zeros_(parameter)


def dimensional_norm(norm_cfg: dict | None, ndim: int) -> dict | None:
    """``norm_cfg`` with ``type='BN'`` made ``BN1d/2d/3d`` (and IN likewise)."""
    if norm_cfg is None or norm_cfg.get('type') not in _DIMENSIONAL_NORMS:
        return norm_cfg
    return {**norm_cfg, 'type': f'{norm_cfg["type"]}{ndim}d'}
