# Copyright (c) The nl_plugins authors. All rights reserved.
"""Ways of computing an affinity, one a file; :mod:`..plan` chooses among them."""
