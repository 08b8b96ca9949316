#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# QEMU, we, QEMU, we ... on one image: random requests in turns, and between
# them what qemu-img does to bitmaps, snapshots and sizes. After each turn all
# is what a simple model says.
#
#   ROUNDS=N: turns of each image (default 8)

import os
import sys

sys.dont_write_bytecode = True
from interop import *  # noqa: E402, F403

ROUNDS = int(os.environ.get("ROUNDS", "8"))


class Tracked:
    """A bitmap as it must be."""

    def __init__(self, granularity, enabled):
        self.granularity, self.enabled, self.ranges = granularity, enabled, []


class Life:
    """An image, and all that is in it."""

    def __init__(self, t, size, cluster, options, snapshots):
        self.t, self.cluster, self.rng = t, cluster, t.rng
        self.path = t.path("disk.qcow2")
        create(self.path, size, f"cluster_size={cluster},{options}")
        self.version = 2 if "compat=0.10" in options else 3
        self.model = Model(size)
        self.bitmaps, self.snapshots = {}, {}
        self.snapshots_max = snapshots
        self.log = []
        self.number = 0

    def operations(self):
        draw = Operations(self.rng, self.model.size, self.cluster,
                          write_max=min(self.model.size // 8, 2 * self.cluster + 100 * KiB))
        draw.generation = self.number * 1000
        return draw.take(self.rng.randrange(5, 40))

    def turn(self, server_class, *arguments):
        """One server's life."""
        ops = self.operations()
        self.log.append(f"{server_class.__name__} {' '.join(arguments)}: {len(ops)} requests")
        with server_class(self.t, self.path, *arguments) as server:
            h = server.connect("base:allocation")
            read_all(h, self.model, "read first")
            apply_all(ops, h, self.model, self.cluster)
            expect_zeros_are_zero(h, self.model, "block status")
        for bitmap in self.bitmaps.values():
            if bitmap.enabled:
                bitmap.ranges = join(bitmap.ranges + touched(ops))

    def bitmap_by_us(self):
        name, granularity = f"ours {self.number}", 1 << self.rng.randrange(9, 25)
        self.bitmaps[name] = Tracked(granularity, True)
        self.turn(Nbdkit, f"bitmap={name}", f"bitmap-granularity={granularity}")

    def bitmap_add(self):
        name, enabled = f"theirs {self.number}", self.rng.random() < 0.8
        self.bitmaps[name] = Tracked(1 << self.rng.randrange(9, 25), enabled)
        add_bitmap(self.path, name, self.bitmaps[name].granularity, enabled)

    def bitmap_change(self):
        if not self.bitmaps:
            return self.bitmap_add()
        name = self.rng.choice(list(self.bitmaps))
        what = self.rng.choice(("--remove", "--clear", "--enable", "--disable"))
        run("qemu-img", "bitmap", what, self.path, name)
        self.log.append(f"{what} {name}")
        if what == "--remove":
            del self.bitmaps[name]
        elif what == "--clear":
            self.bitmaps[name].ranges = []
        else:
            self.bitmaps[name].enabled = what == "--enable"

    def snapshot_make(self):
        if len(self.snapshots) >= self.snapshots_max:
            return self.snapshot_delete()
        name = f"snapshot {self.number}"
        run("qemu-img", "snapshot", "-c", name, self.path)
        self.snapshots[name] = self.model.copy()

    def snapshot_delete(self):
        if self.snapshots:
            name = self.rng.choice(list(self.snapshots))
            run("qemu-img", "snapshot", "-d", name, self.path)
            del self.snapshots[name]

    def grow(self):
        # Not in version 2, once there are snapshots.
        if self.version == 2 and self.snapshots:
            return
        size = self.model.size + 512 * self.rng.randrange(1, 4000)
        run("qemu-img", "resize", "-q", "-f", "qcow2", self.path, size)
        self.model.resize(size)


    def shrink(self):
        # QEMU refuses where there are snapshots; inside a cluster it leaves
        # bytes that come back when the disk grows.
        size = self.rng.randrange(self.model.size // 2, self.model.size) // self.cluster * self.cluster
        if self.snapshots or size < MiB // 2:
            return
        run("qemu-img", "resize", "-q", "--shrink", "-f", "qcow2", self.path, size)
        self.model.resize(size)
        for bitmap in self.bitmaps.values():
            stays = granules(bitmap.ranges, bitmap.granularity, 1 << 62)
            end = -(-size // bitmap.granularity) * bitmap.granularity
            bitmap.ranges = join((begin, min(stop, end)) for begin, stop in stays)

    def between(self):
        rng = self.rng
        for _ in range(rng.randrange(3)):
            steps = [self.grow, self.shrink]
            if self.version == 3:
                steps += [self.bitmap_add, self.bitmap_change, self.bitmap_change]
            if self.snapshots_max:
                steps += [self.snapshot_make, self.snapshot_delete]
            self.number += 1
            step = rng.choice(steps)
            self.log.append(step.__name__)
            step()

    def is_sound(self):
        check(self.path)
        compare(self.path, self.model.to_raw(self.t.path("disk.raw")))
        image = Qcow2File(self.path)
        stored, size = image.bitmaps(), self.model.size
        same(set(stored), set(self.bitmaps), "names of bitmaps")
        names = list(self.bitmaps)
        found = qemu_bitmaps(self.t, self.path, *names) if names else []
        for name, by_qemu in zip(names, found):
            bitmap = self.bitmaps[name]
            expected = granules(bitmap.ranges, bitmap.granularity, size)
            same(stored[name].flags, AUTO if bitmap.enabled else 0, f"flags of {name}")
            same(by_qemu, expected, f"bitmap {name}")
            same(image.dirty(stored[name]), expected, f"bitmap {name}, in the file")

    def snapshots_are_sound(self):
        for name, model in self.snapshots.items():
            other = self.t.path("snapshot.raw")
            run("qemu-img", "convert", "-f", "qcow2", "-l", f"snapshot.name={name}", "-O", "raw",
                self.path, other)
            run("cmp", "-n", model.size, other, model.to_raw(self.t.path("disk.raw")))

    def live(self):
        try:
            for number in range(ROUNDS):
                self.number += 1
                if number % 2 == 0:
                    self.turn(by_qemu)
                elif self.version == 3 and self.rng.random() < 0.4:
                    self.bitmap_by_us()
                else:
                    self.turn(Nbdkit)
                self.is_sound()
                self.between()
            self.turn(Nbdkit)
            self.is_sound()
            self.snapshots_are_sound()
            for name in list(self.snapshots):
                run("qemu-img", "snapshot", "-d", name, self.path)
            check(self.path)
        except (Wrong, nbd.Error):
            print("   ", "; ".join(self.log))
            raise


@cases({
    "512-1": (2 * MiB, 512, "refcount_bits=1", 0),
    "512-64": (1 * MiB + 512, 512, "refcount_bits=64", 3),
    "4K-2": (8 * MiB + 1024, 4 * KiB, "refcount_bits=2", 2),
    "4K-16-lazy": (20 * MiB, 4 * KiB, "lazy_refcounts=on", 3),
    "8K-8": (20 * MiB, 8 * KiB, "refcount_bits=8", 2),
    "64K-16": (70 * MiB, 64 * KiB, "refcount_bits=16", 3),
    "64K-32-full": (10 * MiB, 64 * KiB, "refcount_bits=32,preallocation=full", 2),
    "2M-16": (150 * MiB + 512, 2 * MiB, "refcount_bits=16", 1),
    "v2-1K": (3 * MiB, 1 * KiB, "compat=0.10", 3),
    "v2-64K": (70 * MiB, 64 * KiB, "compat=0.10", 2),
})
def in_turns(t, size, cluster, options, snapshots):
    Life(t, size, cluster, options, snapshots).live()


main(case_seconds=20 * ROUNDS)
