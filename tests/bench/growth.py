# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# Cost as work grows: for each state of an image the time to the first byte,
# peak memory, and the server's CPU time for a random 4K read and write.

import dataclasses
import typing

from rows import Group, Row, Sample, known, size_name
from servers import GiB, TiB, Qemu, Us

REQUESTS = 8192


@dataclasses.dataclass
class State:
    name: str
    title: str
    make: typing.Callable  # (images, variant) -> (path, size of the disk)
    connections: int = 1


METRICS = (("start", "start, ms", "ms"), ("memory", "memory, MB", "MB"),
           ("read", "CPU per read, us", "us"), ("write", "CPU per write, us", "us"))


def measure_state(bench, variant, state):
    image, size = state.make(bench.images, variant)
    own = variant.as_it_is()
    values = {}
    with own.serve(image, bench.sockets) as server:
        values["start"] = server.first_byte(size // 2) * 1e3
        each = dict(size=size, bs="4k", iodepth=16, numjobs=state.connections,
                    io_size=max(REQUESTS // state.connections, 64) * 4096)
        for name, rw in (("write", "randwrite"), ("read", "randread")):
            operations, _, _, cpu = server.fio(rw=rw, **each)
            values[name] = cpu * 1e6 / operations
        values["memory"] = server.peak_memory() / 1e6
        server.stop()
    return values


def metric(state, name):
    def measure(bench, variant):
        return Sample(known(bench, (variant.name, state.name),
                            lambda: measure_state(bench, variant, state))[name])
    return measure


def states():
    def thin(size):
        return lambda images, variant: (images.thin(variant, size), size)

    def copy(make, size):
        def made(images, variant):
            return images.copied(variant, make(images, variant)), size
        return made

    sizes = [State(f"disk-{size_name(size).lower()}", f"disk of {size_name(size)}", thin(size))
             for size in (GiB, 16 * GiB, 256 * GiB, 4 * TiB, 64 * TiB)]
    bitmaps = [State(f"bitmaps-{count}", f"{count} bitmaps, 64G",
                     copy(lambda images, variant, count=count: images.with_bitmaps(variant, 64 * GiB, count), 64 * GiB))
               for count in (1, 16, 1000)]
    snapshots = [State(f"snapshots-{count}", f"{count} snapshots, 64G",
                       copy(lambda images, variant, count=count: images.with_snapshots(variant, 64 * GiB, count),
                            64 * GiB))
                 for count in (1, 16, 256)]
    fragments = [State(f"fragments-{TiB // 2 // (clusters << 16)}", f"{TiB // 2 // (clusters << 16)} fragments, 1T",
                       copy(lambda images, variant, clusters=clusters: images.fragmented(variant, TiB, clusters), TiB))
                 for clusters in (4096, 64, 1)]
    connections = [State(f"connections-{count}", f"{count} connections, 64G", thin(64 * GiB), count)
                   for count in (1, 4, 16, 32)]
    return sizes + bitmaps + snapshots + fragments + connections


def growth_group(filter, sync):
    rows = [Row(f"{state.name}-{name}", f"{state.title}: {title}", unit, metric(state, name))
            for state in states() for name, title, unit in METRICS]
    return Group("growth", "Cost as work grows",
                 [Qemu("threads", "qemu-nbd", "threads"), Us("us", "us", filter, sync)],
                 rows, None, ("threads",), has_cpu=False)
