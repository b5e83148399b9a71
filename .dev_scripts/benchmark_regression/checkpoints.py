# Copyright (c) The nl_plugins authors. All rights reserved.
"""The checkpoint of a model in a folder of checkpoints."""

from __future__ import annotations

from pathlib import Path


def find_checkpoint(model, root: Path) -> Path | None:
    """Where the weights of a model are.

    In this order: the file that ``Weights`` of the metafile ends with,
    ``ROOT/NAME.pth``, ``ROOT/NAME_DATE-HASH.pth``, and what the ``last_checkpoint`` of
    the work dir ``ROOT/NAME`` names.

    Args:
        model (modelindex.models.Model): From the model index.
        root (Path): The folder.
    """
    names = [f'{model.name}.pth']
    if model.weights:
        names.insert(0, model.weights.rsplit('/', 1)[-1])
    for name in names:
        if (root / name).is_file():
            return root / name
    published = sorted(root.glob(f'{model.name}_[0-9]*-[0-9a-f]*.pth'))
    if published:
        return published[-1]
    last = root / model.name / 'last_checkpoint'
    if last.is_file():
        path = Path(last.read_text().strip())
        # A work dir may have moved with its checkpoints.
        for candidate in (path, last.parent / path.name):
            if candidate.is_file():
                return candidate
    return None
