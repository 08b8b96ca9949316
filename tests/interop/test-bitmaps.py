#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# Bitmaps that QEMU made and we keep, and those that we make: every granularity,
# long tables, disabled ones, and those that nobody may trust any more.

import shutil
import sys
import time

sys.dont_write_bytecode = True
from interop import *  # noqa: E402, F403


def write_with_us_and_with_qemu(t, path, draw, count, *arguments, model=None):
    """The same requests to the image by us and to a copy by QEMU; returns the
    path of the copy and the ranges touched. `arguments`: ours."""
    twin = t.path("twin.qcow2")
    shutil.copyfile(path, twin)
    model = model or Model(draw.size)
    twin_model = model.copy()
    ops = draw.take(count)
    with Nbdkit(t, path, *arguments) as server:
        apply_all(ops, server.connect(), model, draw.cluster)
    with qemu().served(twin) as server:
        apply_all(ops, server.connect(), twin_model, draw.cluster)
    check_cut(path)
    compare(path, model.to_raw(t.path("disk.raw")))
    return twin, touched(ops)


def same_bitmaps(t, path, twin, ranges, granularities):
    """granularities: name -> granularity, of bitmaps that saw these ranges."""
    size = Qcow2File(path).disk_size
    ours = qemu_bitmaps(t, path, *granularities)
    theirs = qemu_bitmaps(t, twin, *granularities)
    image, twin_image = Qcow2File(path), Qcow2File(twin)
    for (name, granularity), mine, other in zip(granularities.items(), ours, theirs):
        same(mine, other, f"bitmap {name} of granularity {granularity}: QEMU's of the twin")
        same(mine, granules(ranges, granularity, size), f"bitmap {name}, computed")
        same(image.dirty(image.bitmaps()[name]), twin_image.dirty(twin_image.bitmaps()[name]),
             f"bitmap {name}, the bytes in the file")


@cases({"512": (512, 40 * MiB), "4K": (4 * KiB, 500 * MiB), "64K": (64 * KiB, 9 * GiB),
        "2M": (2 * MiB, 40 * GiB)})
