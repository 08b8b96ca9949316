# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# How the program ends.

import contextlib
import os
import signal
import sys

DONE = 0
FAILED = 1
WRONG_USAGE = 2
NO_SERVER = 3  # nobody answers at the control socket
AT_WORK = 4  # another run is at work in this folder

is_quiet = False  # --quiet: nothing is said but what went wrong


class Failure(Exception):
    """Why it cannot be done: what, where, and what helps."""

    def __init__(self, message, status=FAILED):
        super().__init__(message)
        self.status = status


class Ended(Failure):
    """Somebody has asked us to end: by Ctrl-C, or by SIGTERM."""

    def __init__(self, number):
        super().__init__(f"ended by {signal.Signals(number).name}", 128 + number)


def end_by_signals():
    """So that what is half done is cleaned up, whoever asks us to end."""

    def end(number, _frame):
        raise Ended(number)

    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)


@contextlib.contextmanager
def undisturbed():
    """A second Ctrl-C does not stop the cleaning up."""
    numbers = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, signal.SIG_IGN) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before):
            signal.signal(number, handler)


def warn(message):
    print(f"qcow2bitmap: {message}", file=sys.stderr)


def say(message):
    if not is_quiet:
        print(message)


def reached(step):
    """For tests: here the power goes, if QCOW2BITMAP_DIE_AT names this step."""
    if os.environ.get("QCOW2BITMAP_DIE_AT") == step:
        os.kill(os.getpid(), signal.SIGKILL)
