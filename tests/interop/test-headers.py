#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# What we do not know in a header survives: fields, extensions, compatible features;
# unknown autoclear bits go. Bitmaps have their extension there if there is room for
# it, and are believed if the header vouches for them.

import os
import sys

sys.dont_write_bytecode = True
from interop import *  # noqa: E402, F403

FEATURE_NAMES = 0x6803f857


def extend_header(path, fields, extensions):
    """More header fields, and more extensions, in front of those that are
    there."""
    image = Qcow2File(path)
    header = bytearray(image.head[:112] + fields)
    struct.pack_into(">I", header, 100, 112 + len(fields))
    for kind, data in extensions + [(k, d) for k, d, _ in image.extensions]:
        header += struct.pack(">II", kind, len(data)) + data + bytes(-len(data) % 8)
    header += bytes(8)
    expect(len(header) <= image.cluster_size, "too much for the header")
    poke(path, 0, bytes(header).ljust(image.cluster_size, b"\0"))


UNKNOWN = [(0x12345678, b"thirteen byte"), (0x9abcdef0, b""), (0x0badcafe, bytes(range(64)))]
FIELDS = b"\0" * 8 + b"16 bytes unknown"


@cases({"512": (512, UNKNOWN), "64K": (64 * KiB, UNKNOWN),
        "long": (64 * KiB, UNKNOWN + [(0x13131313, b"x" * 700)]),
        "4K-long": (4 * KiB, UNKNOWN + [(0x13131313, b"x" * 1501)])})
def what_we_do_not_know_survives(t, cluster, unknown):
    path, size = t.path("disk.qcow2"), 4 * MiB
    create(path, size, f"cluster_size={cluster}")
    extend_header(path, FIELDS, unknown)
    poke(path, 80, struct.pack(">Q", 0x8000000000000f00))  # compatible
    check(path)
    names = Qcow2File(path).extension(FEATURE_NAMES)

    def all_is_there(autoclear):
        image = Qcow2File(path)
        same(image.header_length, 112 + len(FIELDS), "header length")
        same(image.head[112:112 + len(FIELDS)], FIELDS, "unknown header fields")
        same(sorted((k, d) for k, d, _ in image.extensions
                    if k not in (FEATURE_NAMES, BITMAPS_EXTENSION)), sorted(unknown),
             "unknown extensions")
        same((image.compatible, image.autoclear), (0x8000000000000f00, autoclear), "feature bits")
        # It is the one that gives way: it helps people to read messages.
        now = image.extension(FEATURE_NAMES)
        expect(now == names or now == (names or b"")[:-32],  # H2
               "the feature names have changed")
        check(path)

    model, draw = Model(size), Operations(t.rng, size, cluster)
    dirty = []
    for number, (server_class, arguments) in enumerate((
            (Nbdkit, ()), (Nbdkit, ("bitmap=b0", "bitmap-granularity=4K")), (by_qemu, ()),
            (Nbdkit, ("bitmap=b1",)), (Nbdkit, ()), (by_qemu, ()))):
        ops = draw.take(20)
        with server_class(t, path, *arguments) as server:
            apply_all(ops, server.connect(), model, cluster)
        if number:
            dirty = join(dirty + touched(ops))
        if server_class is by_qemu:
            # It writes all feature names again, and turns extensions around.
            names = Qcow2File(path).extension(FEATURE_NAMES)
        all_is_there(1 if number else 0)
    compare(path, model.to_raw(t.path("disk.raw")))
    expect_bitmap(t, path, "b0", granules(dirty, 4 * KiB, size), "beside unknown extensions")


@cases({"1": (368,), "2": (360,)})
def a_header_without_room_for_bitmaps(t, length):
    # In the second it would fit to the last byte, without the record that says
    # that this is the end: QEMU could open the image only for reading.
    path, size, cluster = t.path("disk.qcow2"), 4 * MiB, 512
    create(path, size, "cluster_size=512")
    extend_header(path, b"", [(0x12345678, b"x" * length)])
    try:
        with Nbdkit(t, path, "bitmap=b0") as server:
            with contextlib.suppress(nbd.Error):
                server.connect()
                raise Wrong("a bitmap was made where there is no room for its extension")
            said = server.stop()
    except Wrong as error:
        said = str(error)
    expect("do not fit in a cluster" in said, said)
    check_cut(path)
    model, draw = Model(size), Operations(t.rng, size, cluster)
    for server_class in (Nbdkit, by_qemu, Nbdkit):
        with server_class(t, path) as server:
            apply_all(draw.take(30), server.connect(), model, cluster)
        check(path)
    compare(path, model.to_raw(t.path("disk.raw")))
    same(Qcow2File(path).extension(0x12345678), b"x" * length, "the unknown extension")


