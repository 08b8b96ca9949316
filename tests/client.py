# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# What client() of functions.sh runs: a client of the server at $CLIENT_URI, whose
# program comes on standard input. It has two minutes.

import errno  # for the program
import os
import signal
import sys

try:
    import nbd
except ImportError:
    sys.exit(77)

sys.path.append(os.path.join(os.path.dirname(__file__), "e2e"))
from qmp import PATIENCE, Qmp, Refused  # noqa: E402, F401: for the program

signal.alarm(PATIENCE)
uri = os.environ["CLIENT_URI"]


def connect(*contexts):
    handle = nbd.NBD()
    for context in contexts or ["base:allocation"]:
        handle.add_meta_context(context)
    # What we want to know is what the server does with wrong requests.
    handle.set_strict_mode(0)
    handle.connect_uri(uri)
    return handle


def fails(number, function, *args, **named):
    try:
        function(*args, **named)
    except nbd.Error as error:
        assert error.errnum == number, "%s, expected %s" % (error, errno.errorcode[number])
        return
    raise AssertionError("did not fail")


def extents(handle, offset, length, context="base:allocation", one=False):
    found = []

    def take(name, position, entries, error):
        if name == context:
            for size, flags in zip(entries[::2], entries[1::2]):
                found.append((position, size, flags))
                position += size

    flags = nbd.CMD_FLAG_REQ_ONE if one else 0
    end = offset + length
    while offset < end:
        handle.block_status(end - offset, offset, take, flags)
        offset = found[-1][0] + found[-1][1]
        if one:
            break
    # Neighbours of one kind are one; the last may be longer than was asked.
    joined = []
    for position, size, flags in found:
        size = min(size, end - position)
        if joined and joined[-1][2] == flags:
            joined[-1] = (joined[-1][0], joined[-1][1] + size, flags)
        else:
            joined.append((position, size, flags))
    return joined


program = compile(sys.stdin.read(), "client", "exec")
h = connect()
exec(program)
