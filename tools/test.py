# Copyright (c) The nl_plugins authors. All rights reserved.
"""Test with the codebase that the config belongs to: CONFIG CHECKPOINT [its flags]."""

from codebase_script import main

if __name__ == '__main__':
    main('test.py')
