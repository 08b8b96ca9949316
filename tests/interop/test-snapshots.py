#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# Images with internal snapshots: we write to the active state, and what the
# snapshots hold stays; QEMU makes more, deletes, and reverts.

import os
import sys

sys.dont_write_bytecode = True
from interop import *  # noqa: E402, F403


class Image:
    """An image, what its active state and its snapshots hold, and the ranges
    that its bitmap has seen."""

    def __init__(self, t, size, cluster, options, bitmap=True):
        self.t, self.cluster = t, cluster
        self.path = t.path("disk.qcow2")
        create(self.path, size, f"cluster_size={cluster},{options}")
        self.bitmap = bitmap
        if bitmap:
            add_bitmap(self.path, "b", 4 * KiB)
        self.model, self.snapshots, self.dirty = Model(size), {}, []
        self.draw = Operations(t.rng, size, cluster, write_max=max(128 * KiB, 2 * cluster))

    def write(self, server_class, count=None):
        count = count or (12 if self.cluster == 2 * MiB else 40)
        ops = self.draw.take(count)
        with server_class(self.t, self.path) as server:
            h = server.connect("base:allocation")
            read_all(h, self.model, "active state")
            apply_all(ops, h, self.model, self.cluster)
        self.dirty = join(self.dirty + touched(ops))

    def snapshot(self, name):
        run("qemu-img", "snapshot", "-c", name, self.path)
        self.snapshots[name] = self.model.copy()

    def delete(self, name):
        run("qemu-img", "snapshot", "-d", name, self.path)
        del self.snapshots[name]

    def revert(self, name):
        run("qemu-img", "snapshot", "-a", name, self.path)
        self.model = self.snapshots[name].copy()

    def revert_by_us(self, name):
        """Twice: the second time it must be the same."""
        for _ in range(2):
            said = run("nbdkit", f"--filter={os.environ['FILTER']}", "-U", self.t.path("none.sock"),
                       "file", self.path, f"qcow2-revert={name}")
            expect(f"the disk is now what snapshot '{name}'" in said, "it said:", said)
        self.model = self.snapshots[name].copy()
        self.resized()
        self.dirty = [(0, self.model.size)]

    def resize(self, size):
        run("qemu-img", "resize", "-q", "-f", "qcow2", self.path, size)
        self.model.resize(size)
        self.resized()

    def resized(self):
        self.draw = Operations(self.t.rng, self.model.size, self.cluster,
                               write_max=max(128 * KiB, 2 * self.cluster))

    def is_sound(self):
        """Check clean, and all states are what they should be."""
        check(self.path)
        raw, other = self.t.path("disk.raw"), self.t.path("snapshot.raw")
        compare(self.path, self.model.to_raw(raw))
        for name, model in self.snapshots.items():
            run("qemu-img", "convert", "-f", "qcow2", "-l", f"snapshot.name={name}", "-O", "raw",
                self.path, other)
            # The disk may have another size now, and QEMU gives the snapshot that one.
            same_bytes(other, model, min(model.size, self.model.size), f"snapshot {name}")
        if self.bitmap:
            expect_bitmap(self.t, self.path, "b", granules(self.dirty, 4 * KiB, self.model.size),
                          "over snapshots")


GEOMETRIES = {
    "512-16": (2 * MiB + 512, 512, "refcount_bits=16"),
    "4K-2": (10 * MiB, 4 * KiB, "refcount_bits=2"),
    "4K-8": (10 * MiB + 1536, 4 * KiB, "refcount_bits=8"),
    "64K-16": (40 * MiB, 64 * KiB, "refcount_bits=16"),
    "64K-64": (40 * MiB + 512, 64 * KiB, "refcount_bits=64"),
    "2M-32": (60 * MiB, 2 * MiB, "refcount_bits=32"),
}


@cases(GEOMETRIES)
def we_write_beside_snapshots(t, size, cluster, options):
    image = Image(t, size, cluster, options)
    image.write(by_qemu)
    image.snapshot("one")
    image.write(Nbdkit)
    image.is_sound()
    image.snapshot("two")
    image.write(Nbdkit)
    image.is_sound()
    image.delete("one")
    image.is_sound()
    image.write(Nbdkit)
    image.write(by_qemu)
    image.is_sound()
    image.delete("two")
    image.is_sound()
    image.write(Nbdkit)
    image.is_sound()


@cases({"v2-4K": (10 * MiB, 4 * KiB, "compat=0.10"), "v2-64K": (40 * MiB, 64 * KiB, "compat=0.10"),
        "v3-4K": (10 * MiB, 4 * KiB, "refcount_bits=4")})
def qemu_reverts(t, size, cluster, options):
    # QEMU reverts only where there are no bitmaps.
    image = Image(t, size, cluster, options, bitmap=False)
    image.write(Nbdkit)
    image.snapshot("one")
    image.write(Nbdkit)
    image.snapshot("two")
    image.write(Nbdkit)
    image.revert("one")
    image.is_sound()
    image.write(Nbdkit)
    image.is_sound()
    image.revert("two")
    image.write(Nbdkit)
    image.is_sound()
    image.delete("one")
    image.write(Nbdkit)
    image.delete("two")
    image.is_sound()


