# Copyright (c) The nl_plugins authors. All rights reserved.
"""Sphinx: ``sphinx-build docs/en docs/en/_build``."""

project = 'nl_plugins'
author = 'The nl_plugins authors'
copyright = f'2026, {author}'

extensions = ['myst_parser']
exclude_patterns = ['_build']
myst_enable_extensions = ['dollarmath']
myst_heading_anchors = 3
# Files of the repository outside the pages are not part of the site.
suppress_warnings = ['myst.xref_missing']

html_theme = 'alabaster'
html_static_path = ['_static']
