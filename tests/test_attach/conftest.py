# Copyright (c) The nl_plugins authors. All rights reserved.
"""Collects what the package logs."""

import logging

import pytest

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
