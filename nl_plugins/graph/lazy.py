# Copyright (c) The nl_plugins authors. All rights reserved.
"""Maps of a feature map that are computed when somebody asks, and whose weights a
strategy may use instead; and the one rule about whose weights may be read."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn as nn
from torch import Tensor
from torch.nn.modules import module as torch_module

from .precision import autocast_dtype, autocasts, full_precision
from .products import (
    concat_channels,
    is_row_major,
    mix,
    plain_product,
    tokens,
    transposed,
)

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
    """``x Wᵀ + b`` at every position of a feature map x (B, C, *S).

    A tensor for whoever asks (:func:`as_tensor`), computed once and together with the
    maps of the same x that share the list ``joint``; or weight (D, C), bias (D,) or
    None and x for a strategy that can do without it.
    """

    ndim = 3

    def __init__(
        self,
        feature_map: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        joint: list | None = None,
    ) -> None:
        self.feature_map, self.weight, self.bias = feature_map, weight, bias
        # What one product computes: (weight, bias) or, later, the value of every map;
        # None for one that another has replaced. No map holds another: in a circle
        # their memory would wait for Python's garbage collector.
        self.joint = [] if joint is None else joint
        self.index = len(self.joint)
        self.joint.append((weight, bias))
        batch, _, *spatial = feature_map.shape
        self.shape = (batch, math.prod(spatial), weight.shape[0])
        self.device = device = feature_map.device
        # A half-precision x says what the products give, as autocast does.
        own = feature_map.dtype
        self.dtype = autocast_dtype(device) if autocasts(device) else own

    @property
    def x(self) -> Tensor:
        """(B, N, C), a new view: autograd adds gradients in place where all meet at the
        map, and not where they meet at a view of it."""
        return tokens(self.feature_map)

    @property
    def is_computed(self) -> bool:
        return isinstance(self.joint[self.index], Tensor)

    def value(self, rows: bool) -> Tensor:
        """(B, N, D); all maps of the group in one product, if not computed yet."""
        if self.joint[self.index] is None:
            self.joint, self.index = [(self.weight, self.bias)], 0
        if not self.is_computed:
            self._compute(rows)
        return self.joint[self.index]

    def _compute(self, rows: bool) -> None:
        open_ = [i for i, each in enumerate(self.joint) if isinstance(each, tuple)]
        weights, biases = zip(*(self.joint[i] for i in open_))
        weight = torch.cat(weights) if len(weights) > 1 else weights[0]
        bias = _joined_bias(weights, biases)
        bias = None if bias is None else bias.to(self.dtype)
        weight, x = weight.to(self.dtype), self.x.to(self.dtype)
        factor = transposed(weight.unsqueeze(0).expand(x.shape[0], -1, -1))
        with full_precision(x.device):
            out = plain_product(x, factor, bias, rows=rows)
        values = out.split_with_sizes([w.shape[0] for w in weights], dim=-1)
        for i, value in zip(open_, values):
            self.joint[i] = value

    def _replaced(
        self, weight: Tensor, bias: Tensor | None, *others: LinearMap
    ) -> LinearMap:
        """Another map of x in place of this and others of the group."""
        for each in (self, *others):
            self.joint[each.index] = None
        return LinearMap(self.feature_map, weight, bias, self.joint)


def _joined_bias(
    weights: Sequence[Tensor], biases: Sequence[Tensor | None]
) -> Tensor | None:
    if all(bias is None for bias in biases):
        return None
    each = [
        weight.new_zeros(weight.shape[0]) if bias is None else bias
        for weight, bias in zip(weights, biases)
    ]
    return torch.cat(each) if len(each) > 1 else each[0]


#: What affinities take: (B, positions, channels).
Map = Tensor | LinearMap


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


def common_source(*maps: Map) -> LinearMap | None:
    """The first, if all of them are joint maps of one x, none of them computed yet."""
    first = maps[0]
    for each in maps:
        if (
            not isinstance(each, LinearMap)
            or each.is_computed
            or each.joint is not first.joint
        ):
            return None
    return first


def side_by_side(first: Map, second: Map) -> Map:
    """Two maps as one of all their channels, in place of them."""
    if common_source(first, second) is None:
        return concat_channels(as_tensor(first), as_tensor(second))
    weights = [first.weight, second.weight]
    bias = _joined_bias(weights, [first.bias, second.bias])
    return first._replaced(torch.cat(weights), bias, second)


def then(map_: Map, weight: Tensor, bias: Tensor | None = None) -> Map:
    """``weight @ map + bias`` at every position, in place of the map."""
    if common_source(map_) is None:
        return mix(as_tensor(map_), weight, bias)
    own = None if map_.bias is None else weight @ map_.bias
    if bias is not None:
        own = bias if own is None else own + bias
    return map_._replaced(weight @ map_.weight, own)


def without_bias(map_: Map) -> tuple[Map, Tensor | None]:
    """A linear map without its bias, in place of the map, and the bias; what is
    computed already as it is, and None."""
    if common_source(map_) is None or map_.bias is None:
        return map_, None
    return map_._replaced(map_.weight, None), map_.bias
