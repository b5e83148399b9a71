# Copyright (c) The nl_plugins authors. All rights reserved.
"""Optimiser groups and warm-up of RNL-TSM and of the TSM recipes."""

from typing import Any

import torch.nn as nn
from mmaction.registry import OPTIM_WRAPPER_CONSTRUCTORS, PARAM_SCHEDULERS
from mmcv.cnn.bricks.non_local import _NonLocalNd
from mmengine.optim import DefaultOptimWrapperConstructor, LinearLR
from mmengine.optim.scheduler.param_scheduler import INF
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from ..blocks import BLOCKS, NonLocalBlock
from ..options import checked

_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm)  # _NormBase: every BN and IN
_OPTIONS = ('fc_lr5', 'region_kernel_as_bias', 'first_conv_lr5')


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
@checked
class NonLocalTSMOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """The nine parameter groups that the networks of RNL are trained with.

    Multiples of the optimiser's ``lr`` and ``weight_decay`` (Huang and Bors,
    `Region-based Non-local Operation for Video Classification
    <https://arxiv.org/abs/2007.09033>`_):

    ==================  ====  ======  ==========================================
    group               lr    decay   parameters
    ==================  ====  ======  ==========================================
    first_conv_weight   1     1       weight of the network's first convolution
    first_conv_bias     2     0       its bias
    normal_weight       1     1       other convolutions, linear layers, gates
    normal_bias         2     0       their biases
    bn                  1     0       norms outside non-local blocks
    nl_weight           1     1       non-local blocks: weights, scale of norms
    nl_bias             2     0       their biases, shift of norms, depthwise
                                      kernels (``region_kernel_as_bias``)
    lr5_weight          5     1       the classifier (``fc_lr5``)
    lr10_bias           10    0       its bias
    ==================  ====  ======  ==========================================

    Every parameter of the model, frozen ones included, is in exactly one group,
    whatever layer holds it; a raw ``nn.Parameter`` counts as a weight if it has two or
    more dimensions. Groups may be empty; each carries its name under ``'name'``. The
    channel gate counts as part of the backbone, as in the original, and a classifier
    is a linear layer whose own name contains ``fc``.

    Options are keys of ``paramwise_cfg``:

    * ``fc_lr5`` (bool): Raise the classifier's rate; otherwise it joins the normal
      groups. Defaults to True.
    * ``region_kernel_as_bias`` (bool): Train the depthwise kernels of the regions
      like biases, as the original does; otherwise like weights. Defaults to True.
    * ``first_conv_lr5`` (bool): First convolution at 5 (bias 10) times the rate, what
      the original does for optical flow. Defaults to False.

    Args:
        optim_wrapper_cfg (dict): Config of the wrapper, with the ``optimizer``.
        paramwise_cfg (dict, optional): The options above. Defaults to None.

    Raises:
        ValueError: If ``paramwise_cfg`` has another key, or the optimiser has no
            ``lr`` or ``weight_decay`` to multiply.

    Example:
        >>> optim_wrapper = dict(
        ...     constructor='NonLocalTSMOptimWrapperConstructor',
        ...     paramwise_cfg=dict(fc_lr5=True),
        ...     optimizer=dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=2e-4))
    """

    def __init__(
        self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None
    ) -> None:
        # An empty dict would make the parent put everything into one group.
        options = dict(
            fc_lr5=True, region_kernel_as_bias=True, first_conv_lr5=False
        ) | dict(paramwise_cfg or {})
        super().__init__(optim_wrapper_cfg, options)

    def _validate_cfg(self) -> None:
        name = type(self).__name__
        for option in self.paramwise_cfg:
            if option not in _OPTIONS:
                raise ValueError(
                    f'{name}: paramwise_cfg takes {list(_OPTIONS)}, but got {option!r}'
                )
        for option, value in (('lr', self.base_lr), ('weight_decay', self.base_wd)):
            if value is None:
                raise ValueError(
                    f'{name}: the optimizer needs {option}, which the groups multiply'
                )

    def add_params(
        self, params: list[dict[str, Any]], module: nn.Module, **kwargs
    ) -> None:
        """Append the nine groups of ``module`` to ``params``."""
        first = 5 if self.paramwise_cfg['first_conv_lr5'] else 1
        factors = dict(
            first_conv_weight=(first, 1),
            first_conv_bias=(2 * first, 0),
            normal_weight=(1, 1),
            normal_bias=(2, 0),
            bn=(1, 0),
            nl_weight=(1, 1),
            nl_bias=(2, 0),
            lr5_weight=(5, 1),
            lr10_bias=(10, 0),
        )
        groups = {
            name: dict(
                params=[],
                lr=self.base_lr * lr,
                weight_decay=self.base_wd * decay,
                name=name,
            )
            for name, (lr, decay) in factors.items()
        }
        for name, parameter in self._assign(module):
            groups[name]['params'].append(parameter)
        params.extend(groups.values())

    def _assign(self, model: nn.Module):
        """Yield (group, parameter) once a parameter, in the order of modules."""
        convs = (m for m in model.modules() if isinstance(m, _ConvNd))
        first_conv = next(convs, None)
        inside = set()  # every module of a non-local block
        for module in model.modules():
            if _is_non_local(module):
                inside.update(module.modules())
        seen = set()
        for path, module in model.named_modules():
            for name, parameter in module.named_parameters(recurse=False):
                if id(parameter) in seen:
                    continue
                seen.add(id(parameter))
                if module in inside:
                    group = self._non_local_group(module, name, parameter)
                elif isinstance(module, _NORMS):
                    group = 'bn'
                elif module is first_conv:
                    group = f'first_conv_{_kind(name, parameter)}'
                elif self._is_classifier(path, module):
                    kind = _kind(name, parameter)
                    group = dict(weight='lr5_weight', bias='lr10_bias')[kind]
                else:
                    group = f'normal_{_kind(name, parameter)}'
                yield group, parameter

    def _is_classifier(self, path: str, module: nn.Module) -> bool:
        return (
            self.paramwise_cfg['fc_lr5']
            and isinstance(module, nn.Linear)
            and 'fc' in path.rpartition('.')[2]
        )

    def _non_local_group(
        self, module: nn.Module, name: str, parameter: nn.Parameter
    ) -> str:
        if isinstance(module, _NORMS):
            return 'nl_bias' if name == 'bias' else 'nl_weight'
        region = isinstance(module, _ConvNd) and 1 < module.groups == module.in_channels
        if region and self.paramwise_cfg['region_kernel_as_bias']:
            return 'nl_bias'
        return f'nl_{_kind(name, parameter)}'


