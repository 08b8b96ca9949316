#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# What running backups show, read by qemu-img, nbdcopy, nbdinfo and qemu-nbd: what they
# make of it is the disk as it was at the instant, while it goes on changing.

import os
import sys

sys.dont_write_bytecode = True
from interop import *  # noqa: E402, F403

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../e2e"))
from qmp import Qmp, Refused  # noqa: E402


class Served:
    """A disk that is served, with what it holds, and bitmaps."""

    def __init__(self, t, size, bitmaps=(("b", 64 * KiB),), cluster=64 * KiB):
        self.t, self.model = t, Model(size)
        self.path = t.path("disk.qcow2")
        create(self.path, size, f"cluster_size={cluster}")
        for name, granularity in bitmaps:
            add_bitmap(self.path, name, granularity)
        self.server = Nbdkit(t, self.path, f"qcow2-control={t.path('qmp')}",
                             f"qcow2-scratch={t.folder}")
        self.h = self.server.connect()
        self.qmp = Qmp(t.path("qmp"))

    def write(self, offset, length, byte=None):
        data = bytes([byte or self.t.rng.randrange(1, 256)]) * length
        self.h.pwrite(data, offset)
        self.model.write(offset, data)

    def zero(self, offset, length):
        self.h.zero(length, offset)
        self.model.zero(offset, length)

    def begin(self, id_, **arguments):
        """The model of the disk as it is now."""
        self.begun = self.qmp.do("backup-begin", {"id": id_, **arguments})
        return self.model.copy()

    def end(self, id_, success=True):
        self.qmp.do("backup-end", {"id": id_, "success": success})

    def uri(self, name):
        return f"nbd+unix:///{name}?socket={self.server.socket}"

    def connect(self, name, *contexts):
        h = nbd.NBD()
        h.set_export_name(name)
        for context in ("base:allocation", *contexts):
            h.add_meta_context(context)
        h.connect_unix(self.server.socket)
        self.server.handles.append(h)
        return h

    def names(self):
        listed = told("nbdinfo", "--list", "--json", "--no-content", self.uri(""))["exports"]
        return {export["export-name"]: export for export in listed}

    def stop(self):
        self.h.shutdown()
        self.server.stop()
        check_cut(self.path)


def is_disk(t, path, model, what):
    """The chain whose last file this is shows it. Sound, in QEMU's eyes and in ours."""
    check(path)
    said = run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", path, model.to_raw(t.path("model.raw")))
    expect("identical" in said and "mismatch" not in said, what, said)


def data_in(path):
    """Bytes that the last file of a chain has by itself."""
    return sum(e["length"] for e in told("qemu-img", "map", "--output=json", path)
               if e["depth"] == 0 and e["data"])


CHANGES = [(4 * MiB, 2 * MiB, "write"), (12 * MiB, 2 * MiB, "zero"), (20 * MiB, 64 * KiB, "write"),
           (40 * MiB, 1 * MiB, "write")]


def change(disk):
    for offset, length, how in CHANGES:
        disk.zero(offset, length) if how == "zero" else disk.write(offset, length)


def go_on(disk, trim=False):
    """What comes after the instant must not be seen: over what is dirty, and over what is
    clean. (What a trim leaves is not known.)"""
    disk.write(4 * MiB + 4 * KiB, 100 * KiB)
    disk.write(12 * MiB, 1 * MiB)
    disk.zero(40 * MiB, 512 * KiB)
    disk.write(50 * MiB, 1 * MiB)
    disk.write(1 * MiB, 4 * KiB)
    if trim:
        disk.h.trim(24 * MiB, 2 * MiB)


def the_disk(t, **options):
    disk = Served(t, 64 * MiB + 512, **options)
    disk.write(0, 30 * MiB)
    disk.write(64 * MiB, 512)
    return disk


