# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# A backup of a disk that is in use, beside qemu-storage-daemon: how long its begin takes,
# what the guest gets before, during and after it, how fast the frozen disk is read, and
# how much memory it needs. The limit is our own disk without a backup.
#
# The guest's four runs are the same writes again, after a first one that nobody counts:
# so bitmaps have their bits, and the second touch is one.

import contextlib
import subprocess
import time

from control import Controlled, StorageDaemon, write_all_over
from rows import Group, Row, Sample, known, part, size_name
from servers import RUN_SECONDS, GiB, MiB, TiB, Failed, compiled, run, warm_memory

DISK = GiB
BEGINS = 5

RANDOM = dict(rw="randwrite", bs="4k", iodepth=16)
SEQUENTIAL = dict(rw="write", bs="1m", iodepth=16)
WRITES = {"4k": ("random 4K, depth 16", RANDOM, 128 * MiB),
          "1m": ("sequential 1M, depth 16", SEQUENTIAL, DISK)}


def in_use(bench, variant):
    """A disk with data everywhere, and a bitmap."""
    image = bench.images.full_copy(variant, DISK)
    run("qemu-img", "bitmap", "--add", image, "b0")
    return image


def of_all(bench, variant, what, measure):
    """"before" is of us, too."""
    name = "us" if variant.name == "before" else variant.name
    return known(bench, (name, what), lambda: measure(bench, variant))


def writes(bench, what):
    """What the guest writes in one run, in fio's words."""
    _, how, amount = WRITES[what]
    return dict(how, size=DISK, io_size=part(bench, DISK, amount))


@contextlib.contextmanager
def backup(variant, server, image, size):
    variant.prepare(image, size)
    variant.begin(server)
    try:
        yield
    finally:
        variant.end(server)


# --- The guest, and memory.


def guest(what):
    """{step: (MB/s, p99 in us)}, and the memory of the backup."""
    def measure(bench, variant):
        image = in_use(bench, variant)
        warm_memory(image, 2 * DISK)
        how = writes(bench, what)
        values = {}
        with variant.serve(image, bench.sockets) as server:
            def step(name):
                _, size, seconds, _ = server.fio(**how)
                values[name] = size / seconds / 1e6, server.p99_us

            step("warm")
            step("before")
            memory = server.memory()
            with backup(variant, server, image, DISK):
                step("first")
                step("second")
                values["memory"] = (server.memory() - memory) / 1e6
            step("after")
        return values
    return measure


def guest_row(what, step, title, goal, p99_goal):
    words = WRITES[what][0]

    def of(number, unit):
        def measure(bench, variant):
            found = of_all(bench, variant, what, guest(what))
            return Sample(found["before" if variant.name == "before" else step][number])
        return measure

    return [Row(f"guest-{what}-{step}", f"guest, {words}: {title}", "MB/s", of(0, "MB/s"), goal=goal),
            Row(f"guest-{what}-{step}-p99", f"guest, {words}: {title}, p99", "us", of(1, "us"),
                goal=p99_goal)]


def memory_all(bench, variant):
    return Sample(max(of_all(bench, variant, "1m", guest("1m"))["memory"], 0.01))


def memory_scattered(size, writes):
    """As much again is written where it was written before."""
    def measure(bench, variant):
        image = bench.images.thin(variant, size)
        with variant.serve(image, bench.sockets) as server:
            write_all_over(server, size, writes * 4096)
            memory = server.memory()
            with backup(variant, server, image, size):
                write_all_over(server, size, writes * 4096)
                return Sample(max((server.memory() - memory) / 1e6, 0.01))
    return measure


# --- Begin.


