#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# Images as they are in use: a file system that was compressed, a long chain of
# overlays, many snapshots, and narrow refcounts.

import os
import shutil
import subprocess
import sys

sys.dont_write_bytecode = True
from interop import *  # noqa: E402, F403

COPIED, COMPRESSED = 1 << 63, 1 << 62


TEXT = (".cpp", ".h", ".hpp", ".am", ".md", ".pod", ".py", ".sh")


def source_tree(t, bytes_max):
    """Our own sources, and headers of this machine."""
    folder, count = t.path("tree"), 0
    ours = os.environ.get("top_srcdir", os.path.join(os.path.dirname(__file__), "../.."))
    for top in (*(os.path.join(ours, name) for name in ("core", "filter", "man", "tests")),
                "/usr/include"):
        for here, folders, files in os.walk(top):
            folders.sort()
            target = folder + "/" + os.path.relpath(here, os.path.dirname(top))
            os.makedirs(target, exist_ok=True)
            for name in sorted(files):
                source = os.path.join(here, name)
                # (What was built beside our sources is large, and is not text.)
                if os.path.islink(source) or not name.endswith(TEXT):
                    continue
                count += os.path.getsize(source)
                if count > bytes_max:
                    return folder
                shutil.copyfile(source, os.path.join(target, name))
    return folder


def ext4(t):
    """A raw image, as mke2fs makes it of a source tree."""
    raw = t.path("ext4.raw")
    with open(raw, "wb") as f:
        f.truncate(64 * MiB)
    run("mke2fs", "-q", "-F", "-t", "ext4", "-E", "lazy_itable_init=1", "-d",
        source_tree(t, 36 * MiB), raw)
    shutil.rmtree(t.path("tree"))
    return raw


def compressed_clusters(path):
    """guest offset -> host offset of its compressed data"""
    image = Qcow2File(path)
    l1_size, l1_offset = struct.unpack_from(">IQ", image.head, 36)
    host_bits = 62 - (image.cluster_bits - 8)
    found = {}
    for i, l1 in enumerate(struct.unpack(f">{l1_size}Q", image.read(l1_offset, l1_size * 8))):
        if l1 & ~COPIED:
            entries = image.cluster_size // 8
            table = struct.unpack(f">{entries}Q", image.read(l1 & ~COPIED, image.cluster_size))
            for j, entry in enumerate(table):
                if entry & COMPRESSED:
                    found[(i * entries + j) * image.cluster_size] = entry & (1 << host_bits) - 1
    return found


def of_raw(path):
    model = Model(os.path.getsize(path))
    with open(path, "rb") as f:
        for at in range(0, model.size, Model.PIECE):
            piece = f.read(Model.PIECE)
            if any(piece):
                model.write(at, piece)
    return model


def compressed_copy(t, kind, cluster, raw):
    path = t.path("disk.qcow2")
    run("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", "-o",
        f"compression_type={kind},cluster_size={cluster}", raw, path)
    return path


@cases({"zlib": ("zlib", 64 * KiB), "zstd": ("zstd", 64 * KiB)})
def a_compressed_file_system(t, kind, cluster):
    raw = ext4(t)
    path, model = compressed_copy(t, kind, cluster, raw), of_raw(raw)
    expect(len(compressed_clusters(path)) > 8 * MiB // cluster, "too little is compressed")
    add_bitmap(path, "b", 64 * KiB)
    with Nbdkit(t, path, options=("-r",)) as server:
        read_all(server.connect("base:allocation"), model, "as QEMU made it")
    ops = [op for op in Operations(t.rng, model.size, cluster, zero_max=MiB).take(120)]
    with Nbdkit(t, path) as server:
        h = server.connect("base:allocation")
        apply_all(ops, h, model, cluster)
        read_all(h, model, "overwritten in parts")
        expect_zeros_are_zero(h, model, "block status")
    check_cut(path)
    compare(path, model.to_raw(t.path("disk.raw")))
    expect_bitmap(t, path, "b", granules(touched(ops), 64 * KiB, model.size), "of a file system")


@case
def a_compressed_file_system_is_one(t):
    # What e2fsck finds after it went through us both ways.
    path = compressed_copy(t, "zstd", 64 * KiB, ext4(t))
    with Nbdkit(t, path) as server:
        h = server.connect()
        data = h.pread(16 * MiB, 20 * MiB)
        h.zero(16 * MiB, 20 * MiB)
        h.pwrite(data, 20 * MiB)
    check_cut(path)
    run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, t.path("again.raw"))
    run("e2fsck", "-f", "-n", t.path("again.raw"))


