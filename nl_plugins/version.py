# Copyright (c) The nl_plugins authors. All rights reserved.
__version__ = '0.1.0'
