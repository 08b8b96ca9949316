#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# Images of all kinds that QEMU makes: zero clusters with and without a host
# cluster, preallocation, lazy refcounts, files cut short. (What stands in the
# header beside that: test-headers.py.)

import os
import sys

sys.dont_write_bytecode = True
from interop import *  # noqa: E402, F403

HOLE, ZERO = nbd.STATE_HOLE, nbd.STATE_ZERO


def cluster_map(path, count, cluster):
    """As QEMU sees the first clusters: "data OFFSET", "zero OFFSET" (a host
    cluster that is not read), "zero", "absent"."""
    found = {}
    for e in told("qemu-img", "map", "-f", "qcow2", "--output=json", path):
        for number in range(count):
            at = number * cluster
            if e["start"] <= at < e["start"] + e["length"]:
                kind = "data" if e["data"] else "zero" if e["present"] else "absent"
                where = f" {e['offset'] + at - e['start']:#x}" if "offset" in e else ""
                found[number] = kind + where
    return [found[number] for number in range(count)]


@cases({"4K": (4 * KiB,), "64K": (64 * KiB,), "2M": (2 * MiB,)})
def zero_clusters(t, cluster):
    path, size = t.path("disk.qcow2"), 8 * cluster
    create(path, size, f"cluster_size={cluster}")
    add_bitmap(path, "b", 4 * KiB)
    model = Model(size)
    at = [i * cluster for i in range(8)]
    qemu_io(path, f"write -P 170 0 {cluster * 4}", f"write -z {at[1]} {cluster}",
            f"write -z -u {at[2]} {cluster}", f"discard {at[3]} {cluster}",
            f"write -z {at[4]} {cluster}")
    run("qemu-img", "bitmap", "--clear", path, "b")
    model.write(0, b"\xaa" * cluster)
    before = cluster_map(path, 8, cluster)
    same([word.split()[0] for word in before],
         ["data", "zero", "zero", "zero", "zero", "absent", "absent", "absent"], "made by QEMU")
    kept = before[1].split()[1]  # a zero cluster that has a host cluster

    with Nbdkit(t, path) as server:
        h = server.connect("base:allocation")
        same([flags for _, _, flags in extents(h, "base:allocation")], [0, ZERO, HOLE | ZERO],
             "block status")
        read_all(h, model, "read by us")
        # In the middle, at the begin and over the end of each kind.
        for number, (offset, length) in enumerate((
                (at[1] + 1000, 100), (at[2], 512), (at[4] - 10, 20), (at[5] + 3, 1),
                (at[7] + cluster - 1, 1))):
            apply(Op("write", offset, length, 0, number + 1), h, model, cluster)
        read_all(h, model, "read by us")
    check_cut(path)
    compare(path, model.to_raw(t.path("disk.raw")))
    now = cluster_map(path, 8, cluster)
    same([word.split()[0] for word in now],
         ["data", "data", "data", "data", "data", "data", "absent", "data"], "made by us")
    same(now[1].split()[1], kept, "the host cluster of the zero cluster is used")

    # Zeros by us: with the host cluster kept, without it, and trimmed.
    with Nbdkit(t, path) as server:
        h = server.connect("base:allocation")
        h.zero(cluster, at[1], nbd.CMD_FLAG_NO_HOLE)
        h.zero(cluster, at[2])
        h.trim(cluster, at[4])
        h.zero(cluster, at[6])
        # Kept, because this one is not told to let go.
        h.zero(2 * cluster, at[0], nbd.CMD_FLAG_NO_HOLE)
        for number in (0, 1, 2, 4, 6):
            model.zero(at[number], cluster)
        read_all(h, model, "read by us")
        expect_zeros_are_zero(h, model, "zeros by us")
    check_cut(path)
    compare(path, model.to_raw(t.path("disk.raw")))
    last = cluster_map(path, 8, cluster)
    same(last[0:2], [word.replace("data", "zero") for word in now[0:2]], "zeroed, kept")
    same(" ".join(last[2].split()[1:] + last[4].split()[1:] + last[6].split()[1:]), "",
         "host clusters of what was unmapped")
    qemu_io(path, *(f"read -P 0 {at[i]} {cluster}" for i in (0, 1, 2, 4, 6)))


