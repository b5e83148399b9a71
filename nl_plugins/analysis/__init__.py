# Copyright (c) The nl_plugins authors. All rights reserved.
"""Looking inside: where a block attends, its graph's spectrum, its cost."""

from .ablation import ablate
from .complexity import BlockComplexity, Complexity, model_complexity
from .dependence import QueryDependence, query_dependence
from .explain import Explanation, explain
from .hook import NonLocalVisualizationHook
from .memory import peak_memory
from .order import frame_order
from .reach import ReceptiveField, effective_receptive_field
from .record import AttentionRecord, query_map, record_attention
from .spectrum import (
    FilterShape,
    Spectrum,
    channel_response,
    filter_response,
    filter_shape,
    graph_spectrum,
)

__all__ = [
    'AttentionRecord',
    'BlockComplexity',
    'Complexity',
    'Explanation',
    'FilterShape',
    'NonLocalVisualizationHook',
    'QueryDependence',
    'ReceptiveField',
    'Spectrum',
    'ablate',
    'channel_response',
    'effective_receptive_field',
    'explain',
    'filter_response',
    'filter_shape',
    'frame_order',
    'graph_spectrum',
    'model_complexity',
    'peak_memory',
    'query_dependence',
    'query_map',
    'record_attention',
]
