"""A signal asks to stop; the second one is the usual interrupt."""

import os
import signal
from collections.abc import Iterator

import pytest

from odenets.train.interrupt import StopRequest


@pytest.fixture(autouse=True)
def usual_interrupt() -> Iterator[None]:
    """A shell's background jobs start with the signal ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_the_first_signal_is_a_request_and_the_second_interrupts():
    before = signal.getsignal(signal.SIGINT)
    with StopRequest() as stop:
        assert not stop.requested
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