@case
def full_and_incremental_by_every_client(t):
    requires("nbdcopy", "nbdinfo")
    disk = the_disk(t)
    sun = t.path("sun.qcow2")
    at_sun = disk.begin("sun", bitmap="b", mode="full")
    go_on(disk)
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", disk.uri("backup/sun"), sun)
    is_disk(t, sun, at_sun, "qemu-img convert of the full one")
    run("nbdcopy", disk.uri("backup/sun"), t.path("sun.raw"))
    same_bytes(t.path("sun.raw"), at_sun, at_sun.size, "nbdcopy of the full one")
    run("nbdcopy", disk.uri("backup/sun.qcow2"), t.path("sun-file.qcow2"))
    is_disk(t, t.path("sun-file.qcow2"), at_sun, "the full one as a file")
    same(bitmap_infos(t.path("sun-file.qcow2")), {"b": (64 * KiB, frozenset())}, "bitmaps in the file")
    disk.end("sun")

    change(disk)
    at_mon = disk.begin("mon", bitmap="b", whole=True, backing={"file": "sun.qcow2", "format": "qcow2"})
    go_on(disk, trim=True)
    h = disk.connect("backup/mon/dirty")
    told_dirty = extents(h, "base:allocation")
    dirty = join((b, e) for b, e, f in told_dirty if f != 1)
    same(dirty, join([(1 * MiB, 1 * MiB + 64 * KiB), (50 * MiB, 51 * MiB)] + [(o, o + n) for o, n, _ in CHANGES]),
         "what is dirty")
    for begin, end, flags in told_dirty:
        bytes_ = at_mon.read(begin, end - begin)
        if flags == 3:
            expect(not any(bytes_), f"{begin:#x} is said to be zero")
        expect(flags in (0, 1, 3), "flags", flags)
    expect(any(f == 3 for _, _, f in told_dirty), "nothing is told as zero")
    expect_bytes(h.pread(2 * MiB, 30 * MiB), at_mon.read(30 * MiB, 2 * MiB), 30 * MiB, "what is clean")
    total = told("nbdinfo", "--map", "--totals", "--json", disk.uri("backup/mon/dirty"))
    same(sum(e["size"] for e in total if e["type"] != 1), sum(e - b for b, e in dirty), "nbdinfo --map --totals")

    for name, words in {"mon": (), "mon-compressed": ("-c",)}.items():
        path = t.path(f"{name}.qcow2")
        run("qemu-img", "convert", *words, "-f", "raw", "-O", "qcow2", "-B", "sun.qcow2", "-F", "qcow2",
            disk.uri("backup/mon/dirty"), path, cwd=t.folder)
        is_disk(t, path, at_mon, f"qemu-img convert {words} -B")
        expect(data_in(path) <= sum(e - b for b, e in dirty), f"{name}: {data_in(path)} bytes of data")
    path = t.path("mon-file.qcow2")
    run("nbdcopy", disk.uri("backup/mon/dirty.qcow2"), path)
    is_disk(t, path, at_mon, "the incremental one as a file")
    same(info(path)["backing-filename"], "sun.qcow2", "the backing file")
    same(info(path)["backing-filename-format"], "qcow2", "its format")
    same(qemu_bitmaps(t, path, "b"), [dirty], "the bitmap in the file")

    # To others it is a file that they open as one.
    uri = disk.uri("backup/mon.qcow2")
    run("qemu-img", "check", "-f", "qcow2", uri)
    run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", uri, at_mon.to_raw(t.path("model.raw")))
    with QemuNbd(t, uri, ["b"], read_only=True) as reader:
        h = reader.connect("base:allocation", "qemu:dirty-bitmap:b")
        found = [(b, e) for b, e, flags in extents(h, "qemu:dirty-bitmap:b") if flags & 1]
        same(found, dirty, "qemu:dirty-bitmap of the export")
        for at in range(0, at_mon.size, 8 * MiB):
            length = min(8 * MiB, at_mon.size - at)
            expect_bytes(h.pread(length, at), at_mon.read(at, length), at, "by qemu-nbd")
        for begin, end, flags in extents(h, "base:allocation"):
            expect(not flags & 2 or not any(at_mon.read(begin, end - begin)), f"{begin:#x} is said to be zero")
        reader.leave()
    disk.end("mon")
    disk.stop()


