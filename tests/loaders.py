# Copyright (c) The nl_plugins authors. All rights reserved.
"""Options of a command line for the data loaders of a small run."""


def in_process(*names: str) -> list[str]:
    """Words after ``--cfg-options``: 'train', 'val' or 'test' loads without workers."""
    return [
        f'{name}_dataloader.{option}'
        for name in names
        for option in ('num_workers=0', 'persistent_workers=False')
    ]
