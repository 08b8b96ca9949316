#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# The disk gets other sizes, by us and, on a twin, by qemu-img resize, among
# random requests: the same bits in every bitmap, the same size, and what QEMU
# reads from ours is what a flat disk has. (From the twin it is not: QEMU 7.2
# leaves bytes behind an end inside a cluster.)

import os
import shutil
import sys

sys.dont_write_bytecode = True
from interop import *  # noqa: E402, F403

BITMAPS = {"fine": (512, True), "frozen": (4 * KiB, False), "usual": (64 * KiB, True),
           "coarse": (2 * GiB, True)}


def grow(t, path, size, *words):
    with Nbdkit(t, path, f"qcow2-resize={size}", *words) as server:
        same(server.connect().get_size(), size, "size")


def shrink(t, path, size, *words):
    text = run("nbdkit", f"--filter={os.environ['FILTER']}", "-U", t.path("none.sock"), "file", path,
               f"qcow2-shrink={Qcow2File(path).disk_size}:{size}", *words)
    expect(f"and now {size}\n" in text, "it said:", text)


def cut_to(t, path, size):
    """By us, which way so ever."""
    now = Qcow2File(path).disk_size
    if size != now:
        (grow if size > now else shrink)(t, path, size, f"qcow2-files={t.folder}")
    # Once more it changes nothing.
    with open(path, "rb") as f:
        before = f.read()
    if size > now:
        grow(t, path, size, f"qcow2-files={t.folder}")
    else:
        run("nbdkit", f"--filter={os.environ['FILTER']}", "-U", t.path("none.sock"), "file", path,
            f"qcow2-shrink={size}", f"qcow2-files={t.folder}")
    with open(path, "rb") as f:
        same(f.read() == before, True, "the second time it changes nothing")
    same(Qcow2File(path).size, size, "size in the header")


