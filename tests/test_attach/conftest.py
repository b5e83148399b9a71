# Copyright (c) The nl_plugins authors. All rights reserved.
"""Makes ``networks`` importable and collects what the package logs."""

import logging
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import nl_plugins  # noqa: F401  registers the blocks


@pytest.fixture
def log():
    """The records of the current MMLogger, as (level name, message)."""
    from mmengine.logging import MMLogger

    records = []

    class Collect(logging.Handler):
        def emit(self, record):
            records.append((record.levelname, record.getMessage()))

    handler = Collect()
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield records
    logger.removeHandler(handler)
