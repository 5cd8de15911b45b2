# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""An end in time for what looks at no clock itself, such as Salt's ``cp.get_file``."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator

AGAIN_S = 5
"""When it rings again, in case that what it rang for swallowed it."""


@contextlib.contextmanager
def set_to(until: float, error: Exception) -> Iterator[None]:
    """
    Raise ``error`` in the midst of the block at ``until`` on the clock ``time.monotonic``.

    Only a process's main thread hears it, which a Salt job is: not so on a minion with
    ``multiprocessing: False``, where the block takes as long as it takes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    rang = False

    def ring(*_: object) -> None:
        nonlocal rang
        rang = True
        raise error

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(until - time.monotonic(), 0.001), AGAIN_S)
    try:
        yield
    except Exception:
        # Whatever was made of it on its way.
        if rang:
            raise error from None
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    if rang:
        raise error