def every_granularity(t, cluster, size):
    size += SECTOR * 3
    path = t.path("disk.qcow2")
    create(path, size, f"cluster_size={cluster}")
    granularities = {f"g{1 << bits}": 1 << bits for bits in range(9, 32)
                     if size >> bits < 1 << 21}
    for name, granularity in granularities.items():
        add_bitmap(path, name, granularity)
    draw = Operations(t.rng, size, cluster, write_max=min(1 * MiB, size // 16))
    twin, ranges = write_with_us_and_with_qemu(t, path, draw, 100)
    same_bitmaps(t, path, twin, ranges, granularities)


@case
def tables_of_many_entries(t):
    # Each entry of the table is for 2 MiB of disk; every third is written to.
    path, size = t.path("disk.qcow2"), 400 * MiB
    create(path, size, "cluster_size=512")
    add_bitmap(path, "b", 512)
    expect(Qcow2File(path).bitmaps()["b"].table_size == 200, "the table is short")
    draw = Operations(t.rng, size, 512)
    places = [i * 2 * MiB + t.rng.randrange(2 * MiB) for i in range(0, 200, 3)]
    ops = iter([Op("write", at, t.rng.randrange(1, 2000), 0, at) for at in places])
    draw.next = lambda: next(ops)
    twin, ranges = write_with_us_and_with_qemu(t, path, draw, len(places))
    same_bitmaps(t, path, twin, ranges, {"b": 512})


NAMES = ("b", "with spaces, commas=and :;\"quotes'", "\u00fc\u4e16\U0001f4be", "n" * 1023, "x" * 8)


@cases({name: (size,) for name, size in
        (("512", 512), ("1K", 1 * KiB), ("8K", 8 * KiB), ("64K", 64 * KiB), ("2M", 2 * MiB))})
def those_that_we_make(t, cluster):
    size = 30 * MiB + SECTOR
    path = t.path("disk.qcow2")
    create(path, size, f"cluster_size={cluster}")
    # QEMU's way, for an image like this.
    other = t.path("other.qcow2")
    create(other, size, f"cluster_size={cluster}")
    for name in NAMES:
        add_bitmap(other, name)
    [(default, _)] = set(bitmap_infos(other).values())

    draw = Operations(t.rng, size, cluster)
    model, ops = Model(size), draw.take(50)
    with Nbdkit(t, path, *(f"bitmap={name}" for name in NAMES)) as server:
        apply_all(ops, server.connect(), model, cluster)
    check_cut(path)
    compare(path, model.to_raw(t.path("disk.raw")))
    same(bitmap_infos(path), bitmap_infos(other), "the list of bitmaps")
    other_model = Model(size)
    with QemuNbd(t, other) as server:
        apply_all(ops, server.connect(), other_model, cluster)
    granularities = {name: default for name in NAMES}
    same_bitmaps(t, path, other, touched(ops), granularities)

    # Others beside them, of a granularity that is asked for; what is there
    # stays.
    more = draw.take(20)
    with Nbdkit(t, path, "bitmap=b", "bitmap=fine", "bitmap-granularity=512") as server:
        apply_all(more, server.connect(), model, cluster)
    add_bitmap(other, "fine", 512)
    with QemuNbd(t, other) as server:
        apply_all(more, server.connect(), other_model, cluster)
    check_cut(path)
    same(bitmap_infos(path), bitmap_infos(other), "the list of bitmaps")
    same_bitmaps(t, path, other, touched(ops + more), granularities)
    same_bitmaps(t, path, other, touched(more), {"fine": 512})


@cases({"512": (512,), "4K": (4 * KiB,)})
def a_directory_of_many_clusters(t, cluster):
    path, size = t.path("disk.qcow2"), 1 * MiB
    create(path, size, f"cluster_size={cluster}")
    names = [f"bitmap number {i:03}" for i in range(0, 5 * cluster // 48 + 3)][:100]
    with Nbdkit(t, path, *(f"bitmap={name}" for name in names[:-3]),
                "bitmap-granularity=512") as server:
        server.connect()
    for name in names[-3:]:
        add_bitmap(path, name, 512)
    draw, model = Operations(t.rng, size, cluster), Model(size)
    server = Nbdkit(t, path, "bitmap-sync=on-close")
    ops = draw.take(30)
    h = server.connect()
    apply_all(ops, h, model, cluster)
    same({b.flags for b in Qcow2File(path).bitmaps().values()}, {IN_USE | AUTO}, "flags, open")
    server.stop()
    check(path)
    compare(path, model.to_raw(t.path("disk.raw")))
    image = Qcow2File(path)
    same(set(image.bitmaps()), set(names), "names")
    for bitmap in image.bitmaps().values():
        same(bitmap.flags, AUTO, f"flags of {bitmap.name}")
        same(image.dirty(bitmap), granules(touched(ops), 512, size), bitmap.name)
    expect_bitmap(t, path, names[50], granules(touched(ops), 512, size), "of many")


@case
def what_qemu_does_to_bitmaps_between_our_runs(t):
    path, size, cluster = t.path("disk.qcow2"), 20 * MiB, 4 * KiB
    create(path, size, f"cluster_size={cluster}")
    for name in ("kept", "cleared", "stopped", "started", "removed"):
        add_bitmap(path, name, 4 * KiB)
    draw, model = Operations(t.rng, size, cluster), Model(size)

    def we_write():
        ops = draw.take(30)
        with Nbdkit(t, path) as server:
            apply_all(ops, server.connect(), model, cluster)
        check_cut(path)
        return touched(ops)

    def is_(name, ranges):
        expect_bitmap(t, path, name, granules(ranges, 4 * KiB, size), "between")

    def qemu_img(*words):
        run("qemu-img", "bitmap", *words[:-1], path, words[-1])

    qemu_img("--disable", "started")
    first = we_write()
    qemu_img("--clear", "cleared")
    qemu_img("--disable", "stopped")
    qemu_img("--enable", "started")
    qemu_img("--remove", "removed")
    qemu_img("--add", "-g", "4096", "late")
    qemu_img("--merge", "kept", "late")
    second = we_write()
    is_("kept", join(first + second))
    is_("cleared", second)
    is_("stopped", first)
    is_("started", second)
    is_("late", join(first + second))
    expect("removed" not in bitmap_infos(path), "a removed bitmap is there again")
    # None is left: neither extension nor bit; then a new one.
    for name in list(bitmap_infos(path)):
        qemu_img("--remove", name)
    we_write()
    same((Qcow2File(path).autoclear, Qcow2File(path).bitmaps()), (0, {}), "without bitmaps")
    qemu_img("--add", "-g", "4096", "again")
    is_("again", we_write())
    compare(path, model.to_raw(t.path("disk.raw")))


@case
def disabled_ones_stay_valid(t):
    path, size = t.path("disk.qcow2"), 20 * MiB
    create(path, size)
    add_bitmap(path, "frozen", 4 * KiB)
    add_bitmap(path, "on", 4 * KiB)
    draw, model = Operations(t.rng, size, 64 * KiB), Model(size)
    ops = draw.take(30)
    with QemuNbd(t, path) as server:
        apply_all(ops, server.connect(), model, 64 * KiB)
    run("qemu-img", "bitmap", "--disable", path, "frozen")
    frozen = granules(touched(ops), 4 * KiB, size)
    expect_bitmap(t, path, "frozen", frozen, "before")
    before = Qcow2File(path).everything_of(Qcow2File(path).bitmaps()["frozen"])

    with Nbdkit(t, path) as server:
        more = draw.take(30)
        apply_all(more, server.connect(), model, 64 * KiB)
        # In the file, at this moment.
        flags = {name: b.flags for name, b in Qcow2File(path).bitmaps().items()}
        same(flags, {"frozen": 0, "on": AUTO}, "flags while there were writes")
        server.kill()
    # QEMU may still use the disabled one, though we were killed.
    check(path, leaks=True)
    expect_bitmap(t, path, "frozen", frozen, "after kill -9")
    same(bitmap_infos(path)["on"], (4 * KiB, {"auto"}), "the enabled one")
    with Nbdkit(t, path) as server:
        server.connect().pwrite(payload(0, 100000, 1), 0)
    same(Qcow2File(path).everything_of(Qcow2File(path).bitmaps()["frozen"]), before,
         "all of the disabled bitmap")
    expect_bitmap(t, path, "frozen", frozen, "at the end")


def make_inconsistent_by_kill(t, path):
    """As a crash of QEMU leaves it: all bitmaps in use, also disabled ones."""
    with QemuNbd(t, path) as server:
        server.connect().pwrite(payload(1 * MiB, 5000, 7), 1 * MiB)
        time.sleep(0.05)
        server.kill()


@cases({"512": (512,), "4K": (4 * KiB,), "64K": (64 * KiB,)})
def inconsistent_ones_are_carried_along(t, cluster):
    path, size = t.path("disk.qcow2"), 20 * MiB
    create(path, size, f"cluster_size={cluster}")
    for name, enabled in (("lost", True), ("lost too", False)):
        add_bitmap(path, name, 4 * KiB, enabled)
    draw, model = Operations(t.rng, size, cluster), Model(size)
    with QemuNbd(t, path) as server:
        apply_all(draw.take(30), server.connect(), model, cluster)
    make_inconsistent_by_kill(t, path)
    check(path, leaks=True)
    run("qemu-img", "check", "-q", "-r", "leaks", path, status=(0, 3))
    infos = bitmap_infos(path)
    expect(all("in-use" in flags for _, flags in infos.values()), f"not all are in use: {infos}")
    image = Qcow2File(path)
    before = {name: image.everything_of(b) for name, b in image.bitmaps().items()}

    def are_as_they_were():
        image = Qcow2File(path)
        same({name: image.everything_of(image.bitmaps()[name]) for name in before}, before,
             "all of the inconsistent bitmaps")
        check(path)

    # The content after the kill is what is there.
    with Nbdkit(t, path, "bitmap=new", "bitmap-granularity=4K") as server:
        h = server.connect()
        model = Model(size)
        model.write(0, h.pread(size, 0))
        ops = draw.take(40)
        apply_all(ops, h, model, cluster)
        server.stop()
    are_as_they_were()
    same(bitmap_infos(path), {**infos, "new": (4 * KiB, {"auto"})}, "the list of bitmaps")
    expect_bitmap(t, path, "new", granules(touched(ops), 4 * KiB, size), "beside them")
    compare(path, model.to_raw(t.path("disk.raw")))

    # QEMU carries them too, and we once more, killed this time.
    more = draw.take(20)
    with QemuNbd(t, path) as server:
        apply_all(more, server.connect(), model, cluster)
    are_as_they_were()
    with Nbdkit(t, path, "bitmap-sync=on-close") as server:
        server.connect().pwrite(payload(0, 3 * MiB, 9), 0)
        server.kill()
    check(path, leaks=True)
    same({name: Qcow2File(path).everything_of(Qcow2File(path).bitmaps()[name]) for name in before},
         before, "all of the inconsistent bitmaps after kill -9")
    run("qemu-img", "check", "-q", "-r", "leaks", path, status=(0, 3))
    with Nbdkit(t, path) as server:
        server.connect().pwrite(payload(0, 3 * MiB, 10), 0)
    are_as_they_were()
    same(bitmap_infos(path)["new"], (4 * KiB, {"in-use", "auto"}), "the one that we lost")
    for name in bitmap_infos(path):
        run("qemu-img", "bitmap", "--remove", path, name)
    check(path)


@case
def one_inconsistent_among_good_ones(t):
    path, size, cluster = t.path("disk.qcow2"), 20 * MiB, 64 * KiB
    create(path, size, f"cluster_size={cluster}")
    for name in ("a", "lost", "z"):
        add_bitmap(path, name, 4 * KiB)
    draw, model = Operations(t.rng, size, cluster), Model(size)
    ops = draw.take(30)
    with Nbdkit(t, path) as server:
        apply_all(ops, server.connect(), model, cluster)
    poke_flags(path, "lost", IN_USE | AUTO)
    before = Qcow2File(path).everything_of(Qcow2File(path).bitmaps()["lost"])
    more = draw.take(30)
    with Nbdkit(t, path) as server:
        apply_all(more, server.connect(), model, cluster)
    check_cut(path)
    same(Qcow2File(path).everything_of(Qcow2File(path).bitmaps()["lost"]), before, "all of it")
    for name in ("a", "z"):
        expect_bitmap(t, path, name, granules(touched(ops + more), 4 * KiB, size), "beside it")
    compare(path, model.to_raw(t.path("disk.raw")))


@case
def table_entries_of_ones(t):
    # Granules of 512 bytes, clusters of 512: an entry is for 2 MiB. QEMU never
    # writes such an entry, but reads it, and we may.
    path, size, cluster = t.path("disk.qcow2"), 11 * MiB + 1536, 512
    create(path, size, f"cluster_size={cluster}")
    add_bitmap(path, "b", 512)
    bitmap = Qcow2File(path).bitmaps()["b"]
    same(bitmap.table_size, 6, "entries")
    for index in (1, 3, 5):
        poke(path, bitmap.table_offset + 8 * index, struct.pack(">Q", 1))
    ones = [(2 * MiB, 4 * MiB), (6 * MiB, 8 * MiB), (10 * MiB, size)]
    same(qemu_bitmaps(t, path, "b"), [ones], "as QEMU reads it")
    ops = [Op("write", at, 100, 0, 1) for at in (5, 3 * MiB + 77, 4 * MiB - 50, size - 100)]
    with Nbdkit(t, path) as server:
        apply_all(ops, server.connect(), Model(size), cluster)
    check_cut(path)
    # QEMU does not mind a last entry of ones; by the format the tail is zero.
    image = Qcow2File(path)
    bitmap = image.bitmaps()["b"]
    expected = join(ones + granules(touched(ops), 512, size))
    same(qemu_bitmaps(t, path, "b"), [expected], "after us")
    same(image.dirty(bitmap), expected, "after us, in the file")
    with QemuNbd(t, path) as server:
        server.connect().pwrite(b"x", 9 * MiB)
    expected = join(expected + [(9 * MiB, 9 * MiB + 512)])
    same(qemu_bitmaps(t, path, "b"), [expected], "after QEMU")


@case
def a_run_without_writes_changes_nothing(t):
    path, size = t.path("disk.qcow2"), 20 * MiB
    create(path, size)
    add_bitmap(path, "b", 4 * KiB)
    qemu_io(path, "write -P 1 1M 100k")
    with open(path, "rb") as f:
        before = f.read()
    for options in ((), ("-r",)):
        with Nbdkit(t, path, options=options) as server:
            h = server.connect("base:allocation")
            expect_bytes(h.pread(100 * KiB, 1 * MiB), b"\1" * 100 * KiB, 1 * MiB, "read")
            extents(h, "base:allocation")
            same(h.is_read_only(), bool(options), "read-only")
            if not options:
                h.flush()
            else:
                try:
                    h.set_strict_mode(0)
                    h.pwrite(b"x", 0)
                    raise Wrong("a read-only server took a write")
                except nbd.Error:
                    pass
        with open(path, "rb") as f:
            expect(f.read() == before, f"the file has changed, nbdkit {options}")


main()
