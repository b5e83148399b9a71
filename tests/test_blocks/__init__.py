# Copyright (c) The nl_plugins authors. All rights reserved.
