# Copyright (c) The nl_plugins authors. All rights reserved.
"""Affinities and filters: the one place where the package computes."""

from .affinity import Affinity, SumAffinity
from .concat import ConcatAffinity
from .criss_cross import CrissCrossAffinity
from .dot import (
    CompactAffinity,
    DotAffinity,
    LowRankAffinity,
    SymmetricAffinity,
    UnaryAffinity,
)
from .filters import arma, cayley, chebyshev, laplacian
from .plan import force
from .precision import debug
from .softmax import ReLUAffinity, SoftmaxAffinity

__all__ = [
    'Affinity',
    'CompactAffinity',
    'ConcatAffinity',
    'CrissCrossAffinity',
    'DotAffinity',
    'LowRankAffinity',
    'ReLUAffinity',
    'SoftmaxAffinity',
    'SumAffinity',
    'SymmetricAffinity',
    'UnaryAffinity',
    'arma',
    'cayley',
    'chebyshev',
    'debug',
    'force',
    'laplacian',
]