# The clusters of a backup are of 64K whatever the granularity.
@cases({"512": (512,), "4K": (4 * KiB,), "1M": (1 * MiB,)})
def around_what_is_dirty_alone(t, granularity):
    disk = the_disk(t, bitmaps=[("b", granularity)])
    sun = t.path("sun.qcow2")
    at_sun = disk.begin("sun", bitmap="b", mode="full")
    run("nbdcopy", disk.uri("backup/sun.qcow2"), sun)
    is_disk(t, sun, at_sun, "the full one")
    disk.end("sun")
    disk.write(5 * MiB + 4 * KiB, 512)
    disk.write(5 * MiB + 60 * KiB, 8 * KiB)
    disk.zero(9 * MiB, 300 * KiB)
    disk.write(64 * MiB, 512)
    at_mon = disk.begin("mon", bitmap="b", backing={"file": "sun.qcow2", "format": "qcow2"})
    go_on(disk, trim=True)
    expect("backup/mon" not in disk.names() and "backup/mon.qcow2" not in disk.names(), "too much is listed")
    h = disk.connect("backup/mon/dirty")
    expect_bytes(h.pread(128 * KiB, 5 * MiB), at_mon.read(5 * MiB, 128 * KiB), 5 * MiB, "around what is dirty")
    try:
        h.pread(512, 30 * MiB)
        raise Wrong("what is not kept can be read")
    except nbd.Error as error:
        same(error.errno, "EIO", "what is not kept")
    for name, words in {"mon": (), "mon-compressed": ("-c",)}.items():
        path = t.path(f"{name}.qcow2")
        run("qemu-img", "convert", *words, "-f", "raw", "-O", "qcow2", "-B", "sun.qcow2", "-F", "qcow2",
            disk.uri("backup/mon/dirty"), path, cwd=t.folder)
        is_disk(t, path, at_mon, f"qemu-img convert {words} -B")
    path = t.path("mon-file.qcow2")
    run("nbdcopy", disk.uri("backup/mon/dirty.qcow2"), path)
    is_disk(t, path, at_mon, "the incremental one as a file")
    expect(data_in(path) <= 4 * max(granularity, 64 * KiB), f"{data_in(path)} bytes of data")
    expect_bitmap(t, path, "b", granules([(5 * MiB + 4 * KiB, 5 * MiB + 4 * KiB + 512), (5 * MiB + 60 * KiB, 5 * MiB + 68 * KiB),
                                          (9 * MiB, 9 * MiB + 300 * KiB), (64 * MiB, 64 * MiB + 512)],
                                         granularity, at_mon.size), "the incremental one")
    disk.end("mon")
    disk.stop()


@case
def several_bitmaps_and_several_backups(t):
    disk = the_disk(t, bitmaps=[("a", 4 * KiB), ("b", 1 * MiB)])
    first = disk.begin("first", bitmaps=["a", "b"], mode="full")
    go_on(disk)
    second = disk.begin("second", mode="full")
    disk.write(0, 3 * MiB)
    same({name for name in disk.names() if name},
         {"backup/first", "backup/first.qcow2", "backup/second", "backup/second.qcow2",
          *(f"backup/first/dirty/{name}{end}" for name in "ab" for end in ("", ".qcow2"))}, "the list")
    for id_, model in (("first", first), ("second", second)):
        run("nbdcopy", disk.uri(f"backup/{id_}.qcow2"), t.path(f"{id_}.qcow2"))
        is_disk(t, t.path(f"{id_}.qcow2"), model, id_)
    same(set(bitmap_infos(t.path("first.qcow2"))), {"a", "b"}, "bitmaps of the first")
    for name in ("backup/first/dirty", "backup/second/dirty", "backup/third", "backup/first/dirty/c"):
        try:
            disk.connect(name)
            raise Wrong(f"there is no export {name}")
        except nbd.Error:
            pass
    expect("backup 'first' has several bitmaps: say which one, as in 'backup/first/dirty/a'" in disk.server.said(),
           disk.server.said())
    h = disk.connect("backup/second")
    disk.end("second")
    try:
        h.pread(512, 0)
        raise Wrong("a backup that has ended is read")
    except nbd.Error as error:
        same(error.errno, "EIO", "after the end")
    disk.end("first", success=False)
    same(set(disk.names()), {""}, "the list after the end")
    disk.stop()


# As oVirt's imageio reads: one client, base:allocation and a bitmap negotiated together, of
# each window as much as both contexts have told.
def by_windows(h, contexts, size, window):
    """context -> [(begin, end, flags)], neighbours of one kind joined."""
    found = {context: [] for context in contexts}
    at, requests = 0, 0
    while at < size:
        told_now = {}
        h.block_status(min(window, size - at), at,
                       lambda context, offset, entries, _error, got=told_now:
                       got.update({context: list(zip(entries[::2], entries[1::2]))}) or 0)
        same(set(told_now), set(contexts), f"contexts in the answer for {at:#x}")
        end = at + min(sum(length for length, _ in entries) for entries in told_now.values())
        expect(at < end <= size, f"the answer for {at:#x} ends at {end:#x}")
        for context, entries in told_now.items():
            add_extents(found[context], at, end, entries)
        at, requests = end, requests + 1
    return found, requests


def add_extents(extents_, at, end, entries):
    for length, flags in entries:
        stop = min(at + length, end)
        if extents_ and extents_[-1][2] == flags:
            extents_[-1] = (extents_[-1][0], stop, flags)
        elif at < stop:
            extents_.append((at, stop, flags))
        at = stop


