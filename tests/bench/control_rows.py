# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# What commands of the control channel cost the guest: a client that writes 4 KiB after
# 4 KiB at random places of a disk that is mapped everywhere and has sixteen enabled
# bitmaps, and another time one that reads. While it is at work the command is done some
# times. A gap is the time between two answers to the client; those count that lie in the
# time from a command to 50 ms after its answer. "no command": what the machine adds; a flush
# by another client: what a command has in it that brings the file up to date.

import array
import dataclasses
import itertools
import os
import subprocess
import sys
import time
import typing

from control import Controlled, StorageDaemon, with_bitmaps, write_all_over
from rows import Group, Row, Sample, known, part, size_name
from servers import GiB, MiB, TiB, Failed, warm_memory

BITMAPS = 16
AFTER = 0.05
REPETITIONS = 10  # in a second of the bench's option
SECONDS_MAX = 6   # for all of one command


class Guest:
    """stall.py at work."""

    def __init__(self, server, what):
        server.connect().shutdown()
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "stall.py")
        self.process = subprocess.Popen([sys.executable, script, server.uri, what], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE)
        if self.process.stdout.readline() != b"ready\n":
            raise Failed("stall.py did not start")

    def end(self):
        """When each of its requests was answered."""
        moments = array.array("d")
        moments.frombytes(self.process.communicate(b"")[0])
        if self.process.returncode != 0 or not moments:
            raise Failed("stall.py failed")
        return moments


def gaps(moments, windows):
    """Seconds, sorted: those that have a part in one of the windows."""
    found = []
    at = 1
    for begin, end in windows:
        while at < len(moments) and moments[at] < begin:
            at += 1
        while at < len(moments) and moments[at - 1] < end:
            found.append(moments[at] - moments[at - 1])
            at += 1
    return sorted(found)


@dataclasses.dataclass
class Command:
    """Each step takes (variant, server, number of the repetition)."""
    name: str
    title: str
    act: typing.Callable
    before: typing.Callable = None
    after: typing.Callable = None
    goal_ms: float = None
    is_backup: bool = False
    skip: tuple = ()


def do(command, **arguments):
    """With {} in arguments for the number of the repetition."""
    def step(_variant, server, number):
        server.monitor.do(command, **{
            key: value.format(number) if isinstance(value, str) else value
            for key, value in arguments.items()})
    return step


def bitmap(what, name, **more):
    return do(f"block-dirty-bitmap-{what}", node="disk", name=name, **more)


def merge(target, *sources):
    return do("block-dirty-bitmap-merge", node="disk", target=target, bitmaps=list(sources))


def in_turn(*steps):
    def all_of_them(*words):
        for step in steps:
            step(*words)
    return all_of_them


# What scripts written for QEMU do before a backup.
def rotate(_variant, server, _number):
    server.monitor.do("transaction", actions=StorageDaemon.rotation("b2", persistent=True))


def prepare_backup(variant, server, _number):
    variant.prepare(server.image, server.size)


def begin_backup(variant, server, _number):
    variant.begin(server, ("b3",))


def end_backup(variant, server, _number):
    variant.end(server, ("b3",))


def resize(_variant, server, number):
    server.monitor.do("block_resize", **{"node-name": "disk", "size": server.size + (number + 1) * MiB})


