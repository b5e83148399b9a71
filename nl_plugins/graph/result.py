# Copyright (c) The nl_plugins authors. All rights reserved.
"""A result on its way to the output: in place where nobody can tell, as fresh memory
costs more than an addition."""

from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .lazy import untouched
from .precision import is_traced, may_learn


class Result:
    """A map that nobody else holds yet, and what is done to it.

    Its memory is reused if no backward pass follows, or if it is what a norm or an
    activation has just returned: autograd copies a map to add to a view in place.
    """

    def __init__(self, value: Tensor) -> None:
        self.value = value
        self._writable = not may_learn()

    def to(self, dtype: torch.dtype) -> Result:
        self.value = self.value.to(dtype)
        return self

    def called(self, layer: nn.Module, is_norm: bool = False) -> Result:
        """What a layer returns, which it or its hooks may hold."""
        self.value = layer(self.value)
        own = untouched(layer) and type(layer).__module__.startswith('torch.nn')
        self._writable = is_norm and own
        return self

    def relu(self) -> Result:
        """``max(x, 0)`` of slope 1 at 0: a block that starts there would stay."""
        if is_traced():  # a traced module can be trained
            self.value, self._writable = self.value.relu(), False
        elif torch.is_grad_enabled():
            info = torch.finfo(self.value.dtype)
            least = -info.smallest_normal * info.eps
            self.value, self._writable = F.threshold(self.value, least, 0), True
        else:
            self.value = rectified(self.value, self._writable)
            self._writable = True
        return self

    def plus(self, other: Tensor) -> Result:
        """The sum, laid out as a map ``other`` is."""
        own = self.value
        if (
            self._writable
            and own.dtype == other.dtype
            and (own.shape != other.shape or own.stride() == other.stride())
        ):
            own.add_(other)
        else:
            self.value = other + own
        return self


def rectified(x: Tensor, owned: bool = True) -> Tensor:
    """``max(x, 0)``, of what nobody else holds in its memory."""
    return torch.relu_(x) if owned and not may_learn() else torch.relu(x)