def _is_non_local(module: nn.Module) -> bool:
    gate = BLOCKS.get('ChannelGate', ())
    return isinstance(module, (NonLocalBlock, _NonLocalNd)) and not isinstance(
        module, gate
    )


def _kind(name: str, parameter: nn.Parameter) -> str:
    return 'bias' if 'bias' in name or parameter.ndim < 2 else 'weight'


@PARAM_SCHEDULERS.register_module()
@checked
class InclusiveLinearLR(LinearLR):
    """A linear warm-up that arrives at the base rate where the next schedule starts.

    With L iterations an epoch and W epochs of warm-up, iteration k < W L has
    ``lr (s + (1 - s) k / (W L))``, s the ``start_factor``. mmengine's ``LinearLR`` with
    ``convert_to_iter_based`` divides by W L - 1 instead. Counts in epochs and needs
    ``convert_to_iter_based=True``; arguments as ``LinearLR``.

    Raises:
        ValueError: If used without ``convert_to_iter_based=True``.

    Example:
        >>> param_scheduler = [
        ...     dict(type='InclusiveLinearLR', start_factor=0.1, begin=0, end=5,
        ...          convert_to_iter_based=True),
        ...     dict(type='CosineAnnealingLR', T_max=95, begin=5, end=100,
        ...          convert_to_iter_based=True)]
    """

    def __init__(self, *args, by_epoch: bool = True, **kwargs) -> None:
        if by_epoch:
            raise ValueError(
                f'{type(self).__name__} counts iterations: add '
                'convert_to_iter_based=True to its config'
            )
        super().__init__(*args, by_epoch=by_epoch, **kwargs)

    @classmethod
    def build_iter_from_epoch(
        cls, *args, begin=0, end=INF, by_epoch=True, epoch_length=None, **kwargs
    ):
        """Build it from ``begin`` and ``end`` in epochs of ``epoch_length``."""
        if epoch_length is None or epoch_length < 1:
            raise ValueError(
                f'epoch_length must be a positive integer, but got {epoch_length!r}'
            )
        begin = int(begin * epoch_length)
        if end != INF:
            end = int(end * epoch_length) + 1
        return cls(*args, begin=begin, end=end, by_epoch=False, **kwargs)
