#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# What we rely on in QEMU, as it was measured with 7.2: what it writes into an image that we
# go on with, what it refuses, and by which exit status it says so. From 7.2 to 11.1 it is the
# same; if a newer one fails here, then this is what it does otherwise.

import struct
import sys

sys.dont_write_bytecode = True
from interop import *  # noqa: E402, F403

COPIED, ZERO = 1 << 63, 1


def entries(path, count):
    """The first entries of the first L2 table, without offsets: what else they say."""
    image = Qcow2File(path)
    (l1,) = struct.unpack(">Q", image.head[40:48])
    (table,) = struct.unpack(">Q", image.read(l1, 8))
    words = struct.unpack(f">{count}Q", image.read(table & 0x00fffffffffffe00, count * 8))
    return [(bool(word & 0x00fffffffffffe00), word & (COPIED | ZERO)) for word in words]


def refused(*command, because):
    said = run(*command, status=1)
    expect(because in said, f"{command}: {said}")


@case
def zeros_and_discards(t):
    path = t.path("a.qcow2")
    create(path, MiB)
    qemu_io(path, "write -P 1 0 256k")
    qemu_io(path, "write -z 0 64k", "write -zu 64k 64k", "discard 128k 64k", "write -z 200k 4k",
            "write -z 512k 64k", "write -z 640k 4k")
    same(entries(path, 11), [
        (True, COPIED | ZERO),                       # zeros without unmap: the cluster stays
        (False, ZERO), (False, ZERO),                # with unmap, and discarded: it goes
        (True, COPIED),                              # a part: bytes are written
        (False, 0), (False, 0), (False, 0), (False, 0),
        (False, ZERO), (False, 0), (False, ZERO),    # where nothing was: the whole cluster
    ], "entries")
    path = t.path("v2.qcow2")
    create(path, MiB, "compat=0.10")
    qemu_io(path, "write 0 128k")
    qemu_io(path, "write -z 0 64k", "discard 64k 64k")
    same(entries(path, 2), [(False, 0), (False, 0)], "entries of version 2")


@case
def bitmaps(t):
    path = t.path("a.qcow2")
    create(path, MiB)
    same(Qcow2File(path).autoclear, 0, "autoclear without bitmaps")
    run("qemu-img", "bitmap", "--add", "-g", "64k", path, "b0")
    run("qemu-img", "bitmap", "--add", "--disable", path, "off")
    refused("qemu-img", "bitmap", "--add", path, "b0", because="already exists")
    refused("qemu-img", "bitmap", "--remove", path, "nope", because="nope")
    qemu_io(path, "write 64k 4k")
    image = Qcow2File(path)
    same(image.autoclear, 1, "autoclear with bitmaps")
    stored = image.bitmaps()
    same((stored["b0"].flags, stored["off"].flags), (AUTO, 0), "flags after a clean end")
    same((image.dirty(stored["b0"]), image.dirty(stored["off"])), ([(64 * KiB, 128 * KiB)], []), "bits")
    same(dirty_by_qemu_nbd(t, path, "off"), [], "-B of one that is disabled")

    # Of one that is in use nothing can be had, and nothing is lost by looking.
    with open(path, "r+b") as file:
        file.seek(stored["b0"].at + 12)
        file.write(struct.pack(">I", AUTO | IN_USE))
    check(path)
    run("qemu-img", "check", "-r", "all", path)
    qemu_io(path, "write 0 4k")
    same(Qcow2File(path).bitmaps()["b0"].flags, AUTO | IN_USE, "flags of an inconsistent one")
    for command in (("bitmap", "--enable", path, "b0"), ("resize", path, "2M")):
        refused("qemu-img", *command, because="inconsistent")
    run("qemu-img", "bitmap", "--remove", path, "b0")
    run("qemu-img", "resize", "-q", path, "2M")
    run("qemu-img", "snapshot", "-c", "s", path)
    refused("qemu-img", "snapshot", "-a", "s", path, because="active dirty bitmaps")
    check(path)


def dirty_by_qemu_nbd(t, path, name):
    """As an export of qemu-nbd -B shows it."""
    context = f"qemu:dirty-bitmap:{name}"
    with QemuNbd(t, path, [name], read_only=True) as server:
        return [(begin, end) for begin, end, flags in extents(server.connect(context), context) if flags & 1]


@case
def what_check_says(t):
    path = t.path("a.qcow2")
    create(path, MiB)
    qemu_io(path, "write 0 64k")
    image = Qcow2File(path)
    (l1,) = struct.unpack(">Q", image.head[40:48])
    (table,) = struct.unpack(">Q", image.read(l1, 8))
    (refcounts,) = struct.unpack(">Q", image.head[48:56])
    (block,) = struct.unpack(">Q", image.read(refcounts, 8))
    with open(path, "r+b") as file:  # one more count of the last cluster: a leak
        file.seek(block + 5 * 2)
        file.write(struct.pack(">H", 2))
    run("qemu-img", "check", path, status=2)  # bit 63 is wrong now, too
    run("qemu-img", "check", "-r", "leaks", path)
    check(path)
    with open(path, "r+b") as file:
        file.seek(l1)
        file.write(struct.pack(">Q", table & ~COPIED))
    said = run("qemu-img", "check", path, status=2)
    expect("OFLAG_COPIED" in said, said)
    run("qemu-img", "check", "-r", "all", path)
    check(path)
    with open(path, "r+b") as file:  # and a cluster that nobody has
        file.seek(0, 2)
        end = file.tell()
        file.truncate(end + 64 * KiB)
        file.seek(block + end // (64 * KiB) * 2)
        file.write(struct.pack(">H", 1))
    run("qemu-img", "check", path, status=3)


@case
def a_raw_data_file(t):
    path = t.path("a.qcow2")
    create(path, MiB, f"data_file={t.path('data')},data_file_raw=on")
    image = Qcow2File(path)
    same((image.incompatible, image.autoclear), (4, 2), "features")
    same(entries(path, 16), [(i != 0, COPIED) for i in range(16)], "entries: each at its own place")


main()
