# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# Ranges of bytes: sorted lists of (begin, end) that do not touch; and what an export says
# of its bytes.

import bisect

from judging import GiB, KiB, expect
from programs import qemu


def join(ranges):
    joined = []
    for begin, end in sorted(ranges):
        if begin >= end:
            continue
        if joined and begin <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((begin, end))
    return joined


def granules(ranges, granularity, size):
    """The granules that these touch."""
    return join((begin // granularity * granularity,
                 min(size, -(-end // granularity) * granularity))
                for begin, end in ranges if begin < end)


def covers(outer, inner):
    begins = [begin for begin, _ in outer]
    for begin, end in inner:
        i = bisect.bisect_right(begins, begin) - 1
        if i < 0 or outer[i][1] < end:
            return False
    return True


def extents(h, context, size=None):
    """(begin, end, flags) of the whole disk; neighbours are joined."""
    size = h.get_size() if size is None else size
    found = []

    def take(name, position, entries, _error):
        if name != context:
            return
        for length, flags in zip(entries[::2], entries[1::2]):
            if found and found[-1][2] == flags and found[-1][1] == position:
                found[-1] = (found[-1][0], position + length, flags)
            else:
                found.append((position, position + length, flags))
            position += length

    offset = 0
    while offset < size:
        h.block_status(min(size - offset, 4 * GiB - 64 * KiB), offset, take)
        expect(found[-1][1] > offset, f"block status of {context} stands still at {offset:#x}")
        offset = found[-1][1]
    return found


def qemu_bitmaps(t, path, *names):
    """What is dirty, as QEMU tells libnbd: a list of ranges each."""
    with qemu().served(path, names, read_only=True) as export:
        contexts = [f"qemu:dirty-bitmap:{name}" for name in names]
        h = export.connect(*contexts)
        for context in contexts:
            expect(h.can_meta_context(context), f"{path}: QEMU does not offer {context}")
        return [[(begin, end) for begin, end, flags in extents(h, context) if flags & 1]
                for context in contexts]
