# Copyright (c) The nl_plugins authors. All rights reserved.
"""Repairs of known defects of the installed upstream packages."""

from .imports import is_installed, when_imported

__all__ = ['is_installed', 'when_imported']