@case
def a_header_with_just_enough_room(t):
    path, size, cluster = t.path("disk.qcow2"), 4 * MiB, 512
    create(path, size, "cluster_size=512")
    extend_header(path, b"", [(0x12345678, b"x" * 352)])
    model, draw = Model(size), Operations(t.rng, size, cluster)
    dirty = []
    for server_class, arguments in ((Nbdkit, ("bitmap=b", "bitmap-granularity=512")),
                                    (by_qemu, ()), (Nbdkit, ())):
        ops = draw.take(30)
        with server_class(t, path, *arguments) as server:
            apply_all(ops, server.connect(), model, cluster)
        check(path)
        dirty = join(dirty + touched(ops))
    compare(path, model.to_raw(t.path("disk.raw")))
    expect_bitmap(t, path, "b", granules(dirty, 512, size), "at the very end of the header")
    same(Qcow2File(path).extension(0x12345678), b"x" * 352, "the unknown extension")


@case
def unknown_autoclear_bits_go(t):
    path, size = t.path("disk.qcow2"), 4 * MiB
    create(path, size)
    add_bitmap(path, "b", 4 * KiB)
    bits = 0xff00000000000f01
    poke(path, 88, struct.pack(">Q", bits))
    with Nbdkit(t, path, options=("-r",)) as server:
        server.connect().pread(512, 0)
    same(Qcow2File(path).autoclear, bits, "after a read-only run")
    with Nbdkit(t, path, "bitmap-sync=on-close") as server:
        server.connect().pwrite(payload(MiB, 100, 1), MiB)
        same(Qcow2File(path).autoclear, 1, "after the first write")
        server.kill()
    same(Qcow2File(path).autoclear, 1, "after kill -9")
    check(path, leaks=True)
    poke(path, 88, struct.pack(">Q", bits))
    poke_flags(path, "b", AUTO)
    with Nbdkit(t, path) as server:
        server.connect().pwrite(payload(MiB, 100, 2), MiB)
    same(Qcow2File(path).autoclear, 1, "after a clean stop")
    expect_bitmap(t, path, "b", [(MiB, MiB + 4 * KiB)], "with unknown bits beside its own")


@case
def bitmaps_that_nobody_vouches_for(t):
    # Somebody who knew no bitmaps has written, and cleared the bit.
    path, size, cluster = t.path("disk.qcow2"), 4 * MiB, 64 * KiB
    create(path, size)
    add_bitmap(path, "b", 4 * KiB)
    qemu_io(path, "write -P 1 0 100k")
    poke(path, 95, b"\0")
    model = Model(size)
    model.write(0, b"\1" * (100 * KiB))
    ops = Operations(t.rng, size, cluster).take(30)
    with Nbdkit(t, path) as server:
        apply_all(ops, server.connect(), model, cluster)
    same(Qcow2File(path).autoclear, 0, "autoclear bits")
    check(path, leaks=True)
    compare(path, model.to_raw(t.path("disk.raw")))
    # It is not taken for one that never was: what it says is not true any more.
    said = run("nbdkit", f"--filter={os.environ['FILTER']}", "-U", t.path("none.sock"), "file", path,
               "bitmap=b", status=1)
    expect("out of date" in said and "bitmap-recover=all-dirty" in said, said)
    # All of it may have changed; the old clusters leak.
    more = Operations(t.rng, size, cluster).take(30)
    with Nbdkit(t, path, "bitmap=b", "bitmap-recover=all-dirty") as server:
        apply_all(more, server.connect(), model, cluster)
    check(path, leaks=True)
    compare(path, model.to_raw(t.path("disk.raw")))
    expect_bitmap(t, path, "b", [(0, size)], "valid again")
    run("qemu-img", "check", "-q", "-r", "leaks", path, status=(0, 3))
    check(path)
    expect_bitmap(t, path, "b", [(0, size)], "after the repair")


main()
