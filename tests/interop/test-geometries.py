#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# Both ways, for cluster sizes, refcount widths and versions: QEMU writes, we
# read; we write, QEMU reads, checks, and compares with a raw twin. A second
# image gets the same requests from qemu-nbd --discard=unmap: the bitmaps of the
# two are the same bit for bit.

import shutil
import sys

sys.dont_write_bytecode = True
from interop import *  # noqa: E402, F403

GRANULARITIES = (512, 4 * KiB, 64 * KiB, 1 * MiB, 16 * MiB, 2 * GiB)


def bitmaps_of(t, number):
    """Name -> granularity, for the image of that number; each meets each."""
    return {f"b{i}": GRANULARITIES[(number + i * 2) % len(GRANULARITIES)] for i in range(3)}


def both_ways(t, number, version, cluster, refcount_bits):
    size = {512: 3 * MiB, 4 * KiB: 20 * MiB, 64 * KiB: 100 * MiB, 2 * MiB: 1 * GiB}[cluster]
    size += SECTOR * t.rng.randrange(1, 300)
    write_max = min(size // 8, 3 * cluster + 128 * KiB)
    path, twin, raw = t.path("disk.qcow2"), t.path("twin.qcow2"), t.path("disk.raw")
    options = f"cluster_size={cluster},compat={'0.10' if version == 2 else '1.1'}"
    create(path, size, options + (f",refcount_bits={refcount_bits}" if version == 3 else ""))
    bitmaps = bitmaps_of(t, number) if version == 3 else {}
    for name, granularity in bitmaps.items():
        add_bitmap(path, name, granularity)
    if bitmaps:
        add_bitmap(path, "off", 64 * KiB, enabled=False)

    # QEMU writes.
    model = Model(size)
    draw = Operations(t.rng, size, cluster, write_max)
    by_qemu = draw.take(40)
    with qemu().served(path) as server:
        apply_all(by_qemu, server.connect(), model, cluster)
    check(path)
    shutil.copyfile(path, twin)
    twin_model = model.copy()

    # We read, and write.
    by_us = draw.take(80)
    with Nbdkit(t, path) as server:
        h = server.connect("base:allocation")
        read_all(h, model, "what QEMU wrote, read by us")
        expect_zeros_are_zero(h, model, "what QEMU wrote")
        apply_all(by_us, h, model, cluster)
        h.flush()
        read_all(h, model, "what we wrote, read by us")
        expect_zeros_are_zero(h, model, "what we wrote")
        said = server.stop()
    # (But of nbdkit before 1.34.)
    said = "\n".join(line for line in said.splitlines() if "when a client vanishes" not in line)
    expect("warning" not in said and "error" not in said, said)

    # QEMU does the same to the twin.
    with qemu().served(twin) as server:
        apply_all(by_us, server.connect(), twin_model, cluster)
    check_cut(path)
    compare(path, model.to_raw(raw))

    image, twin_image = Qcow2File(path), Qcow2File(twin)
    same((image.version, image.size, image.autoclear), (version, size, 1 if bitmaps else 0),
         "version, size, autoclear bits")
    same(info(path)["format-specific"]["data"]["refcount-bits"], refcount_bits, "refcount bits")
    expected = touched(by_qemu + by_us)
    ours, theirs = qemu_bitmaps(t, path, *bitmaps), qemu_bitmaps(t, twin, *bitmaps)
    for (name, granularity), mine, other in zip(bitmaps.items(), ours, theirs):
        same(mine, other, f"bitmap {name} of granularity {granularity}: QEMU's of the twin")
        same(mine, granules(expected, granularity, size), f"bitmap {name}, computed")
        same(image.dirty(image.bitmaps()[name]), twin_image.dirty(twin_image.bitmaps()[name]),
             f"bitmap {name}, the bytes in the file")
    if bitmaps:
        same(qemu_bitmaps(t, path, "off"), [[]], "the disabled bitmap")
    # Nothing was changed that would be seen as another bitmap.
    same(bitmap_infos(path), bitmap_infos(twin), "the list of bitmaps")


SIZES = {512: "512", 4 * KiB: "4K", 64 * KiB: "64K", 2 * MiB: "2M"}
number = 0
for cluster in SIZES:
    for version, widths in ((3, (1, 2, 16, 64)), (2, (16,))):
        for width in widths:
            cases({f"v{version}-{SIZES[cluster]}-{width}": (number, version, cluster, width)})(
                both_ways)
            number += 1
main()
