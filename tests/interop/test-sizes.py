#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# Disks of odd sizes, of none, and of 8T. What is behind the last multiple of
# 512 bytes QEMU does not serve, nor do we.

import os
import shutil
import sys

sys.dont_write_bytecode = True
from interop import *  # noqa: E402, F403


def both_write(t, path, size, cluster, bitmaps, model=None, **how):
    """The same requests by us, and by QEMU to a copy; all is compared. Returns
    what the disk then holds. `bitmaps`: name -> granularity."""
    twin = t.path("twin.qcow2")
    shutil.copyfile(path, twin)
    model = model or Model(size)
    twin_model = model.copy()
    ops = Operations(t.rng, size, cluster, **how).take(60)
    # The last byte, and the first.
    ops += [Op("write", at, 1, 0, 99) for at in (size - 1, 0)]
    with Nbdkit(t, path) as server:
        h = server.connect("base:allocation")
        apply_all(ops, h, model, cluster)
        read_all(h, model, "read by us")
        expect_zeros_are_zero(h, model, "read by us")
        same(extents(h, "base:allocation")[-1][1], size, "end of the block status")
    with qemu().served(twin) as server:
        h = server.connect()
        same(h.get_size(), size, "size by QEMU")
        apply_all(ops, h, twin_model, cluster)
    check_cut(path)
    if size // cluster < 1 << 30:
        compare(path, model.to_raw(t.path("disk.raw")))
    else:  # qemu-img would look at every L2 table that is not there
        with qemu().served(path, read_only=True) as server:
            read_all(server.connect(), model, "read by QEMU")
    ours = qemu_bitmaps(t, path, *bitmaps) if bitmaps else []
    theirs = qemu_bitmaps(t, twin, *bitmaps) if bitmaps else []
    image = Qcow2File(path)
    for (name, granularity), mine, other in zip(bitmaps.items(), ours, theirs):
        same(mine, other, f"bitmap {name} of granularity {granularity}: QEMU's of the twin")
        same(mine, granules(touched(ops), granularity, size), f"bitmap {name}, computed")
        same(image.dirty(image.bitmaps()[name]), mine, f"bitmap {name}, in the file")
    return model


BITMAPS = {"fine": 512, "middle": 64 * KiB, "coarse": 2 * GiB}


@cases({f"{cluster}-{size}": (cluster, size) for cluster, sizes in (
    (512, (512, 1024, 65 * 512, 4096 * 8 * 512 + 512)),
    (4 * KiB, (512, 4 * KiB - 512, 4 * KiB + 512, 2 * MiB + 512)),
    (64 * KiB, (512, 64 * KiB - 512, 64 * KiB + 512, 512 * MiB - 512)),
    (2 * MiB, (512, 2 * MiB - 512, 4 * MiB + 512)),
) for size in sizes})
def made_by_qemu_img(t, cluster, size):
    path = t.path("disk.qcow2")
    create(path, size, f"cluster_size={cluster}")
    for name, granularity in BITMAPS.items():
        add_bitmap(path, name, granularity)
    both_write(t, path, size, cluster, BITMAPS, write_max=min(size, 300 * KiB))


# What is in the header need not be a multiple of 512.
@cases({f"{cluster}-{size}": (cluster, size) for cluster in (512, 4 * KiB, 64 * KiB)
        for size in (513, 1023, 65537, MiB - 1)})
def odd_in_the_header(t, cluster, size):
    path, rounded = t.path("disk.qcow2"), size // 512 * 512
    create(path, rounded, f"cluster_size={cluster}")
    poke(path, 24, struct.pack(">Q", size))
    # Its L1 table must reach to the end.
    if -(-size // cluster) > -(-rounded // cluster):
        create(path, size, f"cluster_size={cluster}")
        poke(path, 24, struct.pack(">Q", size))
    with Nbdkit(t, path, *(f"bitmap={name}" for name in BITMAPS), "bitmap-granularity=512") as server:
        same(server.connect().get_size(), rounded, "size")
    check_cut(path)
    same(Qcow2File(path).size, size, "size in the header")
    both_write(t, path, rounded, cluster, {name: 512 for name in BITMAPS})


# Made by QEMU before: it had rounded the size in the same way.
@case
def odd_in_the_header_under_bitmaps_of_qemu(t):
    path, rounded = t.path("disk.qcow2"), 3 * MiB + 512
    create(path, rounded)
    for name, granularity in BITMAPS.items():
        add_bitmap(path, name, granularity)
    poke(path, 24, struct.pack(">Q", rounded + 511))
    both_write(t, path, rounded, 64 * KiB, BITMAPS)


@cases({"none": (0,), "1": (1,), "511": (511,)})
def too_small_for_a_sector(t, size):
    path = t.path("disk.qcow2")
    create(path, size and 512)
    poke(path, 24, struct.pack(">Q", size))
    with open(path, "rb") as f:
        before = f.read()
    with Nbdkit(t, path) as server:
        h = server.connect("base:allocation")
        same(h.get_size(), 0, "size")
        h.flush()
    with open(path, "rb") as f:
        same(f.read() == before, True, "the file is what it was")
    check(path)


def at_its_end(t, cluster, size, bitmaps, model=None):
    path = t.path("disk.qcow2")
    create(path, size, f"cluster_size={cluster}")
    for name, granularity in bitmaps.items():
        add_bitmap(path, name, granularity)
    # QEMU wrote something there before.
    model = Model(size)
    first = [Op("write", size - 70000, 3000, 0, 1), Op("write", size // 2 - 5, 10, 0, 2),
             Op("write", size - 5 * GiB, 100, 0, 3), Op("zero", size - MiB, MiB - 70000, 0, 0)]
    with qemu().served(path) as server:
        apply_all(first, server.connect(), model, cluster)
    for name in bitmaps:
        run("qemu-img", "bitmap", "--clear", path, name)
    both_write(t, path, size, cluster, bitmaps, model, area=(size - 3 * MiB, size),
               zero_max=16 * cluster + GiB // 64)
    # Nothing that grows with the disk, but the bitmaps that QEMU has made.
    expect(os.stat(path).st_blocks * 512 < 400 * MiB, "the file takes", os.stat(path).st_blocks)


@case
def eight_terabytes(t):
    at_its_end(t, 64 * KiB, 8 * TiB, {"usual": 64 * KiB, "coarse": 2 * GiB})


@case
def eight_terabytes_less_one_sector(t):
    at_its_end(t, 64 * KiB, 8 * TiB - 512, {"coarse": 2 * GiB})


# As far as the L1 table of this cluster size reaches.
@case
def eight_terabytes_in_clusters_of_4k(t):
    at_its_end(t, 4 * KiB, 8 * TiB, {"usual": 64 * KiB})


@case
def eight_terabytes_in_clusters_of_2m(t):
    at_its_end(t, 2 * MiB, 8 * TiB, {"usual": 64 * KiB})


main()
