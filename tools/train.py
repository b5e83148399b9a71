# Copyright (c) The nl_plugins authors. All rights reserved.
"""Train with the codebase that the config belongs to: CONFIG [its flags]."""

from codebase_script import main

if __name__ == '__main__':
    main('train.py')
