"""Ctrl-C and SIGTERM: finish the step, save, say how to resume. A second Ctrl-C stops at once."""

import signal
from types import FrameType


class StopRequest:
    """Inside the `with` block, `requested` becomes true at the first signal."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> "StopRequest":
        self._old = {number: signal.signal(number, self._handle) for number in self.SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        for n, handler in self._old.items():
            signal.signal(n, handler)
