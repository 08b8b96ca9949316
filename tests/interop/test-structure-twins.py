#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# The same sequence of structural changes on twins: qemu-img on one image, the
# engine on the other. Each is done or refused by both, and then both images have
# the same size, content, snapshots, and bitmaps: names, granularities, flags and
# bits, as the file has them and as QEMU tells them. QEMU opens ours after
# each change and finds it sound.
#
#   STEPS=N: changes of each pair of twins (default 30)

import os
import subprocess
import sys

sys.dont_write_bytecode = True
from interop import *  # noqa: E402, F403

STEPS = int(os.environ.get("STEPS", "30"))
CHANGE_IMAGE = os.path.join(os.environ.get("builddir", "."), "support/change_image")
NAMES = ("a", "b", "c d", "Größe")


class Twins:
    def __init__(self, t, size, options):
        self.t, self.size = t, size
        self.qemu, self.ours = t.path("qemu.qcow2"), t.path("ours.qcow2")
        for path in (self.qemu, self.ours):
            create(path, size, options)
        self.generation = 0
        self.done = self.refused = 0

    def write(self):
        """QEMU writes to both, and sets the bits of the enabled bitmaps."""
        self.generation = self.generation % 250 + 1
        length = self.t.rng.randrange(1, 200) * SECTOR
        at = self.t.rng.randrange(0, max(1, (self.size - length) // SECTOR)) * SECTOR
        length = min(length, self.size - at)
        for path in (self.qemu, self.ours):
            with qemu().served(path) as export:
                export.connect().pwrite(bytes([self.generation]) * length, at)

    def change(self, by_qemu, by_us):
        """True if both did it."""
        words = {}
        for who, command in (("qemu", ["qemu-img", *by_qemu]),
                             ("we", [CHANGE_IMAGE, self.ours, *by_us])):
            done = subprocess.run([str(word) for word in command], capture_output=True, timeout=PATIENCE)
            words[who] = (done.returncode == 0, (done.stdout + done.stderr).decode(errors="replace"))
        same(words["we"][0], words["qemu"][0], f"{by_us}: done; {words}")
        if not words["we"][0]:
            expect(words["we"][1].strip(), f"{by_us}: refused without a word")
        self.done += words["we"][0]
        self.refused += not words["we"][0]
        self.compare(by_us)
        return words["we"][0]

    def compare(self, what):
        check(self.ours)
        same(bitmap_infos(self.ours), bitmap_infos(self.qemu), f"bitmaps after {what}")
        same(info(self.ours)["virtual-size"], info(self.qemu)["virtual-size"], f"size after {what}")
        files = Qcow2File(self.ours), Qcow2File(self.qemu)
        bits = [{name: f.dirty(b) for name, b in f.bitmaps().items()} for f in files]
        same(bits[0], bits[1], f"bits after {what}")
        run("qemu-img", "compare", "-q", "-f", "qcow2", "-F", "qcow2", self.ours, self.qemu)

    def compare_by_qemu(self):
        names = [name for name, (_, flags) in bitmap_infos(self.ours).items()]
        if names:
            same(qemu_bitmaps(self.t, self.ours, *names), qemu_bitmaps(self.t, self.qemu, *names),
                 "as QEMU tells them")


def change_bitmaps(twins, rng):
    name, other = rng.choice(NAMES), rng.choice(NAMES)
    verb = rng.choice(("add", "add", "remove", "enable", "disable", "clear", "merge", "merge", "resize"))
    if verb == "add":
        bits, disabled = rng.choice((9, 12, 16, 20)), rng.random() < 0.3
        twins.change(["bitmap", "--add", *(["--disable"] if disabled else []), "-g", 1 << bits,
                      twins.qemu, name], ["add-disabled" if disabled else "add", name, bits])
    elif verb == "merge":
        twins.change(["bitmap", "--merge", other, twins.qemu, name], ["merge", name, other])
    elif verb == "resize":
        size = rng.randrange(1, 2 * twins.size // SECTOR) * SECTOR
        if twins.change(["resize", "-q", "--shrink", "-f", "qcow2", twins.qemu, size], ["resize", size]):
            twins.size = size
    else:
        twins.change(["bitmap", f"--{verb}", twins.qemu, name], [verb, name])


@cases({
    "512": (1 * MiB, "cluster_size=512"),
    "4K": (6 * MiB, "cluster_size=4k,refcount_bits=1"),
    "64K": (24 * MiB, "cluster_size=64k"),
    "subclusters": (24 * MiB, "cluster_size=64k,extended_l2=on"),
})
def bitmaps(t, size, options):
    twins = Twins(t, size, options)
    for _ in range(STEPS):
        if t.rng.random() < 0.5:
            twins.write()
        change_bitmaps(twins, t.rng)
    twins.compare_by_qemu()
    for name in list(bitmap_infos(twins.ours)):
        twins.change(["bitmap", "--remove", twins.qemu, name], ["remove", name])
    same(Qcow2File(twins.ours).autoclear & 1, 0, "autoclear bit 0 with the last bitmap gone")
    expect(twins.done > STEPS // 4 and twins.refused > 0, f"{twins.done} done, {twins.refused} refused")


@cases({
    "512": (1 * MiB, "cluster_size=512,refcount_bits=8"),
    "4K": (6 * MiB, "cluster_size=4k,refcount_bits=4"),
    "64K": (24 * MiB, "cluster_size=64k"),
    "1 bit": (6 * MiB, "cluster_size=4k,refcount_bits=1"),
    "subclusters": (24 * MiB, "cluster_size=64k,extended_l2=on"),
})
def snapshots(t, size, options):
    twins = Twins(t, size, options)
    for path in (twins.qemu, twins.ours):
        add_bitmap(path, "b", 64 * KiB)
    names = []
    for number in range(STEPS // 2):
        twins.write()
        if names and t.rng.random() < 0.4:
            name = t.rng.choice(names)
            if twins.change(["snapshot", "-d", name, twins.qemu], ["delete-snapshot", name]):
                names.remove(name)
        else:
            name = f"s{number}"
            if twins.change(["snapshot", "-c", name, twins.qemu], ["snapshot", name]):
                names.append(name)
        listed = [[(s["id"], s["name"], s["vm-state-size"]) for s in info(path).get("snapshots", [])]
                  for path in (twins.ours, twins.qemu)]
        same(listed[0], listed[1], "the list of snapshots")
    for name in names:
        raws = []
        for path in (twins.ours, twins.qemu):
            raws.append(t.path(f"{len(raws)}.raw"))
            run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", "-l", f"snapshot.name={name}", path, raws[-1])
        run("qemu-img", "compare", "-q", "-f", "raw", "-F", "raw", *raws)


requires(CHANGE_IMAGE)
main()
