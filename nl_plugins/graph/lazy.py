# Copyright (c) The nl_plugins authors. All rights reserved.
"""Maps of a feature map that are computed when somebody asks, and whose weights a
strategy may use instead; and the one rule about whose weights may be read."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn as nn
from torch import Tensor
from torch.nn.modules import module as torch_module

from .precision import autocast_dtype, autocasts, full_precision
from .products import concat_channels, is_row_major, mix, plain_product, transposed

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def transparent(layer: nn.Module | None) -> bool:
    """Whether reading what ``layer`` holds does all that calling it would do.

    True for exactly a plain 1x1 convolution of torch or mmcv's wrapper of it, mmcv's
    ``ConvModule`` around one (its norm and activation are modules of their own, which
    are called) and ``nn.ReLU``; with no hook of any kind on the layer or on all
    modules, no ``forward`` of its own, and a weight that is its own parameter: not
    pruned, normalised, parametrised, quantised or wrapped.
    """
    return untouched(layer) and (
        type(layer) is nn.ReLU
        or _is_plain_conv(layer)
        or (
            _is_conv_module(layer)
            and untouched(layer.conv)
            and _is_plain_conv(layer.conv)
        )
    )


def untouched(layer: nn.Module | None) -> bool:
    """Whether nothing listens to calls of ``layer`` or stands in for them."""
    # Spelt out: this runs for every layer in every forward pass.
    return isinstance(layer, nn.Module) and not (
        layer._forward_hooks
        or layer._forward_pre_hooks
        or layer._backward_hooks
        or layer._backward_pre_hooks
        or 'forward' in layer.__dict__
        or layer._compiled_call_impl is not None
        or torch_module._global_forward_hooks
        or torch_module._global_forward_pre_hooks
        or torch_module._global_backward_hooks
        or torch_module._global_backward_pre_hooks
    )


def _is_conv_module(layer: nn.Module) -> bool:
    # By name: the graph core needs torch alone.
    kind = type(layer)
    return (
        kind.__name__ == 'ConvModule'
        and kind.__module__ == 'mmcv.cnn.bricks.conv_module'
        and tuple(layer.order) == ('conv', 'norm', 'act')
        and not layer.with_explicit_padding
        and getattr(layer, 'efficient_conv_bn_eval_forward', None) is None
    )


def _is_plain_conv(layer: nn.Module) -> bool:
    kind = type(layer)
    # 'Conv3d' of mmcv's registry is a wrapper of torch's layer that does the same.
    if kind not in _CONVS and not (
        kind.__module__ == 'mmcv.cnn.bricks.wrappers' and isinstance(layer, _CONVS)
    ):
        return False
    weight = layer._parameters.get('weight')
    return (
        type(weight) in (nn.Parameter, Tensor)
        and 'weight' not in layer.__dict__
        and layer.groups == 1
        # Of a kernel of ones, whatever its dimensions.
        and weight.numel() == layer.in_channels * layer.out_channels
        and max(layer.stride) == 1
        and layer.padding == (0,) * len(layer.stride)
    )


class LinearMap:
    """``x Wᵀ + b`` at every position of x (B, N, C).

    A tensor for whoever asks (:func:`as_tensor`), computed once and together with the
    other maps of :func:`linear_maps`; or weight (D, C), bias (D,) or None and x for a
    strategy that can do without it.
    """

    ndim = 3

    def __init__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
        self.x, self.weight, self.bias = x, weight, bias
        self.group: list[LinearMap] = [self]
        self._value: Tensor | None = None
        self.shape = (*x.shape[:2], weight.shape[0])
        self.device = x.device
        # A half-precision x says what the products give, as autocast does.
        self.dtype = autocast_dtype(x.device) if autocasts(x.device) else x.dtype

    @property
    def is_computed(self) -> bool:
        return self._value is not None

    def value(self, rows: bool) -> Tensor:
        """(B, N, D); all maps of the group in one product, if not computed yet."""
        if self._value is None:
            self._compute(rows)
        return self._value

    def _compute(self, rows: bool) -> None:
        group = self.group
        weight = torch.cat([m.weight for m in group]) if len(group) > 1 else self.weight
        bias = _joined_bias(group)
        weight, x = weight.to(self.dtype), self.x.to(self.dtype)
        weights = weight.unsqueeze(0).expand(x.shape[0], -1, -1)
        with full_precision(x.device):
            out = plain_product(x, transposed(weights), bias, rows=rows)
        widths = [m.weight.shape[0] for m in group]
        for member, value in zip(group, out.split_with_sizes(widths, dim=-1)):
            member._value = value

    def _replace(self, *replaced: LinearMap) -> LinearMap:
        """Take the place of other maps of the same x in their group."""
        others = [m for m in replaced[0].group if m not in replaced]
        self.group = [self, *others]
        for member in others:
            member.group = self.group
        return self


def _joined_bias(group: Sequence[LinearMap]) -> Tensor | None:
    if all(m.bias is None for m in group):
        return None
    biases = [
        m.weight.new_zeros(m.weight.shape[0]) if m.bias is None else m.bias
        for m in group
    ]
    bias = torch.cat(biases) if len(biases) > 1 else biases[0]
    return bias.to(group[0].dtype)


#: What affinities take: (B, positions, channels).
Map = Tensor | LinearMap


def linear_maps(x: Tensor, *linear: tuple[Tensor, Tensor | None]) -> list[LinearMap]:
    """The maps of x (B, N, C) by pairs of weight and bias, computed together."""
    maps = [LinearMap(x, weight, bias) for weight, bias in linear]
    for each in maps:
        each.group = maps
    return maps


def as_tensor(map_: Map, rows: bool | None = None) -> Tensor:
    """The map itself, laid out as the x it is a map of; ``rows``: with the channels
    of a position as neighbours, as fused attention wants them, if that is free."""
    if not isinstance(map_, LinearMap):
        return map_
    return map_.value(wants_rows(map_) if rows is None else rows)


def lowered(map_: Map, dtype: torch.dtype) -> Map:
    """A float32 map in half precision; a linear map is of that dtype already."""
    return map_.to(dtype) if map_.dtype == torch.float32 else map_


def wants_rows(map_: Map) -> bool:
    """Whether results should have the channels of a position as neighbours."""
    return is_row_major(map_.x if isinstance(map_, LinearMap) else map_)


def common_source(*maps: Map) -> Tensor | None:
    """The x that all of them are linear maps of, none of them computed yet."""
    first = maps[0]
    for each in maps:
        if not isinstance(each, LinearMap) or each.is_computed or each.x is not first.x:
            return None
    return first.x


def side_by_side(first: Map, second: Map) -> Map:
    """Two maps as one of all their channels, in place of them."""
    if common_source(first, second) is None or first.group is not second.group:
        return concat_channels(as_tensor(first), as_tensor(second))
    joint = LinearMap(
        first.x, torch.cat([first.weight, second.weight]), _joined_bias([first, second])
    )
    return joint._replace(first, second)


def then(map_: Map, weight: Tensor, bias: Tensor | None = None) -> Map:
    """``weight @ map + bias`` at every position, in place of the map."""
    if common_source(map_) is None:
        return mix(as_tensor(map_), weight, bias)
    own = None if map_.bias is None else weight @ map_.bias
    if bias is not None:
        own = bias if own is None else own + bias
    return LinearMap(map_.x, weight @ map_.weight, own)._replace(map_)


def without_bias(map_: Map) -> tuple[Map, Tensor | None]:
    """A linear map without its bias, in place of the map, and the bias; what is
    computed already as it is, and None."""
    if common_source(map_) is None or map_.bias is None:
        return map_, None
    return LinearMap(map_.x, map_.weight, None)._replace(map_), map_.bias
