# Copyright (c) The nl_plugins authors. All rights reserved.
"""The scripts of .dev_scripts/experiments as modules."""

import importlib
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / '.dev_scripts' / 'experiments'


@pytest.fixture(scope='session')
def script():
    """Imports one of them by name."""
    sys.path.insert(0, str(FOLDER))
    yield importlib.import_module
    sys.path.remove(str(FOLDER))
