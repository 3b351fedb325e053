"""Time and memory that one solve may take."""

from __future__ import annotations

import contextlib
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Over(BaseException):
    """A solve took more than it may. Not an Exception, so that no library takes it for a failing field."""


@contextlib.contextmanager
def limited(seconds: float, gigabytes: float) -> Iterator[None]:
    """Raises Over when the body takes more processor time (as soon as Python runs again) or allocates more memory."""

    def ring(*_: Any) -> None:
        raise Over(f"over {seconds:g} s")

    before, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    handler = signal.signal(signal.SIGPROF, ring)
    resource.setrlimit(resource.RLIMIT_AS, (used + int(gigabytes * 2**30), hard))
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or "can't allocate memory" in str(error) or "bad_alloc" in str(error):
            raise Over(f"over {gigabytes:g} GiB of memory") from None
        raise
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, handler)
        resource.setrlimit(resource.RLIMIT_AS, (before, hard))
