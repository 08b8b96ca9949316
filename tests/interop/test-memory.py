#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# The memory is bounded, and the start is quick, whatever the size of the disk.

import array
import os
import struct
import sys
import time

sys.dont_write_bytecode = True
from interop import *  # noqa: E402, F403

# As users have it.
for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES"):
    os.environ.pop(name, None)

MEMORY_MAX = 100 * MiB
START_SECONDS = 1.0


def memory_peak(server):
    with open(f"/proc/{server.process.pid}/status") as f:
        for line in f:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * KiB
    raise Wrong("no VmHWM")


def expect_memory(server, what):
    peak = memory_peak(server)
    print(f"{what}: {peak / MiB:.1f} MiB at most")
    if not os.environ.get("SANITIZER_PRELOAD"):
        expect(peak <= MEMORY_MAX, f"{what}: {peak / MiB:.1f} MiB of memory")


def place_of(rng, size):
    return rng.randrange(size // 4096) * 4096


@case
def a_disk_of_64T(t):
    path, size, names = t.path("disk.qcow2"), 64 * TiB, ("b0", "b1")
    create(path, size)
    for name in names:
        add_bitmap(path, name, 64 * KiB)
    model, writes = Model(size), []
    # Scattered: each write needs an L2 table, and many a refcount block.
    for number in range(2000):
        at = place_of(t.rng, size) + t.rng.choice((0, 0, 512, 7))
        writes.append(Op("write", at, t.rng.choice((1, 512, 4096)), 0, number))
    with Nbdkit(t, path) as server:
        h = server.connect("base:allocation")
        apply_all(writes, h, model, 64 * KiB)
        h.flush()
        apply_all([Op("zero", 10 * TiB, 2 * GiB, 0, 0), Op("trim", 20 * TiB, 3 * GiB, 0, 0)], h,
                  model, 64 * KiB)
        expect_memory(server, "while it is written")
    changed = touched(writes) + [(10 * TiB, 10 * TiB + 2 * GiB), (20 * TiB, 20 * TiB + 3 * GiB)]
    image = Qcow2File(path)
    for name in names:
        same(image.dirty(image.bitmaps()[name]), granules(changed, 64 * KiB, size), name)
    check(path)

    seconds = []
    for _ in range(3):
        begun = time.monotonic()
        with Nbdkit(t, path) as server:
            h = server.connect("base:allocation")
            h.pread(512, 0)
            seconds.append(time.monotonic() - begun)
            for op in writes[::3]:
                expect_bytes(h.pread(op.length, op.offset), model.read(op.offset, op.length),
                             op.offset, "read again")
            for op in t.rng.sample(writes, 200):
                apply(op._replace(generation=op.generation + 5000), h, model, 64 * KiB)
            expect_memory(server, "when it is opened again")
    print("opened in", " ".join(f"{s:.3f}" for s in seconds), "s")
    # The machine may be busy: once is enough.
    expect(min(seconds) < START_SECONDS, f"opened in {min(seconds):.2f} s")
    check(path)


@case
def small_clusters_full_of_tables(t):
    """8T of 4K clusters: 4 million L2 tables, close together and far apart."""
    for distance in (1, 512):
        path, cluster = t.path("disk.qcow2"), 4 * KiB
        create(path, 8 * TiB, "cluster_size=4k")
        l1_size, = struct.unpack_from(">I", Qcow2File(path).head, 36)
        l1_table_offset, = struct.unpack_from(">Q", Qcow2File(path).head, 40)
        first = (os.path.getsize(path) + cluster - 1) // cluster * cluster
        with open(path, "r+b") as f:
            f.truncate(first + l1_size * distance * cluster)
            entries = array.array("Q", (1 << 63 | first + i * distance * cluster
                                        for i in range(l1_size)))
            entries.byteswap()
            f.seek(l1_table_offset)
            f.write(entries.tobytes())
        begun = time.monotonic()
        with Nbdkit(t, path, "qcow2-cache=64K") as server:
            h = server.connect("base:allocation")
            h.pread(512, 4 * TiB)
            print(f"opened in {time.monotonic() - begun:.2f} s")
            expect_memory(server, f"an L2 table in every {distance} clusters")
        os.unlink(path)


@case
def block_status_of_1T(t):
    path, size = t.path("disk.qcow2"), 1 * TiB
    create(path, size)
    at = sorted({place_of(t.rng, size) // (64 * KiB) * 64 * KiB for _ in range(300)})
    with Nbdkit(t, path) as server:
        h = server.connect("base:allocation")
        for offset in at:
            h.pwrite(b"x" * 100, offset)
        begun = time.monotonic()
        found = extents(h, "base:allocation")
        seconds = time.monotonic() - begun
        print(f"block status took {seconds:.3f} s")
        same([begin for begin, _, flags in found if not flags & nbd.STATE_ZERO], at, "data")
        expect(seconds < 5, f"block status took {seconds:.1f} s")
        expect_memory(server, "block status")
    with Nbdkit(t, path) as server:
        begun = time.monotonic()
        same(len(extents(server.connect("base:allocation"), "base:allocation")), len(found),
             "extents")
        expect(time.monotonic() - begun < 5, "block status of an image just opened took long")
        expect_memory(server, "block status of an image just opened")
    check(path)


main()
