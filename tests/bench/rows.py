# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# What is measured: groups of rows. A row measures one variant once:
# row.measure(bench, variant) returns a Sample.

import dataclasses
import time
import typing

import nbd

from servers import GiB, KiB, MiB, TiB, Qemu, Raw, Us, run

# The disk of the main rows, and of those that must be copied each time.
DISK = 512 * MiB
COPIED = 256 * MiB
THIN = 8 * GiB

UNITS = {"MB/s": 1, "k/s": 1, "/s": 1, "GB/s": 1, "ms": -1, "MB": -1, "us": -1}  # 1: more is better


@dataclasses.dataclass
class Sample:
    value: float
    cpu_us: float = None  # of the server, for each request
    seconds: float = None


@dataclasses.dataclass
class Row:
    name: str
    title: str
    unit: str
    measure: typing.Callable
    skip: tuple = ()      # names of variants that cannot do it
    counted: bool = True  # its barriers say something
    goal: tuple = (None, None)  # us / limit; us / best of QEMU ("ahead": 1.0)
    when: float = 0       # the second goal holds where limit / QEMU is more
    at_most: float = None  # our own figure, where less is better

    @property
    def more_is_better(self):
        return UNITS[self.unit] > 0


@dataclasses.dataclass
class Group:
    name: str
    title: str
    variants: list
    rows: list
    limit: str = None     # variant: the measure of all
    rivals: tuple = ()    # variants: the best of these is what we compare with
    us: str = "us"
    counted: str = None   # variant: its barriers are counted in a turn of its own
    has_cpu: bool = True  # CPU time per request says something
    # For the picture: what the limit is, and the best rival. None: it is in none.
    limit_words: str = None
    rival_words: str = "qemu-nbd"
    earlier: dict = dataclasses.field(default_factory=dict)  # variant: the same of an earlier filter

    def beside_limit(self):
        return [variant.name for variant in self.variants
                if variant.name != self.limit and variant.name not in self.earlier.values()]


# --- The measures. Each makes its image, serves it, and lets a client work.


def known(bench, what, measure):
    """What one measurement of `what` finds: it serves several rows of a round."""
    found = bench.known.setdefault((bench.round, what), {})
    if not found:
        found.update(measure())
    return found


def result(unit, measured):
    operations, size, seconds, cpu = measured
    value = {"MB/s": size / seconds / 1e6, "GB/s": size / seconds / 1e9,
             "k/s": operations / seconds / 1e3, "/s": operations / seconds}[unit]
    return Sample(value, cpu * 1e6 / max(operations, 1), seconds)


def steady(unit, **fio):
    """On a disk that is written everywhere, for some time. A copy for each round:
    it matters which pages of memory a file has got."""
    def measure(bench, variant):
        with variant.serve(bench.images.full_copy(variant, DISK), bench.sockets) as server:
            return result(unit, server.fio(size=DISK, time_based=1, runtime=bench.seconds, **fio))
    return measure


