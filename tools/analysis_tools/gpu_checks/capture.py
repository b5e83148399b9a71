# Copyright (c) The nl_plugins authors. All rights reserved.
"""Determinism, host synchronisation and CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .section import Section, build, relative_error, sentence, variants

SHAPE = (2, 32, 20, 24)


def run(section: Section) -> None:
    """Each check of every variant; captures last, since a failed one may linger."""
    cases = variants()[:: 8 if section.quick else 1]
    runs = []
    for name, variant, options in cases:
        step = section.attempt(f'{name}.{variant}', Step, section, name, options)
        if step is not None:
            runs.append((section.add('capture', {'case': f'{name}.{variant}'}), step))
    checks: list[tuple[str, Callable]] = [('repeats itself', _repeats)]
    checks.append(('deterministic mode', _deterministic))
    if section.cuda:
        checks.append(('no host synchronisation', _without_synchronising))
        checks.append(('CUDA graph of a forward', _captures_forward))
        checks.append(('CUDA graph of a step', _captures_step))
    # Each check gets its share of the time, or the last would never be reached.
    for index, (check, function) in enumerate(checks):
        share = section.left() / (len(checks) - index)
        reserve = section.left() - share
        for row, step in runs:
            if section.left() < max(2, reserve):
                continue
            try:
                row[check] = function(step)
            except Exception as error:
                row[check] = sentence(error)
                if section.cuda and not _alive():
                    section.errors.append(f'{row["case"]}: {check} broke the device')
                    return
        judge(section, check, [row for row, _ in runs])
        section.save()


class Step:
    """A training step of a block that gives back everything it computed."""

    def __init__(self, section: Section, name: str, options: dict) -> None:
        self.device = section.device
        self.module = build(name, options, SHAPE[1], 2).to(self.device)
        generator = torch.Generator().manual_seed(1)
        self.x, self.cotangent = (
            torch.randn(SHAPE, generator=generator).to(self.device) for _ in '12'
        )

    def __call__(self, module: Callable | None = None) -> list[Tensor]:
        x = self.x.detach().requires_grad_()
        out = (self.module if module is None else module)(x)
        wanted = [x, *self.module.parameters()]
        grads = torch.autograd.grad(out, wanted, self.cotangent, allow_unused=True)
        return [out.detach(), *(g for g in grads if g is not None)]

    def forward(self) -> list[Tensor]:
        with torch.no_grad():
            return [self.module(self.x)]


def _same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def _repeats(step: Step) -> bool:
    return _same(step(), step())


def _deterministic(step: Step) -> bool:
    torch.use_deterministic_algorithms(True)
    try:
        return _same(step(), step())
    finally:
        torch.use_deterministic_algorithms(False)


def _without_synchronising(step: Step) -> bool:
    step()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode('error')
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode('default')
    return True


def close(found: list[Tensor], expected: list[Tensor]) -> bool:
    """Equal to rounding: that of a sum that cancels, as the gradient of a bias in
    front of a softmax, is as large as what it adds up."""
    largest = max(value.abs().max() for value in expected)
    return all(
        relative_error(a, b) < 1e-4 or (a - b).abs().max() < 1e-6 * largest
        for a, b in zip(found, expected)
    )


def _captures_forward(step: Step) -> bool:
    step.module.eval()
    try:
        return _captures(step, step.forward)
    finally:
        step.module.train()


def _captures_step(step: Step) -> bool:
    return _captures(step, step)


def _captures(step: Step, function: Callable[[], list[Tensor]]) -> bool:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = function()
    step.x.mul_(0.5)  # or an empty graph would pass
    graph.replay()
    torch.cuda.synchronize()
    return close(captured, function())


def _alive() -> bool:
    try:
        torch.zeros(1, device='cuda').add_(1).item()
    except RuntimeError:
        return False
    return True


def judge(section: Section, check: str, rows: list[dict]) -> None:
    done = [row for row in rows if check in row]
    bad = [row for row in done if row[check] is not True]
    detail = f'{len(done) - len(bad)} of {len(done)} variants'
    if len(done) < len(rows):
        detail += f', {len(rows) - len(done)} not run'
    if bad:
        detail += '; ' + '; '.join(f'{row["case"]} {row[check]}' for row in bad[:4])
    # Bits may differ between runs unless deterministic mode asks for them.
    if check == 'repeats itself' and bad:
        detail += ' (without deterministic mode, so no failure)'
        bad = []
    section.verdict(check, not bad if done else None, detail)
