# Copyright (c) The nl_plugins authors. All rights reserved.
"""Damaged checkpoints end in errors that name no file, or in a meaningless score.

An empty file, a text or ``state_dict=None`` ends in whatever Python says of it; NaN,
infinite and complex weights are loaded, and a test with them ends well.
"""

import os
import pickle
import re
from collections.abc import Iterator, Mapping

import torch

from .imports import is_installed
from .repair import Repair


class BadCheckpoint(ValueError):
    """A file that holds no weights of a network, with its name and the reason."""


def check_checkpoint(content: object, name: str) -> None:
    """Refuse what cannot be the checkpoint of a trained network.

    Raises:
        BadCheckpoint: Naming the file and what it holds instead of weights, or the
            first tensor that is complex, or holds NaN or infinite values.
    """
    if not isinstance(content, Mapping):
        raise BadCheckpoint(
            f'the checkpoint {name} holds {_kind(content)}, not a dict of weights'
        )
    weights = content.get('state_dict', content)
    if not isinstance(weights, Mapping):
        raise BadCheckpoint(
            f"the checkpoint {name} holds no weights: its 'state_dict' is "
            f'{_kind(weights)}, not a dict of tensors'
        )
    tensors = dict(_tensors(weights))
    if not tensors:
        raise BadCheckpoint(
            f'the checkpoint {name} holds no weights, only the keys {list(content)[:5]}'
        )
    for key, value in tensors.items():
        if value.is_complex():
            raise BadCheckpoint(
                f'the checkpoint {name}: {key!r} is complex ({value.dtype}), the '
                'weights of networks are real'
            )
        if not value.is_floating_point() or value.layout != torch.strided:
            continue
        # Attention masks are buffers, which hold -inf where nothing is seen.
        good = ~value.isnan() if 'mask' in key else value.isfinite()
        if not value.is_meta and not good.all():
            raise BadCheckpoint(
                f'the checkpoint {name}: {key!r} holds {(~good).sum().item()} NaN or '
                f'infinite values of {value.numel()}: the training diverged or the '
                'file is damaged; take an earlier checkpoint'
            )


def _tensors(weights: Mapping) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a state dict, or of one in a dict, as other programs store it."""
    for key, value in weights.items():
        if isinstance(value, torch.Tensor):
            yield str(key), value
        elif isinstance(value, Mapping):
            for inner, tensor in value.items():
                if isinstance(tensor, torch.Tensor):
                    yield f'{key}.{inner}', tensor


def _kind(value: object) -> str:
    return 'None' if value is None else f'a {type(value).__name__}'


def _checked(original):
    def load_checkpoint(cls, filename, *args, **kwargs):
        path = os.path.expanduser(str(filename))
        try:
            # A class method is bound to its class before it is replaced.
            content = original(filename, *args, **kwargs)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f'the checkpoint {filename} does not exist'
            ) from error
        except Exception as error:  # a damaged file fails in many ways
            if not os.path.isfile(path) or isinstance(error, MemoryError):
                raise
            text = str(error)
            named = re.search(
                r'(?:GLOBAL |Unsupported class |(?=getattr\())([\w.]+)', text
            )
            if os.path.getsize(path) == 0:
                reason = 'is empty'
            elif named and isinstance(error, pickle.UnpicklingError):
                reason = (
                    f'holds {named[1]}, which is not loaded because loading objects '
                    'other than tensors and plain values runs code'
                )
            else:
                reason = 'is truncated or no PyTorch file: download or copy it again'
            raise BadCheckpoint(f'the checkpoint {filename} {reason}') from error
        check_checkpoint(content, filename)
        return content

    return classmethod(load_checkpoint)


def needed() -> bool:
    return is_installed('mmengine')


def apply(module) -> None:
    loader = module.CheckpointLoader
    if not getattr(loader, '_checked_by_nl_plugins', False):
        loader.load_checkpoint = _checked(loader.load_checkpoint)
        loader._checked_by_nl_plugins = True


REPAIR = Repair(
    name='checked_weights',
    symptom='damaged checkpoints end in errors without a name, or are tested',
    remedy='the file and the reason are named',
    upstream='mmengine/runner/checkpoint.py',
    needed=needed,
    apply=apply,
    modules=('mmengine.runner.checkpoint',),
)
