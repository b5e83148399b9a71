# Copyright (c) The nl_plugins authors. All rights reserved.
"""Why each block of a model is computed as it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch.nn as nn

from ..blocks import NonLocalBlock
from ..graph.plan import Decision, decisions


@dataclass
class Explanation:
    """The decisions of one forward pass.

    Attributes:
        decisions (list[tuple[str, Decision]]): Name of the module, what was decided
            there and why, in the order in which it ran; a decision that repeats
            itself in a module is listed once.
    """

    decisions: list[tuple[str, Decision]] = field(default_factory=list)

    def __str__(self) -> str:
        if not self.decisions:
            return 'no affinity was applied'
        return '\n'.join(f'{name or "model"}: {made}' for name, made in self.decisions)


def explain(model: nn.Module, *inputs: Any, **options: Any) -> Explanation:
    """How every block of ``model(*inputs, **options)`` is computed, and why.

    For each affinity the sizes that count, every strategy with its estimated time or
    the reason why it is refused, and the one that is taken::

        print(nl_plugins.explain(model, images))

    The forward pass really runs, in the mode of the model and with gradients as they
    are enabled where it is called: a training step may choose otherwise than
    inference. On the meta device nothing is computed and CPU rates count.

    Args:
        model (nn.Module): A model or a block.
        inputs: Its positional arguments.
        options: Its keyword arguments.

    Returns:
        Explanation: Printable.
    """
    explanation = Explanation()
    with observed(model) as seen:
        model(*inputs, **options)
    for name, _, decision in seen:
        if (name, decision) not in explanation.decisions:
            explanation.decisions.append((name, decision))
    return explanation


@contextmanager
def observed(model: nn.Module) -> Iterator[list[tuple[str, Any, Decision]]]:
    """Collect (name of the module, affinity, decision) of what runs inside.

    Hooks go on whole blocks, never on their layers: those would then be called, and
    the decisions were others.
    """
    collected: list = []
    path = ['']
    handles = []

    def enter(name: str, *_: Any) -> None:
        take()
        path.append(name)

    def leave(*_: Any) -> None:
        take()
        path.pop()

    def take() -> None:
        collected.extend((path[-1], *pair) for pair in made)
        made.clear()

    with decisions() as made:
        try:
            for name, module in model.named_modules():
                if is_block(module):
                    handles += [
                        module.register_forward_pre_hook(partial(enter, name)),
                        module.register_forward_hook(leave, always_call=True),
                    ]
            yield collected
            take()
        finally:
            for handle in handles:
                handle.remove()


def is_block(module: nn.Module) -> bool:
    """Whether a module computes an affinity of its own: one of our blocks, or a class
    that ``nl_plugins.accelerate`` knows."""
    if isinstance(module, NonLocalBlock):
        return True
    return any(kind.__name__ in _OTHERS for kind in type(module).__mro__)


#: Classes of mmcv and mmseg that compute attention over positions.
_OTHERS = {'_NonLocalNd', 'SelfAttentionBlock', 'GeneralizedAttention'}