@cases({"zlib": ("zlib",), "zstd": ("zstd",)})
def a_broken_stream(t, kind):
    raw = ext4(t)
    path, model = compressed_copy(t, kind, 64 * KiB, raw), of_raw(raw)
    clusters = compressed_clusters(path)
    guest = t.rng.choice(sorted(clusters)[8:])
    host = clusters[guest]
    poke(path, host, b"\xff" * 24)

    def fails(what, request):
        try:
            request()
        except nbd.Error as error:
            same(error.errno, "EIO", what)
            return
        raise Wrong(f"{what}: no error")

    with Nbdkit(t, path) as server:
        h = server.connect()
        fails("read", lambda: h.pread(512, guest + 1000))
        fails("read across", lambda: h.pread(128 * KiB, guest - 512))
        # Its other bytes would be lost.
        fails("write", lambda: h.pwrite(b"x" * 512, guest + 512))
        for at in range(0, model.size, MiB):
            if not at <= guest < at + MiB:
                expect_bytes(h.pread(MiB, at), model.read(at, MiB), at, "the rest")
        at = guest // MiB * MiB
        expect_bytes(h.pread(guest - at, at), model.read(at, guest - at), at, "before it") \
            if guest > at else None
        for op in (Op("write", guest + 64 * KiB + 5, 100 * KiB, 0, 1),
                   Op("write", guest, 64 * KiB, 0, 2)):
            apply(op, h, model, 64 * KiB)
        expect_bytes(h.pread(MiB, at), model.read(at, MiB), at, "when it is written as a whole")
        said = server.stop()
    expect(any(f"guest offset {guest:#x}" in line and f"host offset {host:#x}" in line
               for line in said.splitlines()),
           f"guest offset {guest:#x} and host offset {host:#x} are not in the log:\n{said}")
    check_cut(path)
    compare(path, model.to_raw(t.path("disk.raw")))


# cluster size, size of the disk, more options
CHAIN = [(64 * KiB, 5 * MiB, ""), (4 * KiB, 7 * MiB + 512, ""), (2 * MiB, 3 * MiB + 1024, ""),
         (512, 4 * MiB, ""), (16 * KiB, 6 * MiB + 3584, ",extended_l2=on"), (1 * KiB, 2 * MiB, ""),
         (128 * KiB, 8 * MiB + 512, ""), (64 * KiB, 8 * MiB, ",compat=0.10"),
         (32 * KiB, 6 * MiB + 512, ",extended_l2=on"), (1 * MiB, 9 * MiB, "")]


@case
def ten_overlays(t):
    rng, base = t.rng, t.path("base.raw")
    model = Model(4 * MiB + 1536)
    for _ in range(20):
        at = rng.randrange(model.size)
        model.write(at, rng.randbytes(min(model.size - at, 100 * KiB)))
    model.to_raw(base)
    below, form = base, "raw"
    for number, (cluster, size, more) in enumerate(CHAIN):
        path = t.path(f"{number}.qcow2")
        run("qemu-img", "create", "-q", "-f", "qcow2", "-o",
            f"cluster_size={cluster}{more},backing_fmt={form},backing_file="
            f"{below if number % 2 else os.path.basename(below)}", path, size)
        shown = Model(size)
        shown.write(0, model.read(0, min(size, model.size)))
        model, below, form = shown, path, "qcow2"
        ops = [op for op in Operations(rng, size, cluster, zero_max=300 * KiB).take(40)
               if op.kind != "trim"]
        with Nbdkit(t, path, f"qcow2-files={t.folder}") as server:
            h = server.connect("base:allocation")
            read_all(h, model, f"overlay {number}, new")
            apply_all(ops, h, model, cluster)
            read_all(h, model, f"overlay {number}")
            expect_zeros_are_zero(h, model, f"overlay {number}")
        check_cut(path)
        compare(path, model.to_raw(t.path("disk.raw")))
    # Those below have not changed: QEMU reads the same, read-only by us, too.
    with Nbdkit(t, path, f"qcow2-files={t.folder}", options=("-r",)) as server:
        read_all(server.connect("base:allocation"), model, "the top, read-only")


def snapshot(path, name):
    run("qemu-img", "snapshot", "-q", "-c", name, path)


def expect_snapshot(t, path, name, model):
    found = t.path("found.raw")
    run("qemu-img", "convert", "-l", f"snapshot.name={name}", "-f", "qcow2", "-O", "raw", path,
        found)
    run("cmp", found, model.to_raw(t.path("snapshot.raw")))


