#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# Compressed clusters, subclusters, backing files, external data files: QEMU and
# we in turns, a raw twin, and the same bitmaps as QEMU's own of a twin image.

import shutil
import sys

sys.dont_write_bytecode = True
from interop import *  # noqa: E402, F403

ROUNDS = 3


def compressible(rng, size):
    """Bytes of which every kind of cluster can be made."""
    data = bytearray()
    while len(data) < size:
        shape = rng.random()
        if shape < 0.2:
            data += bytes(rng.randrange(1, 100000))
        elif shape < 0.4:
            data += rng.randbytes(rng.randrange(1, 100000))
        else:
            data += bytes([rng.randrange(256), rng.randrange(256)]) * rng.randrange(1, 60000)
    return bytes(data[:size])


def in_turns(t, path, twin, model, cluster, *arguments):
    """QEMU and we, and a twin that only QEMU writes to."""
    for each in (path, twin):
        add_bitmap(each, "fine", 512)
        add_bitmap(each, "usual")
    twin_model = model.copy()
    draw = Operations(t.rng, model.size, cluster, write_max=200 * KiB)
    dirty = []
    for number in range(ROUNDS * 2):
        ops = draw.take(25)
        with (Nbdkit(t, path, *arguments) if number % 2 == 0 else qemu().served(path)) as server:
            h = server.connect("base:allocation")
            read_all(h, model, "read first")
            apply_all(ops, h, model, cluster)
            read_all(h, model, "read again")
            expect_zeros_are_zero(h, model, "block status")
        with qemu().served(twin) as server:
            apply_all(ops, server.connect(), twin_model, cluster)
        check(path)
        dirty = join(dirty + touched(ops))
    compare(path, model.to_raw(t.path("disk.raw")))
    names = ("fine", "usual")
    for name, mine, other in zip(names, qemu_bitmaps(t, path, *names),
                                 qemu_bitmaps(t, twin, *names)):
        granularity, _ = bitmap_infos(path)[name]
        same(mine, other, f"bitmap {name}: QEMU's of the twin")
        same(mine, granules(dirty, granularity, model.size), f"bitmap {name}, computed")


def model_of(data):
    model = Model(len(data))
    model.write(0, data)
    return model


@cases({f"{kind}-{c}": (kind, c) for kind in ("zlib", "zstd")
        for c in (4 * KiB, 64 * KiB, 2 * MiB)})
def compressed(t, kind, cluster):
    path, twin = t.path("disk.qcow2"), t.path("twin.qcow2")
    data = compressible(t.rng, 5 * MiB + 512)
    with open(t.path("source.raw"), "wb") as f:
        f.write(data)
    run("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", "-o",
        f"cluster_size={cluster},compression_type={kind}", t.path("source.raw"), path)
    shutil.copyfile(path, twin)
    in_turns(t, path, twin, model_of(data), cluster)


@cases({"16K": (16 * KiB,), "64K": (64 * KiB,), "2M": (2 * MiB,)})
def subclusters(t, cluster):
    path, twin, size = t.path("disk.qcow2"), t.path("twin.qcow2"), 10 * MiB + 512
    for each in (path, twin):
        create(each, size, f"cluster_size={cluster},extended_l2=on")
    in_turns(t, path, twin, Model(size), cluster)


@cases({"raw": (64 * KiB, "raw", "", 0), "qcow2": (64 * KiB, "qcow2", "", 0),
        "shorter": (4 * KiB, "raw", "", -777 * 512), "longer": (4 * KiB, "qcow2", "", 999 * 512),
        "subclusters": (64 * KiB, "raw", ",extended_l2=on", -1 * MiB),
        "v2": (64 * KiB, "raw", ",compat=0.10", -100 * 512)})
def backing_file(t, cluster, format, options, more):
    path, twin = t.path("disk.qcow2"), t.path("twin.qcow2")
    base, size = t.path("base"), 5 * MiB + 512
    data = compressible(t.rng, size + more)
    with open(t.path("source.raw"), "wb") as f:
        f.write(data)
    run("qemu-img", "convert", "-f", "raw", "-O", format, t.path("source.raw"), base)
    for each in (path, twin):
        run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base", "-F", format, "-o",
            f"cluster_size={cluster}{options}", each, size)
    with open(base, "rb") as f:
        before = f.read()
    model = model_of(data[:size])
    model.size = size
    # QEMU makes zero clusters of what is trimmed, also where the backing file
    # shows; there it may show on with us.
    model.trim_may_keep = True
    if "compat=0.10" in options:  # no bitmaps, and zeros are written
        for server_class, arguments in ((Nbdkit, (f"qcow2-files={t.folder}",)), (by_qemu, ())) * 2:
            ops = Operations(t.rng, size, cluster).take(40)
            with server_class(t, path, *arguments) as server:
                h = server.connect("base:allocation")
                read_all(h, model, "read first")
                apply_all(ops, h, model, cluster)
            check(path)
        compare(path, model.to_raw(t.path("disk.raw")))
    else:
        in_turns(t, path, twin, model, cluster, f"qcow2-files={t.folder}")
    with open(base, "rb") as f:
        same(f.read() == before, True, "the backing file is what it was")


