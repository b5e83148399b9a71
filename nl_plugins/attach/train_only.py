# Copyright (c) The nl_plugins authors. All rights reserved.
"""Fine-tuning modes: which parameters and statistics may change."""

from __future__ import annotations

import difflib
import gc
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Literal

import torch.nn as nn
from mmengine.hooks.hook import Hook  # its package may be half imported
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm, _InstanceNorm
from torch.nn.parallel import DistributedDataParallel

from ..blocks import NonLocalBlock
from ..options import checked

NORMS = (_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm)


@HOOKS.register_module()
@checked
class TrainOnlyHook(Hook):
    """Freeze part of any model by the names of its parameters.

    A parameter trains unless one of the options freezes it; no option unfreezes
    what the model froze itself. A pattern has shell wildcards and matches a parameter's
    full name (``backbone.layer3.*.conv1.*``) or the name of a module that holds it
    (``cls_head``, ``*.nl_block``).

    Frozen parameters get no gradient, so the optimiser leaves them alone, weight
    decay included. Distributed training is wrapped again, because it would wait for
    their gradients.

    Args:
        train (str | Sequence[str], optional): Only parameters that match train.
            Defaults to None, all.
        freeze (str | Sequence[str]): Parameters that match are frozen.
            Defaults to ().
        freeze_before (str, optional): Name of a module; parameters registered before
            its own are frozen. The order is that of ``model.named_parameters()``,
            which in sequential networks is that of the forward pass.
            Defaults to None.
        norm (str): ``'train'`` leaves norm layers alone; ``'freeze_affine'`` freezes
            their weights and biases, running statistics still move; ``'freeze'``
            also keeps them in evaluation mode. Defaults to ``'train'``.
        norm_except (str | Sequence[str], optional): Norm layers that match escape
            ``norm``. Defaults to None, those in non-local blocks, ours and mmcv's: a
            new block starts at zero gain and would never learn. ``()`` spares none.

    Raises:
        ValueError: Unknown ``norm``; a pattern or ``freeze_before`` that matches
            nothing, which is found when training begins; nothing left to train.

    Example:
        >>> # only the non-local blocks and the classifier
        >>> train = ['*.nl_block', 'cls_head']
        >>> custom_hooks = [dict(type='TrainOnlyHook', train=train)]
    """

    priority = 'VERY_HIGH'

    def __init__(
        self,
        train: str | Sequence[str] | None = None,
        freeze: str | Sequence[str] = (),
        freeze_before: str | None = None,
        norm: Literal['train', 'freeze_affine', 'freeze'] = 'train',
        norm_except: str | Sequence[str] | None = None,
    ) -> None:
        self.patterns = None if train is None else _as_list(train)
        self.freeze = _as_list(freeze)
        self.freeze_before = freeze_before
        self.norm = norm
        self.norm_except = None if norm_except is None else _as_list(norm_except)
        self.fixed_norms: list[nn.Module] = []

    def apply(self, model: nn.Module) -> None:
        """Freeze the parameters of ``model``, in place.

        Raises:
            ValueError: As the class says.
        """
        parameters = dict(model.named_parameters())
        frozen = set()
        if self.patterns is not None:
            frozen |= parameters.keys() - _matching(
                'train', self.patterns, list(parameters)
            )
        frozen |= _matching('freeze', self.freeze, list(parameters))
        if self.freeze_before is not None:
            frozen |= _before(self.freeze_before, list(parameters))
        frozen |= self._freeze_norms(model)
        for name in frozen:
            parameters[name].requires_grad_(False)

        trainable = [name for name, p in parameters.items() if p.requires_grad]
        if not trainable:
            raise ValueError(
                f'TrainOnlyHook leaves none of the {len(parameters)} parameters to '
                'train: loosen train, freeze or freeze_before'
            )
        count = sum(parameters[name].numel() for name in trainable)
        total = sum(p.numel() for p in parameters.values())
        print_log(
            f'TrainOnlyHook: {count:,} of {total:,} parameters train, in '
            f'{len(trainable)} of {len(parameters)} tensors; '
            f'{len(self.fixed_norms)} norm layers keep their statistics',
            logger='current',
        )

    def before_run(self, runner) -> None:
        """Freeze before weights are drawn or loaded."""
        model = runner.model
        module = model.module if is_model_wrapper(model) else model
        before = _num_trainable(module)
        self.apply(module)
        if isinstance(model, DistributedDataParallel) and (
            _num_trainable(module) != before
        ):
            # The old wrapper has to go first: its hooks sit on the parameters.
            runner.model = module
            del model
            gc.collect()
            runner.model = runner.wrap_model(
                runner.cfg.get('model_wrapper_cfg'), module
            )

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Keep fixed norm layers in evaluation mode: loops call ``model.train()``."""
        for module in self.fixed_norms:
            if module.training:
                module.eval()

    def _freeze_norms(self, model: nn.Module) -> set[str]:
        self.fixed_norms = []
        if self.norm == 'train':
            return set()
        layers = {
            name: module
            for name, module in model.named_modules()
            if isinstance(module, NORMS)
        }
        if self.norm_except is None:
            spared = _in_blocks(model) & layers.keys()
        else:
            spared = _matching('norm_except', self.norm_except, list(layers))
        for name in spared:
            del layers[name]
        if self.norm == 'freeze':
            self.fixed_norms = list(layers.values())
        return {
            f'{name}.{parameter}'
            for name, module in layers.items()
            for parameter, _ in module.named_parameters()
        }


def _as_list(patterns: str | Sequence[str]) -> list[str]:
    return [patterns] if isinstance(patterns, str) else list(patterns)


def _in_blocks(model: nn.Module) -> set[str]:
    """Names of the modules in non-local blocks."""
    from mmcv.cnn.bricks.non_local import _NonLocalNd

    return {
        f'{name}.{inner}'
        for name, block in model.named_modules()
        if isinstance(block, (NonLocalBlock, _NonLocalNd))
        for inner, _ in block.named_modules()
    }


def _num_trainable(model: nn.Module) -> int:
    return sum(p.requires_grad for p in model.parameters())


def _matching(option: str, patterns: list[str], names: list[str]) -> set[str]:
    matched: set[str] = set()
    for pattern in patterns:
        found = {
            name
            for name in names
            if fnmatchcase(name, pattern) or fnmatchcase(name, f'{pattern}.*')
        }
        if not found:
            raise ValueError(
                f'TrainOnlyHook: {option} pattern {pattern!r} matches nothing; '
                f'{_nearest(pattern, names)}'
            )
        matched |= found
    return matched


def _before(module: str, names: list[str]) -> set[str]:
    for index, name in enumerate(names):
        if name.startswith(f'{module}.'):
            return set(names[:index])
    raise ValueError(
        f'TrainOnlyHook: freeze_before={module!r} is not a module with parameters; '
        f'{_nearest(module, names)}'
    )


def _nearest(pattern: str, names: list[str]) -> str:
    prefixes = {
        '.'.join(parts[:depth])
        for parts in (name.split('.') for name in names)
        for depth in range(1, len(parts) + 1)
    }
    near = difflib.get_close_matches(pattern, sorted(prefixes), n=5, cutoff=0.3)
    return f'the nearest names are {near or sorted(prefixes)[:5]}'
