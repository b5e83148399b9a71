# Copyright (c) The nl_plugins authors. All rights reserved.
"""torch.distributed.run, which ends with the status of the signal that ended it.

It passes SIGTERM and SIGINT on to its processes, waits for them, and then fails with
a traceback and status 1; schedulers read 143 and 130.
"""

import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.run import main

if __name__ == '__main__':
    try:
        main()
    except SignalException as told:
        sys.exit(128 + told.sigval)