def begin(size, bitmaps):
    """The commands that it takes, the median of some; scratch is made before."""
    names = [f"b{number}" for number in range(bitmaps)]

    def measure(bench, variant):
        image = bench.images.copied(variant, bench.images.with_bitmaps(variant, size, bitmaps))
        took = []
        with variant.serve(image, bench.sockets) as server:
            write_all_over(server, size, 8 * MiB)
            for _ in range(BEGINS):
                variant.prepare(image, size)
                server.monitor.do("query-version")
                began = time.monotonic()
                variant.begin(server, names)
                took.append(time.monotonic() - began)
                variant.end(server, names)
        return Sample(sorted(took)[BEGINS // 2] * 1e3)
    return measure


# --- Reading.


def copied(server, export):
    """MB/s of nbdcopy, which has several connections."""
    began = time.monotonic()
    done = subprocess.run(["nbdcopy", f"nbd+unix:///{export}?socket={server.path}", "null:"],
                          timeout=RUN_SECONDS, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT)
    if done.returncode != 0:
        raise Failed(f"nbdcopy: {done.stdout.decode(errors='replace')}")
    return DISK / (time.monotonic() - began) / 1e6


def reading(how):
    """{"live": MB/s, "frozen": MB/s}, while the guest sleeps, when it has overwritten
    all, or while it is at work."""
    def measure(bench, variant):
        def at_work():
            if how != "load":
                return contextlib.nullcontext()
            return server.fio_beside(size=DISK, time_based=1, runtime=RUN_SECONDS, **RANDOM)

        image = in_use(bench, variant)
        with variant.serve(image, bench.sockets) as server:
            server.fio(size=DISK, **SEQUENTIAL)
            with at_work():
                values = {"live": copied(server, "")}
            with backup(variant, server, image, DISK):
                if how == "kept":
                    server.fio(size=DISK, **SEQUENTIAL)
                with at_work():
                    values["frozen"] = copied(server, variant.frozen)
        return values
    return measure


def reading_row(how, title):
    def measure(bench, variant):
        found = of_all(bench, variant, how, reading(how))
        return Sample(found["live" if variant.name == "before" else "frozen"])
    return Row(f"frozen-{how}", f"read the frozen disk, {title}", "MB/s", measure, goal=(0.9, None))


def backup_rows():
    rows = [Row(f"begin-{size_name(size).lower()}-{bitmaps}",
                f"begin, {size_name(size)}, {bitmaps} bitmaps", "ms",
                begin(size, bitmaps), ("before",), at_most=5)
            for size in (GiB, TiB, 16 * TiB) for bitmaps in (0, 1, 16)]
    for what in WRITES:
        rows += guest_row(what, "before", "before", (None, None), (None, None))
        rows += guest_row(what, "first", "during, first touch", (0.7, 2.0), (0.5, None))
        rows += guest_row(what, "second", "during, second touch", (0.95, None), (0.5, None))
        rows += guest_row(what, "after", "after", (0.95, None), (0.5, None))
    rows += [reading_row("idle", "idle"), reading_row("kept", "all overwritten"),
             reading_row("load", "guest at work")]
    rows += [Row("backup-memory-1g", "memory of a backup, 1G, all overwritten", "MB", memory_all,
                 ("before",)),
             Row("backup-memory-16t", "memory of a backup, 16T, 8192 scattered writes", "MB",
                 memory_scattered(16 * TiB, 8192), ("before",))]
    return rows


def backup_group(filter, sync):
    return Group("backup", "A backup of a disk in use",
                 [Controlled("before", "us, no backup", filter, sync),
                  StorageDaemon("storage-daemon", "qemu-storage-daemon", "threads"),
                  Controlled("us", "us", filter, sync)],
                 backup_rows(), "before", ("storage-daemon",), has_cpu=False,
                 limit_words="our disk without a backup", rival_words="qemu-storage-daemon")


# --- Scratch that is no good: what the guest gets, beside a backup that goes well.

LIMIT = 16 * MiB
DELAY_US = 1000  # of each write to scratch

# What happens when: is the backup broken by it, the goals (more is better).
SCRATCH = {"full": ("scratch is full", True, (1.0, None), (0.5, None)),
           "fails": ("each write to scratch fails", True, (1.0, None), (0.5, None)),
           "slow": ("each write to scratch takes 1 ms more", False, (None, None), (0.5, None))}


def with_scratch(bench, variant, kind):
    """Our server with scratch of this kind."""
    if kind == "full":
        return Controlled(variant.name, variant.title, variant.filter, variant.sync, LIMIT)
    shim = compiled("bad_scratch.c", bench.sockets)
    return Controlled(variant.name, variant.title, variant.filter, variant.sync, None,
                      ("LD_PRELOAD=" + shim,
                       "SCRATCH_FAILS=1" if kind == "fails" else f"SCRATCH_DELAY_US={DELAY_US}"))


def bad_scratch(kind, what, number):
    """MB/s, p99."""
    def measure(bench, variant):
        # One backup that goes well serves for all kinds.
        here, breaks = "well", False
        if variant.name == "us":
            here, breaks = kind, SCRATCH[kind][1]
            variant = with_scratch(bench, variant, kind)

        def once():
            image = in_use(bench, variant)
            warm_memory(image, 2 * DISK)
            how = writes(bench, what)
            with variant.serve(image, bench.sockets) as server:
                server.fio(**how)
                with begun(variant, server) if breaks else backup(variant, server, image, DISK):
                    _, size, seconds, _ = server.fio(**how)
                    is_broken = server.monitor.do("query-backups")[0]["state"] == "broken"
                    if is_broken != breaks:
                        raise Failed(f"the backup is {'' if is_broken else 'not '}broken")
            return {"values": (size / seconds / 1e6, server.p99_us)}
        return Sample(known(bench, (here, "scratch", what), once)["values"][number])
    return measure


@contextlib.contextmanager
def begun(variant, server):
    """A backup that breaks."""
    variant.begin(server)
    yield
    server.monitor.do("backup-end", id="b", success=False)


def scratch_group(filter, sync):
    rows = []
    for kind, (when, _, goal, p99_goal) in SCRATCH.items():
        for what, (title, _, _) in WRITES.items():
            rows += [Row(f"scratch-{kind}-{what}", f"{when}: first touch, {title}", "MB/s",
                         bad_scratch(kind, what, 0), goal=goal),
                     Row(f"scratch-{kind}-{what}-p99", f"{when}: first touch, {title}, p99", "us",
                         bad_scratch(kind, what, 1), goal=p99_goal)]
    return Group("scratch", "The guest when scratch is no good",
                 [Controlled("normal", "copying", filter, sync),
                  Controlled("us", "us", filter, sync)],
                 rows, "normal", has_cpu=False)