def draw_size(t, now, cluster, size_max):
    shape = t.rng.random()
    if shape < 0.2:
        size = now + t.rng.randrange(1, 2 * cluster)
    elif shape < 0.4:
        size = now - t.rng.randrange(1, 2 * cluster)
    elif shape < 0.6:
        size = t.rng.randrange(1, size_max) // cluster * cluster
    else:
        size = t.rng.randrange(1, size_max)
    return max(512, size // 512 * 512)


class Twins:
    """Two images that are the same; the second is for QEMU alone."""

    def __init__(self, t, prepare, bitmaps):
        self.t, self.bitmaps = t, list(bitmaps)
        self.path, self.twin = t.path("disk.qcow2"), t.path("twin.qcow2")
        for path in (self.path, self.twin):
            self.model, self.cluster = prepare(t, path)
            for name, (granularity, enabled) in bitmaps.items():
                add_bitmap(path, name, granularity, enabled)

    def write(self, count):
        ops = Operations(self.t.rng, self.model.size, self.cluster, write_max=200 * KiB).take(count)
        with qemu().served(self.twin) as server:
            h = server.connect()
            for op in ops:
                if op.kind == "write":
                    h.pwrite(payload(op.offset, op.length, op.generation), op.offset)
                elif op.kind in ("zero", "trim"):
                    getattr(h, op.kind)(op.length, op.offset)
        with Nbdkit(self.t, self.path, f"qcow2-files={self.t.folder}") as server:
            apply_all(ops, server.connect(), self.model, self.cluster)

    def resize(self, size):
        cut_to(self.t, self.path, size)
        if size != self.model.size:
            words = ["--shrink"] if size < self.model.size else []
            run("qemu-img", "resize", "-q", "-f", "qcow2", *words, self.twin, size)
        self.model.resize(size)

    def compare(self):
        check(self.path)
        compare(self.path, self.model.to_raw(self.t.path("disk.raw")))
        same(bitmap_infos(self.path), bitmap_infos(self.twin), "bitmaps, as QEMU sees them")
        if not self.bitmaps:
            return
        ours = qemu_bitmaps(self.t, self.path, *self.bitmaps)
        theirs = qemu_bitmaps(self.t, self.twin, *self.bitmaps)
        image = Qcow2File(self.path)
        for name, mine, other in zip(self.bitmaps, ours, theirs):
            same(mine, other, f"bitmap {name}: QEMU's of the twin")
            same(image.dirty(image.bitmaps()[name]), mine, f"bitmap {name}, in the file")


def made(options, cluster=64 * KiB, size=2 * MiB + 1536):
    def prepare(t, path):
        create(path, size, options)
        return Model(size), cluster
    return prepare


def over(base_size, options="", cluster=64 * KiB, size=MiB + 512):
    """Over a backing file, shorter or longer than the disk."""
    def prepare(t, path):
        base = t.path("base.raw")
        data = payload(0, base_size, 77)
        with open(base, "wb") as f:
            f.write(data)
        words = ["-o", options] if options else []
        run("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", *words, path, size)
        model = Model(size)
        model.trim_may_keep = True
        model.write(0, data[:size])
        return model, cluster
    return prepare


def compressed(t, path):
    raw, size = t.path("source.raw"), MiB + 5 * KiB
    model = Model(size)
    model.write(0, payload(0, size, 5))
    run("qemu-img", "convert", "-q", "-c", "-f", "raw", "-O", "qcow2", model.to_raw(raw), path)
    return model, 64 * KiB


def data_file(raw):
    def prepare(t, path):
        create(path, MiB + 512, f"data_file={path}.data,data_file_raw={raw}")
        return Model(MiB + 512), 64 * KiB
    return prepare


KINDS = {
    "usual": made(""),
    "clusters-of-512": made("cluster_size=512", 512, 300 * KiB),
    "clusters-of-4k": made("cluster_size=4k", 4 * KiB),
    "clusters-of-2M": made("cluster_size=2M", 2 * MiB, 5 * MiB + 512),
    "extended": made("extended_l2=on"),
    "extended-in-clusters-of-16k": made("extended_l2=on,cluster_size=16k", 16 * KiB),
    "refcounts-of-1-bit": made("refcount_bits=1,cluster_size=4k", 4 * KiB),
    "lazy": made("lazy_refcounts=on"),
    "zstd": made("compression_type=zstd"),
    "shorter-backing": over(500 * KiB),
    "longer-backing": over(3 * MiB),
    "longer-backing-extended": over(3 * MiB, "extended_l2=on"),
    "longer-backing-in-clusters-of-512": over(3 * MiB, "cluster_size=512", 512, 200 * KiB),
    "compressed": compressed,
    "data-file": data_file("off"),
    "raw-data-file": data_file("on"),
}


@cases({name: (prepare,) for name, prepare in KINDS.items()})
def as_qemu(t, prepare):
    twins = Twins(t, prepare, BITMAPS)
    size_max = max(4 * MiB, 3 * twins.cluster)
    for _ in range(5):
        if t.rng.random() < 0.8:
            twins.write(20)
        twins.resize(draw_size(t, twins.model.size, twins.cluster, size_max))
        twins.compare()
        if os.path.exists(twins.path + ".data"):  # QEMU makes whole clusters of a raw one
            length = os.path.getsize(twins.path + ".data")
            expect(0 <= length - twins.model.size < 64 * KiB, "length of the data file:", length)
    twins.write(25)
    twins.compare()


@case
def version_2(t):
    twins = Twins(t, made("compat=0.10"), {})
    for _ in range(5):
        twins.write(20)
        twins.resize(draw_size(t, twins.model.size, twins.cluster, 4 * MiB))
        twins.compare()


# QEMU 7.2 fails to zero what a longer backing file shows.
@case
def version_2_over_a_longer_backing_file(t):
    path = t.path("disk.qcow2")
    model, cluster = over(3 * MiB, "compat=0.10")(t, path)
    for size in (2 * MiB + 512, 700 * KiB, 4 * MiB, MiB):
        cut_to(t, path, size)
        model.resize(size)
        check(path)
        compare(path, model.to_raw(t.path("disk.raw")))


# Raw means that the file is the disk, also where it was longer before.
@case
def a_raw_data_file_that_is_too_long(t):
    path = t.path("disk.qcow2")
    data_file("on")(t, path)
    with open(path + ".data", "r+b") as f:
        f.seek(MiB + 512)
        f.write(b"\xee" * MiB)
    cut_to(t, path, 3 * MiB)
    check(path)
    with open(path + ".data", "rb") as f:
        same(f.read() == bytes(3 * MiB), True, "the file is the disk")


@case
def snapshots_of_other_sizes(t):
    path = t.path("disk.qcow2")
    create(path, 2 * MiB, "cluster_size=4k")
    for name, (granularity, enabled) in BITMAPS.items():
        add_bitmap(path, name, granularity, enabled)
    model, kept = Model(2 * MiB), []
    for number, size in enumerate((3 * MiB + 512, 700 * KiB + 512, 5 * MiB, 512, 2 * MiB)):
        with Nbdkit(t, path) as server:
            apply_all(Operations(t.rng, model.size, 4 * KiB).take(40), server.connect(), model, 4 * KiB)
        run("qemu-img", "snapshot", "-c", f"s{number}", path)
        kept.append((f"s{number}", model.copy()))
        cut_to(t, path, size)
        model.resize(size)
        check(path)
        compare(path, model.to_raw(t.path("disk.raw")))
        for name, was in kept:
            with Nbdkit(t, path, f"qcow2-snapshot={name}") as server:
                read_all(server.connect(), was, name)
    # Then QEMU can go back to each.
    for name in BITMAPS:
        run("qemu-img", "bitmap", "--remove", path, name)
    for name, was in kept:
        run("qemu-img", "snapshot", "-a", name, path)
        check(path)
        compare(path, was.to_raw(t.path("disk.raw")))


# QEMU refuses these; ours follow, and stay what they are.
@case
def inconsistent_bitmaps(t):
    path = t.path("disk.qcow2")
    create(path, 2 * MiB)
    for name, (granularity, enabled) in BITMAPS.items():
        add_bitmap(path, name, granularity, enabled)
    poke_flags(path, "fine", IN_USE | AUTO)
    poke_flags(path, "frozen", IN_USE)
    run("qemu-img", "resize", "-q", "-f", "qcow2", path, 3 * MiB, status=1)
    for size in (300 * MiB + 512, 512 * KiB, 40 * GiB):
        cut_to(t, path, size)
        check(path)
        infos = bitmap_infos(path)
        same(infos["fine"][1], frozenset(("in-use", "auto")), "flags of the first")
        same(infos["frozen"][1], frozenset(("in-use",)), "flags of the second")
        image = Qcow2File(path)
        for name, bitmap in image.bitmaps().items():
            entries = -(-(-(-size // bitmap.granularity)) // (8 * 64 * KiB))
            same(bitmap.table_size, entries, f"{name}: entries of the table")


# Tables of many entries and several clusters, and less again. (QEMU takes minutes
# to cut a disk in clusters of 512.)
@cases({"512": (512, 150 * MiB), "64k": (64 * KiB, 300 * GiB)})
def far(t, cluster, size):
    path = t.path("disk.qcow2")
    create(path, 5 * MiB, f"cluster_size={cluster}")
    add_bitmap(path, "usual", 64 * KiB)
    add_bitmap(path, "fine", 512 if cluster == 512 else 16 * KiB)
    model = Model(5 * MiB)
    twin = t.path("twin.qcow2")
    shutil.copyfile(path, twin)
    names = ("usual", "fine")
    for number, size in enumerate((size - 512, 5 * MiB + 512, size // 2)):
        cut_to(t, path, size)
        model.resize(size)
        ops = [Op("write", at, 700, 0, number) for at in (size - 700, size // 3, 0, 4 * MiB)]
        with Nbdkit(t, path) as server:
            h = server.connect()
            apply_all(ops, h, model, cluster)
            read_all(h, model, "read by us")
        check(path)
        if cluster != 512:
            run("qemu-img", "resize", "-q", "-f", "qcow2", "--shrink", twin, size)
            with qemu().served(twin) as server:
                apply_all(ops, server.connect(), Model(size), cluster)
            same(qemu_bitmaps(t, path, *names), qemu_bitmaps(t, twin, *names), "bitmaps")
        with qemu().served(path, read_only=True) as server:
            read_all(server.connect(), model, "read by QEMU")


# The largest that QEMU opens, and one sector more.
@cases({"usual": ("cluster_size=2M", 2 << 60), "extended": ("cluster_size=2M,extended_l2=on", 1 << 60),
        "clusters-of-512": ("cluster_size=512", 128 * GiB)})
def the_largest(t, options, largest):
    path = t.path("disk.qcow2")
    create(path, MiB, options)
    cluster = 512 if "512" in options else 2 * MiB
    with Nbdkit(t, path, "bitmap=b0", "bitmap-granularity=2G", f"qcow2-resize={largest}") as server:
        h = server.connect()
        same(h.get_size(), largest, "size")
        h.pwrite(b"x" * 700, largest - 700)
        h.pwrite(b"y" * 700, 0)
        same(h.pread(700, largest - 700), b"x" * 700, "the end")
    check(path)
    # (To read it by NBD takes requests of 4G, too many.)
    image = Qcow2File(path)
    same(image.dirty(image.bitmaps()["b0"]), [(0, 2 * GiB), (largest - 2 * GiB, largest)], "bitmap")
    text = run("nbdkit", f"--filter={os.environ['FILTER']}", "-U", t.path("none.sock"), "file", path,
               f"qcow2-resize={largest + 1}", status=1)
    expect(f"a disk has at most {largest} bytes" in text or "no image can have a disk" in text, text)
    shrink(t, path, largest - cluster - 512)
    check(path)
    shrink(t, path, 512)
    check(path)
    with Nbdkit(t, path) as server:
        same(server.connect().pread(512, 0), b"y" * 512, "the beginning")
    expect_bitmap(t, path, "b0", [(0, 512)], "the smallest")


@case
def larger_than_the_largest_is_refused(t):
    path = t.path("disk.qcow2")
    create(path, 2 << 60, "cluster_size=2M")
    poke(path, 24, struct.pack(">Q", (2 << 60) + 512))
    for l1_size in (4 * MiB, 4 * MiB + 1):
        poke(path, 36, struct.pack(">I", l1_size))
        text = run("nbdkit", f"--filter={os.environ['FILTER']}", "-U", t.path("none.sock"), "file",
                   path, status=1)
        expect("the disk is larger than an L1 table of 32 MiB reaches" in text, text)


# Whatever QEMU makes of these sizes; and resized to the next sector and back.
@cases({str(size): (size,) for size in (0, 1, 511, 512, 513)})
def the_smallest(t, size):
    path = t.path("disk.qcow2")
    create(path, size)
    whole = -(-size // 512) * 512
    with Nbdkit(t, path, "qcow2-resize=1") as server:
        h = server.connect()
        same(h.get_size(), whole or 512, "size")
        h.pwrite(b"z" * (whole or 512), 0)
    check(path)
    with Nbdkit(t, path, "bitmap=b0", "bitmap-granularity=512", "qcow2-resize=1025") as server:
        h = server.connect()
        same(h.get_size(), 1536, "size")
        expect(h.pread(1536, 0) == (b"z" * (whole or 512)).ljust(1536, b"\0"), "content")
        h.pwrite(b"w", 1535)
    check(path)
    expect_bitmap(t, path, "b0", [(1024, 1536)], "grown")
    shrink(t, path, 512)
    check(path)
    expect_bitmap(t, path, "b0", [], "cut")
    same(info(path)["virtual-size"], 512, "size by QEMU")


main()
