# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# What the writer of a disk in use (disk_in_use.py) makes of its part: all its changes in a
# row, and what the part holds at each moment, so that a copy can be asked which one it shows.

from interop import KiB, SECTOR, Wrong, expect, payload


class Sequence:
    """All changes that the writer makes, to the bytes from `begin` on."""

    LENGTHS = (SECTOR, 4 * KiB, 4 * KiB, 4 * KiB, 9 * SECTOR, 16 * KiB, 64 * KiB, 150 * KiB)

    def __init__(self, rng, begin, length):
        self.begin, self.length = begin, length
        self.blocks, at = [], begin
        while at < begin + length:
            size = min(rng.choice(self.LENGTHS), begin + length - at)
            self.blocks.append((at, size))
            at += size
        rng.shuffle(self.blocks)
        self.key = rng.getrandbits(64) | 1

    def change(self, n):
        """(offset, length, data), no data for zeros. They stay in some blocks for a while, so
        that in between two backups not everything changes."""
        drawn = n * self.key % (1 << 64) >> 32
        offset, length = self.blocks[(n // 1024 * 32 + drawn % 64) % len(self.blocks)]
        return offset, length, None if (drawn >> 8) % 8 == 0 else payload(offset, length, n)


class History:
    """What the writer's part holds at each moment from `first` on."""

    def __init__(self, sequence, first, content):
        self.sequence, self.first, self.content = sequence, first, bytes(content)
        self._now, self._state = first, bytearray(content)

    def at(self, moment):
        """(Valid until the next call.)"""
        expect(moment >= self.first, f"moment {moment} is before {self.first}")
        if moment < self._now:
            self._now, self._state = self.first, bytearray(self.content)
        while self._now < moment:
            self._now += 1
            offset, length, data = self.sequence.change(self._now)
            place = offset - self.sequence.begin
            self._state[place:place + length] = data or bytes(length)
        return self._state

    def moment(self, found, low, high, what):
        """Which of low..high it is that this shows."""
        low = max(low, self.first)
        for moment in range(low, high + 1):
            if self.at(moment) == found:
                return moment
        raise Wrong(f"{what}: it shows no moment of {low}..{high}; "
                    f"{self._nearest(found, low, high)}")

    def _nearest(self, found, low, high):
        numbers = {int.from_bytes(found[at + 8:at + 16], "big")
                   for at in range(0, len(found), SECTOR)} - {0}
        newest = max(numbers, default=0)
        state = self.at(min(max(newest, low), high))
        wrong = [at for at in range(0, len(found), SECTOR)
                 if found[at:at + SECTOR] != state[at:at + SECTOR]]
        if not wrong:
            return "but it shows another one"
        at = wrong[0]
        return (f"the newest change in it is {newest}; then {len(wrong)} sectors are wrong, the "
                f"first at {self.sequence.begin + at:#x}: {bytes(found[at:at + 16]).hex()}, "
                f"expected {bytes(state[at:at + 16]).hex()}")

    def after_crash(self, found, flushed, sent):
        """This is what a crash may leave."""
        allowed, flushed = {}, max(flushed, self.first)
        for n in range(flushed + 1, sent + 1):
            offset, length, data = self.sequence.change(n)
            place = offset - self.sequence.begin
            for at in range(0, length, SECTOR):
                allowed.setdefault(place + at, set()).add(
                    data[at:at + SECTOR] if data else bytes(SECTOR))
        state = self.at(flushed)
        rest = bytearray(found)
        for at, contents in allowed.items():
            was = bytes(state[at:at + SECTOR])
            expect(found[at:at + SECTOR] in contents | {was},
                   f"after the kill: {self.sequence.begin + at:#x} holds what was never there")
            rest[at:at + SECTOR] = was
        expect(rest == state, "after the kill, what was flushed is not there:",
               self._nearest(rest, flushed, flushed))


class Instant:
    """Of a copy: it shows one moment of low..high; these parts of fio were full."""

    def __init__(self, history, low, high, full):
        self.history, self.low, self.high, self.full = history, low, high, full
