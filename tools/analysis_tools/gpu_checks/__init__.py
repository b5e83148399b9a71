# Copyright (c) The nl_plugins authors. All rights reserved.
"""The sections of ``gpu_check.py``: each a module with one function ``run``."""