take = do("blockdev-snapshot-internal-sync", device="disk", name="s{}")
drop = do("blockdev-snapshot-delete-internal-sync", device="disk", name="s{}")
COMMANDS = (
    Command("nothing", "no command", lambda *_: None),
    Command("flush", "no command, a flush by another client", lambda _variant, server, _number: server.client.flush()),
    Command("add", "bitmap add", bitmap("add", "t{}", persistent=True), after=bitmap("remove", "t{}"), goal_ms=5),
    Command("remove", "bitmap remove", bitmap("remove", "t{}"), bitmap("add", "t{}", persistent=True)),
    Command("disable", "bitmap disable", bitmap("disable", "b0"), after=bitmap("enable", "b0"), goal_ms=5),
    Command("enable", "bitmap enable", bitmap("enable", "b0"), bitmap("disable", "b0"), goal_ms=5),
    Command("clear", "bitmap clear", bitmap("clear", "b1"), goal_ms=5),
    Command("merge", "bitmap merge", merge("m{}", "b4"),
            bitmap("add", "m{}", persistent=True, disabled=True), bitmap("remove", "m{}")),
    Command("transaction", "transaction: add, merge, clear", rotate, after=bitmap("remove", "frozen-b2")),
    Command("backup-begin", "backup-begin with a bitmap", begin_backup, prepare_backup, end_backup, 5, True),
    Command("backup-end", "backup-end", end_backup, in_turn(prepare_backup, begin_backup), None, None, True),
    # QEMU does not resize a node that is exported.
    Command("resize", "resize, 1M more", resize, skip=("storage-daemon",)),
    Command("snapshot-create", "snapshot create", take, after=drop),
    Command("snapshot-delete", "snapshot delete", drop, before=take),
)


def stall(server, variant, command, what, repetitions):
    """For each repetition the answer's time; and the gaps."""
    took, windows = [], []
    guest = Guest(server, what)
    try:
        begun = time.monotonic()
        for number in itertools.islice(server.numbers, repetitions):
            if command.before:
                command.before(variant, server, number)
            time.sleep(AFTER)
            began = time.monotonic()
            command.act(variant, server, number)
            took.append(time.monotonic() - began)
            windows.append((began, began + took[-1] + AFTER))
            time.sleep(AFTER)
            if command.after:
                command.after(variant, server, number)
            if time.monotonic() > begun + SECONDS_MAX:
                break
    finally:
        moments = guest.end()
    return sorted(took), gaps(moments, windows)


def measure_command(bench, variant, size, command):
    variant = variant.layered(command.is_backup)
    image = bench.images.copied(variant, with_bitmaps(bench.images, size, BITMAPS))
    values = {}
    warm_memory(image, part(bench, GiB, GiB))
    with variant.serve(image, bench.sockets) as server:
        server.image, server.size, server.numbers = image, size, itertools.count()
        server.client = server.connect()  # while there is one nobody settles the disk
        write_all_over(server, size, int(min(bench.seconds, 1) * 32) * MiB or MiB)
        server.monitor.do("query-version")
        for what in ("write", "read"):
            took, found = stall(server, variant, command, what, int(REPETITIONS * bench.seconds) or 1)
            values[what + "-longest"] = found[-1] * 1e3
            values[what + "-p99"] = found[len(found) * 99 // 100] * 1e3
            values["answer"] = took[len(took) // 2] * 1e3
        server.client.shutdown()
    return values


METRICS = (("write-longest", "longest gap of a writer"), ("write-p99", "p99 gap of a writer"),
           ("read-longest", "longest gap of a reader"), ("read-p99", "p99 gap of a reader"),
           ("answer", "the answer comes after"))


def metric(size, command, name):
    def measure(bench, variant):
        return Sample(known(bench, (variant.name, size, command.name),
                            lambda: measure_command(bench, variant, size, command))[name])
    return measure


def control_group(filter, sync):
    rows = []
    for size in (64 * GiB, TiB):
        for command in COMMANDS:
            for name, title in METRICS:
                goal = command.goal_ms if name.endswith("longest") else None
                rows.append(Row(f"stall-{size_name(size).lower()}-{command.name}-{name}",
                                f"{command.title}, {size_name(size)}: {title}", "ms", metric(size, command, name),
                                command.skip, at_most=goal))
    return Group("control", "What a command costs the guest",
                 [StorageDaemon("storage-daemon", "qemu-storage-daemon", "threads"),
                  Controlled("us", "us", filter, sync)],
                 rows, None, ("storage-daemon",), has_cpu=False)
