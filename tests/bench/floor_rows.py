# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# What a first touch costs whoever keeps what was there: nbdkit on a raw file, without and
# with a copy before each write, and nothing else (copying.c). The goals of a backup's first
# touch are read beside it.

import os

from backup_rows import DISK, WRITES, writes
from rows import Group, Row, Sample, known, part
from servers import Raw, compiled, warm_memory


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
