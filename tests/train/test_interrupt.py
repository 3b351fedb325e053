"""A signal asks to stop; the second one is the usual interrupt."""

import os
import signal

import pytest

from odenets.train.interrupt import StopRequest


def test_the_first_signal_is_a_request_and_the_second_interrupts():
    before = signal.getsignal(signal.SIGINT)
    with StopRequest() as stop:
        assert not stop.requested
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
