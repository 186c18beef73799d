"""What does not end is ended, so that a test can say so."""

import signal
from contextlib import contextmanager


class Hung(BaseException):
    """No error that a reader could turn into a mistake."""


@contextmanager
def at_most(seconds, *, waiting=False):
    """What takes more of the processor is ended where it hangs; a busy machine ends nothing.

    What may wait without working, as for the other end of a pipe, is ended by the clock.
    """
    number, timer = signal.SIGPROF, signal.ITIMER_PROF
    if waiting:
        number, timer = signal.SIGALRM, signal.ITIMER_REAL

    def ring(*_):
        raise Hung

    before = signal.signal(number, ring)
    signal.setitimer(timer, seconds, seconds)  # again, if a callback swallows it
    try:
        yield
    finally:
        signal.setitimer(timer, 0)
        signal.signal(number, before)
