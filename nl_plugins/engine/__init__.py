# Copyright (c) The nl_plugins authors. All rights reserved.
"""What belongs to a run rather than to a network: its randomness and its end."""

from .random_state import RandomStateHook

__all__ = ['RandomStateHook']