@case
def zeros_in_version_2(t):
    # It has no zero clusters.
    path, size, cluster = t.path("disk.qcow2"), 4 * MiB, 4 * KiB
    create(path, size, "cluster_size=4K,compat=0.10")
    model = Model(size)
    with QemuNbd(t, path) as server:
        apply_all([Op("write", 0, 2 * MiB, 0, 1)], server.connect(), model, cluster)
    with Nbdkit(t, path) as server:
        h = server.connect("base:allocation")
        for op in (Op("zero", 0, 100 * KiB, 0, 0), Op("zero", 300 * KiB, 77777, 0, 0),
                   Op("zero", MiB, 64 * KiB, nbd.CMD_FLAG_NO_HOLE, 0),
                   Op("zero", 3 * MiB, 64 * KiB, nbd.CMD_FLAG_NO_HOLE, 0),
                   Op("trim", MiB + 80 * KiB + 5, 64 * KiB, 0, 0)):
            apply(op, h, model, cluster)
        read_all(h, model, "read by us")
        expect_zeros_are_zero(h, model, "zeros by us")
    check_cut(path)
    same(Qcow2File(path).version, 2, "version")
    compare(path, model.to_raw(t.path("disk.raw")))


@case
def trims_give_space_back(t):
    path, size = t.path("disk.qcow2"), 64 * MiB
    create(path, size)
    with Nbdkit(t, path) as server:
        h = server.connect()
        for at in range(0, 32 * MiB, MiB):
            h.pwrite(payload(at, MiB, 1), at)
        h.flush()
        full = os.stat(path).st_blocks
        h.trim(16 * MiB, 0)
        h.zero(8 * MiB, 16 * MiB)
        h.flush()
    check_cut(path)
    left = os.stat(path).st_blocks
    expect(full > 32 * 2048 - 100 and left < 10 * 2048, f"{full} blocks became {left}")


@cases({f"{how}-{c}": (how, c) for how in ("metadata", "falloc", "full")
        for c in ("4K", "64K")})
def preallocated(t, how, cluster_word):
    cluster, size = {"4K": 4 * KiB, "64K": 64 * KiB}[cluster_word], 6 * MiB + 512
    path = t.path("disk.qcow2")
    create(path, size, f"cluster_size={cluster},preallocation={how}")
    add_bitmap(path, "b", 4 * KiB)
    length = os.path.getsize(path)
    model, draw = Model(size), Operations(t.rng, size, cluster)
    # Overwriting takes no new clusters.
    writes = [op for op in draw.take(80) if op.kind in ("write", "flush", "read")]
    with Nbdkit(t, path) as server:
        h = server.connect("base:allocation")
        read_all(h, model, "before")
        apply_all(writes, h, model, cluster)
    check(path)
    expect(os.path.getsize(path) <= length + 2 * cluster, f"{length} bytes have become",
           os.path.getsize(path))
    compare(path, model.to_raw(t.path("disk.raw")))
    ops = draw.take(60)
    with Nbdkit(t, path) as server:
        apply_all(ops, server.connect(), model, cluster)
    check(path)
    compare(path, model.to_raw(t.path("disk.raw")))
    expect_bitmap(t, path, "b", granules(touched(writes + ops), 4 * KiB, size), "preallocated")


@case
def lazy_refcounts(t):
    path, size, cluster = t.path("disk.qcow2"), 10 * MiB, 64 * KiB
    create(path, size, "lazy_refcounts=on")
    add_bitmap(path, "b", 4 * KiB)
    model, draw = Model(size), Operations(t.rng, size, cluster)
    dirty = []
    for server_class in (by_qemu, Nbdkit, by_qemu, Nbdkit):
        ops = draw.take(30)
        with server_class(t, path) as server:
            apply_all(ops, server.connect(), model, cluster)
        image = Qcow2File(path)
        same((image.compatible, image.incompatible), (1, 0), "feature bits")
        check(path)
        dirty = join(dirty + touched(ops))
    compare(path, model.to_raw(t.path("disk.raw")))
    expect_bitmap(t, path, "b", granules(dirty, 4 * KiB, size), "with lazy refcounts")
    # Killed: it does not set the dirty bit, which would have to be repaired.
    with Nbdkit(t, path) as server:
        server.connect().pwrite(payload(0, 3 * MiB, 1), 0)
        server.kill()
    same(Qcow2File(path).incompatible, 0, "incompatible bits after kill -9")
    check(path, leaks=True)


