# Copyright (c) The nl_plugins authors. All rights reserved.
"""The states of the random generators of a process."""

import random

import numpy as np
import torch


def get_states() -> dict:
    """The states of python's, numpy's and torch's generators, as tensors and numbers.

    Returns:
        dict: What :func:`set_states` takes; ``torch.load`` reads it restricted.
    """
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    states = dict(
        python=dict(version=version, words=torch.tensor(words), gauss=gauss),
        numpy=dict(
            name=name,
            keys=torch.from_numpy(keys.astype(np.int64)),
            position=int(position),
            has_gauss=int(has_gauss),
            cached=float(cached),
        ),
        torch=torch.get_rng_state(),
    )
    # Not in a worker, which was forked from a process that uses the GPU.
    if torch.cuda.is_initialized():
        states['cuda'] = torch.cuda.get_rng_state()
    return states


def set_states(states: dict) -> None:
    """Put the generators into the states of :func:`get_states`."""
    python, numpy = states['python'], states['numpy']
    words = tuple(python['words'].tolist())
    random.setstate((python['version'], words, python['gauss']))
    keys = numpy['keys'].numpy().astype(np.uint32)
    np.random.set_state(
        (
            numpy['name'],
            keys,
            numpy['position'],
            numpy['has_gauss'],
            numpy['cached'],
        )
    )
    torch.set_rng_state(states['torch'].cpu())
    if 'cuda' in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states['cuda'].cpu())
