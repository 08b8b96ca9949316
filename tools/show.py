# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# What people read: sizes, times, tables, a progress bar.

import datetime
import re
import sys
import time

import failure

UNITS = "KMGTPE"


def size(count):
    """As qemu-img says it: 1.5 GiB."""
    if count < 1024:
        return f"{count} B"
    for unit in UNITS:
        count /= 1024
        if count < 1023.5 or unit == UNITS[-1]:
            break
    return f"{count:.3g} {unit}iB"


def parsed_size(text):
    """Of 512, 64k, 20G, 1.5T: bytes. ValueError if it is none."""
    number, unit = text, 1
    if text and text[-1].upper() in UNITS:
        number, unit = text[:-1], 1024 ** (UNITS.index(text[-1].upper()) + 1)
    if not number or not set(number) <= set("0123456789."):
        raise ValueError(f"'{text}' is no size: 512, 64K, 20G")
    count = float(number) * unit if "." in number else int(number) * unit
    if count != int(count) or count >= 1 << 63:
        raise ValueError(f"'{text}' is no size in bytes")
    return int(count)


def moment(when):
    """A time as people here read it."""
    return when.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def parsed_moment(text):
    """The last instant that TEXT may mean: a day is meant with its evening. Local time,
    unless it says otherwise (Z, +01:00)."""
    clock = re.match(r"[^T ]*[T ]?([0-9:]*)", text)[1].replace(":", "")
    last = {"hour": 23, "minute": 59, "second": 59}
    for unit in list(last)[:len(clock) // 2]:
        del last[unit]
    try:
        when = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
        return when.replace(**last).astimezone()
    except (ValueError, OverflowError):
        raise ValueError(f"'{text}' is no time: 2026-11-27, '2026-11-27 21:30'") from None


def plural(count, thing):
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def duration(seconds):
    seconds = int(seconds)
    if seconds < 3600:
        return f"{seconds // 60}:{seconds % 60:02}"
    return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def table(heads, rows):
    """Columns as wide as they must be; those of numbers to the right."""
    rows = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(line[i]) for line in [heads, *rows]) for i in range(len(heads))]
    right = [bool(rows) and all(row[i][:1].isdigit() for row in rows) and i > 0
             for i in range(len(heads))]
    for line in [heads, *rows]:
        cells = [cell.rjust(width) if to_right else cell.ljust(width)
                 for cell, width, to_right in zip(line, widths, right)]
        print("  ".join(cells).rstrip())


class Progress:
    """A bar on a terminal; elsewhere nothing. with Progress("copying") as bar: bar.to(42.0)"""

    CELLS = 30

    def __init__(self, what):
        self._what = what
        self._began = time.monotonic()
        self._shown = None
        self._is_wanted = sys.stderr.isatty() and not failure.is_quiet

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)

    def to(self, percent):
        if not self._is_wanted:
            return
        full = int(self.CELLS * percent / 100)
        bar = "#" * full + "." * (self.CELLS - full)
        text = f"{self._what} [{bar}] {percent:5.1f} %{self._left(percent)}"
        if text != self._shown:
            self._shown = text
            print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)

    def _left(self, percent):
        passed = time.monotonic() - self._began
        if percent < 1 or passed < 1:
            return ""
        return f"  {duration(passed * (100 - percent) / percent)} left"