@cases(GEOMETRIES)
def we_revert_where_there_are_bitmaps(t, size, cluster, options):
    image = Image(t, size, cluster, options)
    image.write(Nbdkit)
    image.snapshot("one")
    image.write(by_qemu)
    # In whole sectors, as QEMU has it.
    image.resize(size // SECTOR * SECTOR + 3 * cluster + 512)
    image.write(Nbdkit)
    image.snapshot("two")
    image.write(Nbdkit)
    image.revert_by_us("one")
    image.is_sound()
    image.write(Nbdkit)
    image.is_sound()
    image.revert_by_us("two")
    image.is_sound()
    image.write(by_qemu)
    image.delete("one")
    image.is_sound()
    image.revert_by_us("two")
    image.delete("two")
    image.write(Nbdkit)
    image.is_sound()


# (Two bits are too narrow for QEMU, which counts the disk that goes as well.)
@cases({**{name: g for name, g in GEOMETRIES.items() if name != "4K-2"},
        "v2": (10 * MiB, 4 * KiB, "compat=0.10"), "extended": (10 * MiB, 64 * KiB, "extended_l2=on")})
def our_revert_is_qemus(t, size, cluster, options):
    image = Image(t, size, cluster, options, bitmap=False)
    for name in ("one", "two"):
        image.write(by_qemu)
        image.snapshot(name)
    image.write(Nbdkit)
    twin = t.path("twin.qcow2")
    for name in ("one", "two", "one"):
        shutil.copy(image.path, twin)
        image.revert_by_us(name)
        run("qemu-img", "snapshot", "-a", name, twin)
        image.is_sound()
        run("qemu-img", "compare", "-f", "qcow2", "-F", "qcow2", image.path, twin)
        same(info(image.path)["snapshots"], info(twin)["snapshots"], "snapshots")
        image.write(by_qemu)
    image.is_sound()


@case
def an_external_data_file_has_no_snapshots(t):
    path = t.path("disk.qcow2")
    create(path, MiB, f"data_file={t.path('data.raw')}")
    run("qemu-img", "snapshot", "-c", "s", path, status=1)
    said = run("nbdkit", f"--filter={os.environ['FILTER']}", "-U", t.path("none.sock"), "file", path,
               "qcow2-revert=s", f"qcow2-files={t.folder}", status=1)
    expect("there is no snapshot with the ID or name 's'; the image has none" in said, "it said:", said)


@case
def three_snapshots_are_all_that_two_bits_count(t):
    # A cluster that is named four times needs a refcount of 4: QEMU refuses the
    # fourth snapshot of what has not changed, and we write beside three.
    image = Image(t, 4 * MiB, 4 * KiB, "refcount_bits=2", bitmap=False)
    image.write(by_qemu)
    image.snapshot("one")
    image.snapshot("two")
    run("qemu-img", "snapshot", "-c", "three", image.path, status=1)
    check(image.path, leaks=True)
    run("qemu-img", "check", "-q", "-r", "leaks", image.path, status=(0, 3))
    image.write(Nbdkit, 80)
    image.is_sound()
    image.delete("two")
    image.write(Nbdkit)
    image.delete("one")
    image.is_sound()


@case
def disks_that_grew_between_snapshots(t):
    image = Image(t, 4 * MiB, 64 * KiB, "refcount_bits=16")
    image.write(Nbdkit)
    image.snapshot("small")
    run("qemu-img", "resize", "-q", "-f", "qcow2", image.path, 9 * MiB)
    image.model.resize(9 * MiB)
    image.draw = Operations(t.rng, 9 * MiB, 64 * KiB)
    image.write(Nbdkit)
    image.is_sound()
    image.snapshot("large")
    image.write(Nbdkit, 80)
    image.is_sound()
    image.delete("small")
    image.write(Nbdkit)
    image.is_sound()


@case
def everything_is_shared_and_then_overwritten(t):
    # Each table and each cluster must be copied once, by us alone; of the old
    # ones none is lost when the snapshot goes.
    image = Image(t, 8 * MiB, 4 * KiB, "refcount_bits=16")
    with qemu().served(image.path) as server:
        apply_all([Op("write", at, MiB, 0, 5) for at in range(0, 8 * MiB, MiB)],
                  server.connect(), image.model, 4 * KiB)
    image.snapshot("full")
    with Nbdkit(t, image.path) as server:
        # In pieces that begin and end within clusters.
        h = server.connect()
        for at in range(1000, 8 * MiB - 3000, 9000):
            op = Op(t.rng.choice(("write", "write", "zero", "trim")), at,
                    t.rng.randrange(1, 20000), 0, at)
            op = op._replace(length=min(op.length, 8 * MiB - at))
            apply(op, h, image.model, 4 * KiB)
            image.dirty.append((op.offset, op.offset + op.length))
    image.dirty = join([(0, 8 * MiB)])
    image.is_sound()
    size = os.path.getsize(image.path)
    image.delete("full")
    image.is_sound()
    with Nbdkit(t, image.path) as server:
        apply_all([Op("write", at, MiB, 0, 6) for at in range(0, 8 * MiB, MiB)],
                  server.connect(), image.model, 4 * KiB)
    image.is_sound()
    # The clusters that the snapshot gave back were used again.
    expect(os.path.getsize(image.path) <= size, "the file has grown to",
           os.path.getsize(image.path), "from", size)


main()
