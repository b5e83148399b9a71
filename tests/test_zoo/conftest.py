# Copyright (c) The nl_plugins authors. All rights reserved.
"""The scripts of the model zoo as modules."""

import importlib.util
import sys

import pytest


@pytest.fixture(scope='session')
def script(root):
    """Import a script of the repository by its path."""

    def load(path):
        name = path.replace('/', '_').removesuffix('.py').replace('-', '_')
        if name not in sys.modules:
            spec = importlib.util.spec_from_file_location(name, root / path)
            module = sys.modules[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        return sys.modules[name]

    return load