def part(bench, size, amount):
    """Bytes: `amount` for each second that a row may take, at most what the disk has."""
    return max(int(min(size, amount * bench.seconds)) // MiB, 1) * MiB


def work(unit, make, amount, **fio):
    """A part of the work on a new image."""
    def measure(bench, variant):
        image, size = make(bench.images, variant)
        with variant.serve(image, bench.sockets) as server:
            return result(unit, server.fio(size=size, io_size=part(bench, size, amount), **fio))
    return measure


def thin(size, options=""):
    return lambda images, variant: (images.thin(variant, size, options), size)


def snapshot(images, variant):
    return images.full_copy(variant, COPIED, snapshot=True), COPIED


def overlay(images, variant):
    return images.overlay(variant, COPIED), COPIED


def compressed(images, variant):
    return images.full(variant, COPIED, "-c"), COPIED


def requests(operation):
    """1 MiB each, over all of a disk with data, sixteen at a time, and a flush."""
    def measure(bench, variant):
        image = bench.images.full_copy(variant, COPIED)
        with variant.serve(image, bench.sockets) as server:
            client = server.connect()
            cpu = server.cpu_seconds()
            begun = time.monotonic()
            in_flight = set()
            for offset in range(0, COPIED, MiB):
                while len(in_flight) >= 16:
                    client.poll(-1)
                    in_flight -= {cookie for cookie in in_flight if client.aio_command_completed(cookie)}
                in_flight.add(operation(client, offset))
            while in_flight:
                in_flight -= {cookie for cookie in in_flight if client.aio_command_completed(cookie)}
                if in_flight:
                    client.poll(-1)
            client.flush()
            seconds = time.monotonic() - begun
            cpu = server.cpu_seconds() - cpu
            client.shutdown()
            return result("GB/s", (COPIED // MiB, COPIED, seconds, cpu))
    return measure


def status(size, run_clusters):
    """All extents of a disk, asked for a GiB at a time."""
    def measure(bench, variant):
        image = bench.images.fragmented(variant, size, run_clusters)
        with variant.serve(image, bench.sockets) as server:
            client = server.connect(nbd.CONTEXT_BASE_ALLOCATION)
            cpu = server.cpu_seconds()
            begun = time.monotonic()
            offset, extents = 0, 0
            end = [0]

            def note(_context, at, entries, _error):
                end[0] = at + sum(entries[0::2])
                return len(entries) // 2

            while offset < size:
                client.block_status(min(GiB, size - offset), offset, note)
                offset = end[0]
                extents += 1
            seconds = time.monotonic() - begun
            cpu = server.cpu_seconds() - cpu
            client.shutdown()
            return Sample(seconds * 1e3, cpu * 1e6 / extents)
    return measure


def start(size, bitmaps):
    def measure(bench, variant):
        image = bench.images.with_bitmaps(variant, size, bitmaps)
        own = variant.as_it_is()
        with own.serve(image, bench.sockets) as server:
            seconds = server.first_byte(size // 2)
            server.stop()
            return Sample(seconds * 1e3)
    return measure


def after_writes(size, what):
    """Memory, or the time of a clean stop, after random writes all over. qemu-nbd
    keeps the same bitmap as we do."""
    def measure(bench, variant):
        image = bench.images.thin(variant, size)
        if variant.family == "qemu":
            run("qemu-img", "bitmap", "--add", "-g", "64K", image, "b0")
        with variant.serve(image, bench.sockets) as server:
            server.fio(size=size, io_size=32 * MiB, rw="randwrite", bs="4k", iodepth=16)
            memory = server.peak_memory() / 1e6
            seconds = server.stop()
            return Sample(memory if what == "memory" else seconds * 1e3)
    return measure


def size_name(size):
    for unit, letter in ((TiB, "T"), (GiB, "G"), (MiB, "M")):
        if size >= unit:
            return f"{size // unit}{letter}"
    return str(size)


def main_rows():
    random_read = dict(rw="randread", bs="4k")
    random_write = dict(rw="randwrite", bs="4k")
    goal = dict(goal=(0.95, 1.0), when=1.1)
    rows = [
        Row("read-4k-1", "random read 4K, depth 1", "MB/s", steady("MB/s", **random_read, iodepth=1), **goal),
        Row("read-4k-16", "random read 4K, depth 16", "MB/s", steady("MB/s", **random_read, iodepth=16), **goal),
        Row("read-4k-4x16", "random read 4K, 4 connections", "MB/s",
            steady("MB/s", **random_read, iodepth=16, numjobs=4), **goal),
        Row("read-64k", "sequential read 64K, depth 16", "MB/s", steady("MB/s", rw="read", bs="64k", iodepth=16), **goal),
        Row("read-1m", "sequential read 1M, depth 16", "MB/s", steady("MB/s", rw="read", bs="1m", iodepth=16), **goal),
        Row("write-4k-1", "random overwrite 4K, depth 1", "MB/s", steady("MB/s", **random_write, iodepth=1), **goal),
        Row("write-4k-16", "random overwrite 4K, depth 16", "MB/s", steady("MB/s", **random_write, iodepth=16), **goal),
        Row("write-4k-4x16", "random overwrite 4K, 4 connections", "MB/s",
            steady("MB/s", **random_write, iodepth=16, numjobs=4), **goal),
        Row("write-64k", "sequential overwrite 64K, depth 16", "MB/s", steady("MB/s", rw="write", bs="64k", iodepth=16), **goal),
        Row("write-1m", "sequential overwrite 1M, depth 16", "MB/s", steady("MB/s", rw="write", bs="1m", iodepth=16), **goal),
        Row("alloc-64k", "allocate, sequential 64K", "MB/s",
            work("MB/s", thin(THIN), 512 * MiB, rw="write", bs="64k", iodepth=16), goal=(0.85, 1.0), when=1.2),
        Row("alloc-1m", "allocate, sequential 1M", "MB/s",
            work("MB/s", thin(THIN), 512 * MiB, rw="write", bs="1m", iodepth=16), goal=(0.85, 1.0), when=1.2),
        Row("alloc-4k", "allocate, random 4K", "MB/s",
            work("MB/s", thin(THIN), 64 * MiB, rw="randwrite", bs="4k", iodepth=16), goal=(0.7, 2.0)),
        Row("fsync-4k", "4K, fsync after every write, allocated", "/s",
            steady("/s", **random_write, iodepth=1, fsync=1), goal=(0.9, 1.0)),
        Row("fsync-thin", "4K, fsync after every write, thin", "/s",
            work("/s", thin(THIN), 8 * MiB, rw="randwrite", bs="4k", iodepth=1, fsync=1), goal=(0.6, 1.8)),
        Row("snapshot-4k", "random 4K after a snapshot", "MB/s",
            work("MB/s", snapshot, 16 * MiB, rw="randwrite", bs="4k", iodepth=16), ("raw",), (None, 1.0)),
        Row("backing-4k", "random 4K over a backing file", "MB/s",
            work("MB/s", overlay, 16 * MiB, rw="randwrite", bs="4k", iodepth=16), ("raw",), (None, 1.0)),
        Row("extended-4k", "random 4K, extended L2, thin", "MB/s",
            work("MB/s", thin(THIN, "extended_l2=on,cluster_size=128k"), 64 * MiB, rw="randwrite", bs="4k", iodepth=16),
            ("raw",), (None, 1.0)),
        Row("compressed-64k", "sequential read 64K, compressed", "MB/s",
            work("MB/s", compressed, 256 * MiB, rw="read", bs="64k", iodepth=16), ("raw",), (None, 1.0)),
        Row("zero-1m", "zero 1M, depth 16", "GB/s", requests(lambda client, at: client.aio_zero(MiB, at)), (), (None, 1.0)),
        Row("trim-1m", "trim 1M, depth 16", "GB/s", requests(lambda client, at: client.aio_trim(MiB, at)), (), (None, 1.0)),
        Row("status-1t", "block status, 1T in 2 million extents", "ms", status(TiB, 8), ("raw",), (None, 1.0)),
    ]
    for size in (GiB, TiB, 16 * TiB):
        for bitmaps in (0, 1, 16):
            rows.append(Row(f"start-{size_name(size).lower()}-{bitmaps}",
                            f"start to first byte, {size_name(size)}, {bitmaps} bitmaps", "ms", start(size, bitmaps),
                            ("raw",) if bitmaps else (), (None, 1.0)))
    for size in (GiB, TiB, 16 * TiB):
        rows.append(Row(f"memory-{size_name(size).lower()}", f"peak memory, {size_name(size)}", "MB",
                        after_writes(size, "memory"), (), (None, 1.0)))
    for size in (GiB, TiB, 16 * TiB):
        rows.append(Row(f"stop-{size_name(size).lower()}", f"stop after 8192 writes, {size_name(size)}", "ms",
                        after_writes(size, "stop"), (), (None, 1.0)))
    return rows


QUICK = ("read-4k-16", "write-4k-16", "write-1m", "alloc-4k", "fsync-thin", "start-1t-1")


def with_earlier(group, filter):
    """The group, each variant of ours also by this earlier filter, if there is one."""
    if filter:
        for ours in [variant for variant in group.variants if isinstance(variant, Us)]:
            name = f"earlier-{ours.name}"
            group.variants.append(Us(name, f"{ours.title}, earlier", filter, ours.sync, ours.bitmap))
            group.earlier[ours.name] = name
    return group


def main_group(filter, sync, earlier):
    return with_earlier(Group(
        "main", "As fast as the raw file",
        [Raw("raw", "nbdkit, raw"), Qemu("threads", "qemu-nbd, threads", "threads"),
         Qemu("io_uring", "qemu-nbd, io_uring", "io_uring"), Us("us", "us", filter, sync)],
        main_rows(), "raw", ("threads", "io_uring"), limit_words="nbdkit on a raw file"), earlier)


# --- What durable bitmaps cost.


def first_touch(size, amount, **fio):
    """Writes on a disk whose clusters are all mapped, over a clean bitmap."""
    def measure(bench, variant):
        image = bench.images.mapped(variant, size)
        io_size = int(min(size, amount * bench.seconds)) // MiB * MiB
        with variant.serve(image, bench.sockets) as server:
            return result("MB/s", server.fio(size=size, io_size=io_size, **fio))
    return measure


def second_touch(size, amount, **fio):
    """The same writes again."""
    def measure(bench, variant):
        image = bench.images.mapped(variant, size)
        io_size = int(min(size, amount * bench.seconds)) // MiB * MiB
        with variant.serve(image, bench.sockets) as server:
            server.fio(size=size, io_size=io_size, **fio)
            return result("MB/s", server.fio(size=size, io_size=io_size, **fio))
    return measure


def flushing(size, amount, fsync):
    """A guest that flushes after some writes, while somebody else streams, so
    that there always are some 128 MiB of dirty data in the file."""
    def measure(bench, variant):
        image = bench.images.mapped(variant, size)
        stream = min(size // 2, 2 * GiB)
        with variant.serve(image, bench.sockets) as server:
            server.fio(size=128 * MiB, rw="write", bs="1m", iodepth=4)
            with server.fio_beside(rw="write", bs="1m", iodepth=4, size=stream, rate="128m",
                                   time_based=1, runtime=600):
                return result("MB/s", server.fio(
                    rw="randwrite", bs="4k", iodepth=1, fsync=fsync, offset=stream, size=size - stream,
                    io_size=max(int(amount * bench.seconds), 64 * KiB)))
    return measure


def after_clear(size, amount, **fio):
    """All was dirty, and then the bitmap was cleared: as after a backup."""
    def measure(bench, variant):
        image = bench.images.mapped(variant, size)
        io_size = int(min(size, amount * bench.seconds)) // MiB * MiB
        with variant.serve(image, bench.sockets) as server:
            server.fio(size=size, io_size=io_size, **fio)
            server.stop()
        if variant.bitmap:
            run("qemu-img", "bitmap", "--clear", image, variant.bitmap)
        with variant.serve(image, bench.sockets) as server:
            return result("MB/s", server.fio(size=size, io_size=io_size, **fio))
    return measure


def price_rows():
    rows = []
    for size in (GiB, 64 * GiB, TiB):
        name = size_name(size)
        for depth in (1, 16):
            random = dict(rw="randwrite", bs="4k", iodepth=depth)
            sequential = dict(rw="write", bs="1m", iodepth=depth)
            rows += [
                Row(f"first-4k-{depth}-{name.lower()}", f"first touch, random 4K, depth {depth}, {name}", "MB/s",
                    first_touch(size, 64 * MiB, **random)),
                Row(f"first-1m-{depth}-{name.lower()}", f"first touch, sequential 1M, depth {depth}, {name}", "MB/s",
                    first_touch(size, 512 * MiB, **sequential)),
                Row(f"second-4k-{depth}-{name.lower()}", f"second touch, random 4K, depth {depth}, {name}", "MB/s",
                    second_touch(size, 64 * MiB, **random), counted=False),
                Row(f"second-1m-{depth}-{name.lower()}", f"second touch, sequential 1M, depth {depth}, {name}", "MB/s",
                    second_touch(size, 512 * MiB, **sequential), counted=False),
                Row(f"clear-4k-{depth}-{name.lower()}", f"after the bitmap was cleared, random 4K, depth {depth}, {name}",
                    "MB/s", after_clear(size, 64 * MiB, **random)),
            ]
        rows += [
            Row(f"flush-1-{name.lower()}", f"flush after every 4K, 128 MiB dirty, {name}", "MB/s",
                flushing(size, 4 * MiB, 1)),
            Row(f"flush-32-{name.lower()}", f"flush after 32 of 4K, 128 MiB dirty, {name}", "MB/s",
                flushing(size, 32 * MiB, 32)),
        ]
    return rows


def price_group(filter, syncs, earlier):
    variants = [Us("none", "no bitmap", filter, None, None)]
    variants += [Us(sync, sync, filter, sync) for sync in syncs]
    return with_earlier(Group("price", "What a bitmap costs", variants, price_rows(), "none", (), variants[-1].name,
                              variants[-1].name), earlier)