@cases({"64K": (64 * KiB, "", 8 * MiB), "16K-subclusters": (16 * KiB, ",extended_l2=on", 3 * MiB)})
def fifty_snapshots(t, cluster, more, size):
    path = t.path("disk.qcow2")
    create(path, size, f"cluster_size={cluster}{more}")
    add_bitmap(path, "b", 64 * KiB)
    model, draw, kept, dirty = Model(size), Operations(t.rng, size, cluster), {}, []
    for number in range(50):
        ops = draw.take(8)
        with Nbdkit(t, path) as server:
            apply_all(ops, server.connect(), model, cluster)
        dirty = join(dirty + touched(ops))
        snapshot(path, f"s{number}")
        kept[f"s{number}"] = model.copy()
    check(path)
    ops = draw.take(60)
    with Nbdkit(t, path) as server:
        h = server.connect("base:allocation")
        apply_all(ops, h, model, cluster)
        read_all(h, model, "with 50 snapshots")
    dirty = join(dirty + touched(ops))
    check(path)
    for name, then in kept.items():
        expect_snapshot(t, path, name, then)
    for name in t.rng.sample(sorted(kept), 20):
        run("qemu-img", "snapshot", "-q", "-d", name, path)
        del kept[name]
    check(path)
    ops = draw.take(40)
    with Nbdkit(t, path) as server:
        apply_all(ops, server.connect(), model, cluster)
    dirty = join(dirty + touched(ops))
    check(path)
    for name in sorted(kept)[::3]:
        expect_snapshot(t, path, name, kept[name])
    compare(path, model.to_raw(t.path("disk.raw")))
    expect_bitmap(t, path, "b", granules(dirty, 64 * KiB, size), "beside 50 snapshots")


@case
def refcounts_of_one_bit(t):
    # Nothing can be shared: QEMU refuses a snapshot. We free and take again.
    path, size, cluster = t.path("disk.qcow2"), 3 * MiB, 4 * KiB
    create(path, size, f"cluster_size={cluster},refcount_bits=1")
    model, draw = Model(size), Operations(t.rng, size, cluster)
    for _ in range(3):
        with Nbdkit(t, path) as server:
            apply_all(draw.take(60), server.connect(), model, cluster)
        check_cut(path)
        done = subprocess.run(["qemu-img", "snapshot", "-q", "-c", "one", path],
                              capture_output=True, timeout=PATIENCE)
        expect(done.returncode != 0, "QEMU made a snapshot with refcounts of one bit")
        check(path, leaks=True)
        run("qemu-img", "check", "-q", "-r", "leaks", path, status=(0, 3))
        compare(path, model.to_raw(t.path("disk.raw")))


@cases({"2": (2,), "4": (4,)})
def refcounts_that_are_full(t, bits):
    # As many names as the width can count, and then copies are made.
    path, size, cluster = t.path("disk.qcow2"), 3 * MiB, 4 * KiB
    create(path, size, f"cluster_size={cluster},refcount_bits={bits}")
    model, draw = Model(size), Operations(t.rng, size, cluster)
    kept = {}
    with Nbdkit(t, path) as server:
        h = server.connect()
        apply_all([Op("write", at, 256 * KiB, 0, 1) for at in range(0, size, 256 * KiB)], h, model,
                  cluster)
    # A snapshot of its own, which shares nothing with the others.
    snapshot(path, "first")
    kept["first"] = model.copy()
    with Nbdkit(t, path) as server:
        apply_all([Op("write", 0, 1 * MiB, 0, 2), Op("write", 1 * MiB, 2 * MiB, 0, 3)],
                  server.connect(), model, cluster)
    check(path)
    for number in range((1 << bits) - 2):
        snapshot(path, f"s{number}")
        kept[f"s{number}"] = model.copy()
    done = subprocess.run(["qemu-img", "snapshot", "-q", "-c", "more", path], capture_output=True,
                          timeout=PATIENCE)
    expect(done.returncode != 0, "there is room for one more snapshot")
    run("qemu-img", "check", "-q", "-r", "all", path, status=(0, 3))
    check(path)
    for _ in range(2):
        with Nbdkit(t, path) as server:
            h = server.connect()
            apply_all(draw.take(50), h, model, cluster)
            read_all(h, model, "with shared clusters")
        check(path)
    compare(path, model.to_raw(t.path("disk.raw")))
    for name, then in kept.items():
        expect_snapshot(t, path, name, then)
    for name in kept:
        run("qemu-img", "snapshot", "-q", "-d", name, path)
    check(path)
    compare(path, t.path("disk.raw"))


requires("mke2fs", "e2fsck")
main()