IMAGEIO_SIZE = 5 * GiB + 512
BITMAPS = {"512": 512, "4K": 4 * KiB, "64K": 64 * KiB, "16M": 16 * MiB}


@case
def as_imageio_reads(t):
    disk = Served(t, IMAGEIO_SIZE, bitmaps=BITMAPS.items())
    # Before: data, zeros in data, and data at the very end. A full backup rotates.
    disk.write(1 * MiB, 3 * MiB)
    disk.write(4 * GiB - 128 * KiB, 256 * KiB)
    disk.write(IMAGEIO_SIZE - 512, 512)
    disk.begin("sun", bitmaps=list(BITMAPS), mode="full")
    disk.end("sun")
    changed = [(begin, begin + 1024) for begin in range(64 * MiB, 72 * MiB, 8 * KiB)]  # many
    changed += [(2 * MiB, 2 * MiB + 512), (4 * GiB - 512, 4 * GiB + 512),
                (IMAGEIO_SIZE - 512, IMAGEIO_SIZE)]
    for begin, end in changed:
        disk.write(begin, end - begin)
    for begin, end in ((3 * MiB, 3 * MiB + 200 * KiB), (3 * GiB, 3 * GiB + MiB)):
        disk.zero(begin, end - begin)
        changed.append((begin, end))
    model = disk.begin("mon", bitmaps=list(BITMAPS), whole=True)
    go_on(disk)
    data = clusters_with_data(disk, "backup/mon", model)
    for name, granularity in BITMAPS.items():
        dirty = granules(join(changed), granularity, IMAGEIO_SIZE)
        see_both_contexts(t, disk, name, dirty, data)
    disk.end("mon")
    disk.stop()


def clusters_with_data(disk, name, model):
    """What an export tells of itself, in whole clusters of 64K; where it is said to be zero
    it is."""
    told_zero = 0
    found = extents(disk.connect(name), "base:allocation")
    for begin, end, flags in found:
        expect(flags in (0, 3), f"{name}: flags {flags} at {begin:#x}")
        if flags == 3:
            told_zero += end - begin
            for number in [n for n in model.pieces if begin < (n + 1) * Model.PIECE and
                           n * Model.PIECE < end]:
                at = max(begin, number * Model.PIECE)
                expect(not any(model.read(at, min(end, (number + 1) * Model.PIECE) - at)),
                       f"{name}: {at:#x} is said to be zero")
    expect(told_zero > 4 * GiB, f"{name}: {told_zero} bytes are said to be zero")
    return granules([(begin, end) for begin, end, flags in found if flags == 0], 64 * KiB, model.size)


def see_both_contexts(t, disk, name, dirty, data):
    context = f"qemu:dirty-bitmap:{name}"
    file = {"driver": "nbd", "path": disk.server.socket, "export": "backup/mon.qcow2"}
    if t.rng.random() < 0.5:
        file, options = disk.uri("backup/mon.qcow2"), {}
    else:
        file, options = "json:" + json.dumps({"driver": "qcow2", "file": file}), {"format": None}
    with QemuNbd(t, file, [name], read_only=True, **options) as reader:
        h = reader.connect("base:allocation", context)
        for window in (4 * GiB - 64 * KiB, 1 * GiB, 128 * MiB, 8 * MiB + 4608):
            found, requests = by_windows(h, ["base:allocation", context], IMAGEIO_SIZE, window)
            what = f"granularity {name}, windows of {window}"
            same([(b, e) for b, e, flags in found[context] if flags == 1], dirty, what)
            same({flags for _, _, flags in found[context]}, {0, 1}, what)
            same([(b, e) for b, e, flags in found["base:allocation"] if flags == 0], data, what)
            same({flags for _, _, flags in found["base:allocation"]}, {0, 3}, what)
            expect(requests >= IMAGEIO_SIZE / window, what)
        # One that knows no bitmaps.
        alone = reader.connect("base:allocation")
        expect(not alone.can_meta_context(context), "a context that was not asked for")
        found, _ = by_windows(alone, ["base:allocation"], IMAGEIO_SIZE, 1 * GiB)
        same([(b, e) for b, e, flags in found["base:allocation"] if flags == 0], data, "alone")
        reader.leave()
    # nbdkit has no other contexts: who asks it for one is told so, and gets base:allocation,
    # which has the bitmap in its own way.
    h = disk.connect(f"backup/mon/dirty/{name}", context)
    expect(not h.can_meta_context(context), "nbdkit has", context)
    same(join([(b, e) for b, e, flags in extents(h, "base:allocation") if flags != 1]), dirty,
         f"backup/mon/dirty/{name}")


main()