@case
def cut_inside_the_last_cluster(t):
    # QEMU does not pad the last cluster; here it is guest data.
    path, size, cluster = t.path("disk.qcow2"), 10 * MiB, 64 * KiB
    create(path, size)
    qemu_io(path, "write -P 1 0 64k", f"write -P 2 5M 64k", "write -z 5252879 50000",
            f"write -P 3 5M 300")
    model = Model(size)
    model.write(0, b"\1" * cluster)
    model.write(5 * MiB, b"\2" * (5252879 - 5 * MiB))
    model.write(5 * MiB, b"\3" * 300)
    rest = 5252879 + 50000
    model.write(rest, b"\2" * (5 * MiB + cluster - rest))
    qemu_io(path, f"write -P 0 {5 * MiB + 1000} {cluster - 1000}")
    model.zero(5 * MiB + 1000, cluster - 1000)
    compare(path, model.to_raw(t.path("disk.raw")))
    [_, place] = cluster_map(path, 81, cluster)[80].split()
    same(int(place, 16) + cluster, -(-os.path.getsize(path) // cluster) * cluster,
         "the end of the file")
    for length in (1000, 1024, 5000):
        with open(path, "r+b") as f:
            f.truncate(int(place, 16) + length)
        with Nbdkit(t, path, options=("-r",)) as server:
            read_all(server.connect("base:allocation"), model, f"cut at {length}, read-only")
        same(os.path.getsize(path), int(place, 16) + length, "length after a read-only run")
        with Nbdkit(t, path) as server:
            h = server.connect("base:allocation")
            read_all(h, model, f"cut at {length}")
            # In place, over the end of the file.
            for op in (Op("write", 5 * MiB + 900, 4242, 0, length),
                       Op("zero", 5 * MiB + 6000, 1000, 0, 0),
                       Op("write", 5 * MiB + cluster - 5, 5, 0, length),
                       Op("zero", 5 * MiB + 1000, cluster - 1000, 0, 0)):
                apply(op, h, model, cluster)
            read_all(h, model, f"cut at {length}, written")
        check(path)
        compare(path, model.to_raw(t.path("disk.raw")))


@cases({"512": (512,), "4K": (4 * KiB,), "64K": (64 * KiB,)})
def cut_after_a_bitmap_directory(t, cluster):
    path, size = t.path("disk.qcow2"), 3 * MiB
    create(path, size, f"cluster_size={cluster}")
    add_bitmap(path, "a name of twenty chars", 4 * KiB)
    expect(os.path.getsize(path) % cluster == 48, "QEMU pads the file now")
    length = os.path.getsize(path)
    with Nbdkit(t, path, options=("-r",)) as server:
        server.connect().pread(512, 0)
    same(os.path.getsize(path), length, "length after a read-only run")
    model, draw = Model(size), Operations(t.rng, size, cluster)
    ops = draw.take(60)
    with Nbdkit(t, path) as server:
        apply_all(ops, server.connect(), model, cluster)
    check_cut(path)
    compare(path, model.to_raw(t.path("disk.raw")))
    expect_bitmap(t, path, "a name of twenty chars", granules(touched(ops), 4 * KiB, size), "")


@case
def cut_after_a_bitmap_table(t):
    # The table stands behind the directory, and the file ends with its only
    # entry.
    path, size, cluster = t.path("disk.qcow2"), 4 * MiB, 64 * KiB
    create(path, size)
    add_bitmap(path, "b", 4 * KiB)
    image = Qcow2File(path)
    bitmap = image.bitmaps()["b"]
    directory, table = bitmap.at, bitmap.table_offset
    same(directory, table + cluster, "where QEMU puts the directory")
    entry = bytearray(image.read(directory, 32))
    struct.pack_into(">Q", entry, 0, directory)
    poke(path, table, bytes(entry))
    poke(path, directory, bytes(32))
    [place] = [place for kind, _, place in image.extensions if kind == BITMAPS_EXTENSION]
    poke(path, place + 8 + 16, struct.pack(">Q", table))
    with open(path, "r+b") as f:
        f.truncate(directory + 8)
    check(path)
    model, dirty = Model(size), []
    draw = Operations(t.rng, size, cluster)
    for number in range(2):
        ops = draw.take(20)
        with Nbdkit(t, path) as server:
            apply_all(ops, server.connect(), model, cluster)
        check(path)
        dirty = join(dirty + touched(ops))
        expect_bitmap(t, path, "b", granules(dirty, 4 * KiB, size), "with a short table")
    compare(path, model.to_raw(t.path("disk.raw")))


@case
def version_2_with_bitmaps_left_over(t):
    # qemu-img amend leaves the extension where nobody can vouch for it.
    path, size, cluster = t.path("disk.qcow2"), 4 * MiB, 64 * KiB
    create(path, size)
    add_bitmap(path, "b", 4 * KiB)
    run("qemu-img", "amend", "-f", "qcow2", "-o", "compat=0.10", path)
    image = Qcow2File(path)
    same((image.version, image.extension(BITMAPS_EXTENSION) is None), (2, False), "after amend")
    model, draw = Model(size), Operations(t.rng, size, cluster)
    with Nbdkit(t, path) as server:
        apply_all(draw.take(30), server.connect(), model, cluster)
    check(path, leaks=True)
    compare(path, model.to_raw(t.path("disk.raw")))
    # QEMU drops it when it writes.
    with QemuNbd(t, path) as server:
        apply_all(draw.take(30), server.connect(), model, cluster)
    run("qemu-img", "check", "-q", "-r", "leaks", path, status=(0, 3))
    with Nbdkit(t, path) as server:
        apply_all(draw.take(30), server.connect(), model, cluster)
    check(path)
    compare(path, model.to_raw(t.path("disk.raw")))


main()
