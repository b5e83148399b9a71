# Copyright (c) The nl_plugins authors. All rights reserved.
"""Procedural data sets in the on-disk formats of five real ones."""