def alike(parts):
    """(begin, end, kind); neighbours of one kind are joined."""
    joined = []
    for begin, end, kind in parts:
        if joined and joined[-1][2] == kind:
            begin = joined.pop()[0]
        joined.append((begin, end, kind))
    return joined


@cases({kind: (kind,) for kind in ("nothing", "data", "compressed", "backing", "shared")})
def zeros_without_a_hole(t, kind):
    """What is allocated after it by us and by qemu-nbd."""
    maps = []
    for server_class, arguments in ((by_qemu, ()), (Nbdkit, (f"qcow2-files={t.folder}",))):
        path, source, size = t.path(f"{len(maps)}.qcow2"), t.path("source.raw"), 1 * MiB
        with open(source, "wb") as f:
            f.write(b"ab" * (size // 2))
        if kind == "backing":
            run("qemu-img", "create", "-q", "-f", "qcow2", "-b", source, "-F", "raw", path, size)
        elif kind == "nothing":
            create(path, size)
        else:
            words = ["-c"] if kind == "compressed" else []
            run("qemu-img", "convert", *words, "-f", "raw", "-O", "qcow2", source, path)
        if kind == "shared":
            run("qemu-img", "snapshot", "-c", "one", path)
        with server_class(t, path, *arguments) as server:
            server.connect().zero(size - 128 * KiB, 64 * KiB, nbd.CMD_FLAG_NO_HOLE)
        check(path)
        maps.append(alike((e["start"], e["start"] + e["length"],
                           (e["zero"], "offset" in e and kind != "shared"))
                          for e in told("qemu-img", "map", "-f", "qcow2", "--output=json", path)))
    same(maps[1], maps[0], "what is allocated, by us and by qemu-nbd")


def zeros_served(server):
    return alike((begin, end, bool(flags & nbd.STATE_ZERO)) for begin, end, flags in
                 extents(server.connect("base:allocation"), "base:allocation"))


@cases({"one": (1,), "two": (2,)})
def holes_of_a_raw_base(t, images):
    """Where a sparse raw file shows through, what is a hole there is one here."""
    base, size = t.path("base.raw"), 1 * GiB
    with open(base, "wb") as f:
        for at in sorted(t.rng.sample(range(1, 1024), 5)):
            f.seek(at * MiB)
            f.write(t.rng.randbytes(64 * KiB))
        f.truncate(size - 10 * MiB)
    name, format = "base.raw", "raw"
    for number in range(images):
        path = t.path(f"overlay{number}.qcow2")
        run("qemu-img", "create", "-q", "-f", "qcow2", "-b", name, "-F", format, path, size)
        qemu_io(path, f"write -P 7 {(300 + 100 * number) * MiB} 1M", "write -z 900M 1M")
        name, format = f"overlay{number}.qcow2", "qcow2"
    mapped = alike((e["start"], e["start"] + e["length"], e["zero"]) for e in
                   told("qemu-img", "map", "-f", "qcow2", "--output=json", path))
    expect(len(mapped) > 10, f"holes and data: {mapped}")
    with qemu().served(path, read_only=True) as server:
        same(zeros_served(server), mapped, "zeros, by qemu-nbd")
    with Nbdkit(t, path, f"qcow2-files={t.folder}", options=("-r",)) as server:
        same(zeros_served(server), mapped, "zeros, by us")


@cases({"4K": (4 * KiB, ""), "64K": (64 * KiB, ""), "raw": (64 * KiB, ",data_file_raw=on")})
def external_data_file(t, cluster, options):
    path, twin, size = t.path("disk.qcow2"), t.path("twin.qcow2"), 5 * MiB + 512
    for each in (path, twin):
        # QEMU looks for relative names in the folder in which it is started.
        create(each, size, f"cluster_size={cluster},data_file={each}.data{options}")
    in_turns(t, path, twin, Model(size), cluster, f"qcow2-files={t.folder}")
    if options:
        with open(path + ".data", "rb") as f, open(t.path("disk.raw"), "rb") as g:
            # QEMU gave it whole clusters.
            same(f.read(size) == g.read(), True, "the data file is the disk")


main()
