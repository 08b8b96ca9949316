# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# What nbdkit costs where it does what we do and nothing else; goals are read beside it.
#
# A first touch costs whoever keeps what was there: nbdkit on a raw file, without and with a copy
# before each write (copying.c). Many extents cost whoever tells them: nbdkit with a list of the
# same extents in memory (its filter extentlist).

import os

from backup_rows import DISK, WRITES, writes
from images import CLUSTER
from rows import Group, Row, Sample, known, part, status
from servers import GiB, Qemu, Raw, Us, compiled, warm_memory


class Copying(Raw):
    """With a shim, and a file for what was overwritten."""

    def serve(self, image, sockets):
        self.shim = compiled("copying.c", sockets)
        return super().serve(image, sockets)

    def command(self, image, path):
        return ["env", "LD_PRELOAD=" + self.shim, "COPY_TO=" + image + ".copy", *super().command(image, path)]


def first_touch(what, number):
    """MB/s, p99."""
    def measure(bench, variant):
        def once():
            image = bench.images.full_copy(variant, DISK)
            warm_memory(image, part(bench, 2 * DISK, 2 * DISK))
            with Raw("warm", "").serve(image, bench.sockets) as server:
                server.fio(**writes(bench, what))
            with variant.serve(image, bench.sockets) as server:
                _, size, seconds, _ = server.fio(**writes(bench, what))
            if os.path.exists(image + ".copy"):
                os.unlink(image + ".copy")
            return {"values": (size / seconds / 1e6, server.p99_us)}
        return Sample(known(bench, (variant.name, "floor", what), once)["values"][number])
    return measure


def floor_group():
    rows = []
    for what, (title, _, _) in WRITES.items():
        rows += [Row(f"floor-{what}", f"first touch, {title}", "MB/s", first_touch(what, 0)),
                 Row(f"floor-{what}-p99", f"first touch, {title}, p99", "us", first_touch(what, 1))]
    return Group("floor", "What a copy before each write costs alone",
                 [Raw("raw", "nbdkit file"), Copying("us", "nbdkit file, copying")],
                 rows, "raw", has_cpu=False)


# --- Many extents.

EXTENTS_DISK = 64 * GiB  # extentlist needs minutes to load a list for a terabyte
EXTENT_CLUSTERS = 8       # mapped, and as many that are not, and so on


class Listed(Raw):
    """The extents of an image that alternates, from a list."""

    def serve(self, image, sockets):
        if not os.path.exists(image + ".extents"):
            length = EXTENT_CLUSTERS * CLUSTER
            with open(image + ".extents", "w") as file:
                file.writelines(f"{at} {length}\n" for at in range(0, EXTENTS_DISK, 2 * length))
        return super().serve(image, sockets)

    def command(self, image, path):
        return ["nbdkit", "-f", "-U", path, "--filter=extentlist", "memory", f"size={EXTENTS_DISK}",
                f"extentlist={image}.extents"]


def extents_group(filter, sync):
    return Group("extents", "What many extents cost",
                 [Listed("list", "nbdkit, extentlist"), Qemu("threads", "qemu-nbd", "threads"),
                  Us("us", "us", filter, sync)],
                 [Row("extents-64g", "block status, 64G in 131072 extents", "ms",
                      status(EXTENTS_DISK, EXTENT_CLUSTERS))],
                 "list", ("threads",))
