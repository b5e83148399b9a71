# Copyright (c) The nl_plugins authors. All rights reserved.
"""What a machine does in a second: the only figures that the planner knows."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from torch import Tensor

from .precision import HALF

#: Names a file of rates that ``tools/analysis_tools/calibrate.py`` measured.
VARIABLE = 'NL_PLUGINS_MACHINE'


@dataclass(frozen=True)
class Machine:
    """Rates of one device class in one precision."""

    #: Of large matrix products, a second.
    multiply_adds: float
    #: Bytes read or written a second where they fit the cache, and in memory.
    cached_bytes: float
    moved_bytes: float
    #: Seconds an operator takes besides its work.
    call: float
    #: Bytes that stay close to the processor.
    cache: int
    #: Share of ``multiply_adds`` that torch's fused attention reaches.
    attention: float
    #: Elements of one tile of weights: of some rows of a sample, whose gradients of key
    #: and values are summed tile by tile, and of whole samples.
    tile: int
    samples_tile: int
    #: Whether calls are queued while the device computes, so that the longer of the
    #: two counts and not their sum.
    overlaps: bool = False
    #: False for a rate from a data sheet.
    measured: bool = True


# Two cores of a server processor. Whatever a machine really does, a rate that is wrong
# by three costs about a tenth of the time (docs/en/benchmarks.md, regret).
_CPU = Machine(
    multiply_adds=100e9,
    cached_bytes=25e9,
    moved_bytes=6e9,
    call=10e-6,
    cache=2**24,
    attention=0.9,
    tile=2**20,
    samples_tile=2**18,
)
# An H200 as tools/analysis_tools/gpu_check.py measured it; a call with what Python
# does around it.
_CUDA = Machine(
    multiply_adds=25e12,
    cached_bytes=6e12,
    moved_bytes=4.2e12,
    call=20e-6,
    cache=3 * 2**24,
    attention=0.6,
    tile=2**24,
    samples_tile=2**24,
    overlaps=True,
)


#: By device class and precision.
MACHINES: dict[tuple[str, str], Machine] = {
    ('cpu', 'float32'): _CPU,
    ('cpu', 'float64'): replace(_CPU, multiply_adds=50e9),
    # Half precision is computed in float32 on a CPU.
    ('cpu', 'half'): _CPU,
    ('cuda', 'float32'): _CUDA,
    ('cuda', 'tf32'): replace(_CUDA, multiply_adds=178e12, attention=0.12),
    ('cuda', 'half'): replace(_CUDA, multiply_adds=338e12),
    ('cuda', 'float64'): replace(
        _CUDA, multiply_adds=20e12, attention=0.1, measured=False
    ),
}


def precision_of(dtype: torch.dtype, device_class: str) -> str:
    """'float32', 'tf32', 'half' or 'float64'."""
    if dtype in HALF:
        return 'half'
    if dtype == torch.float64:
        return 'float64'
    if device_class == 'cuda' and torch.backends.cuda.matmul.allow_tf32:
        return 'tf32'
    return 'float32'


def machine_of(device_class: str, precision: str) -> Machine:
    """The rates in force: those of the file that ``NL_PLUGINS_MACHINE`` named at the
    import, else of the table above. Devices that the table does not know count as a
    CPU."""
    return _in_force['cuda' if device_class == 'cuda' else 'cpu', precision]


def machine_for(tensor: Tensor) -> Machine:
    """The rates for products of such tensors where they are."""
    device = tensor.device.type
    return machine_of(device, precision_of(tensor.dtype, device))


def read_machines(path: str | Path) -> dict[tuple[str, str], Machine]:
    """The table with the rates of a file, ``{"cpu/float32": {"call": 6e-6, ...}}``.

    Raises:
        ValueError: If the file cannot be read or holds something else.
    """
    names = {field.name for field in fields(Machine)}
    machines = dict(MACHINES)
    try:
        for name, rates in json.loads(Path(path).read_text(encoding='utf-8')).items():
            device_class, precision = name.split('/')
            unknown = sorted(set(rates) - names)
            if unknown:
                raise ValueError(f'{name} has no rate {unknown[0]!r}')
            if not all(
                isinstance(rate, bool) == (key in ('measured', 'overlaps'))
                and rate >= 0
                for key, rate in rates.items()
            ):
                raise ValueError(f'{name} holds a rate that is no positive number')
            machine = machines[device_class, precision]
            machines[device_class, precision] = replace(machine, **rates)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f'{path} holds no rates of a machine ({error}): write it with '
            f'tools/analysis_tools/calibrate.py, or unset {VARIABLE}'
        ) from error
    return machines


# Once: a planner that read the environment would not be captured by torch.compile.
_in_force = read_machines(os.environ[VARIABLE]) if VARIABLE in os.environ else MACHINES
