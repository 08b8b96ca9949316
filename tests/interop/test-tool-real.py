#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# Backups of a disk that is served and written, by the program that people use: each one
# in the folder is the disk as it was at one instant, while clients write and when the
# server is killed in the middle.

import contextlib
import glob
import json
import os
import struct
import threading

from interop import KiB, MiB, Model, Nbdkit, Operations, apply_all, case, cases, check, compare
from interop import create, expect, main, run, same
from tool import refused, tool

SIZE = 8 * MiB
CLUSTER = 64 * KiB


class Disk:
    """A disk, a server of it, and a folder for its backups."""

    def __init__(self, t, size=SIZE):
        self.t, self.path, self.control = t, t.path("disk.qcow2"), t.path("control")
        self.backups = t.path("backups")
        self.shown = {}  # id -> Model
        os.mkdir(self.backups)
        create(self.path, size)
        self.model = Model(size)
        self.model.trim_may_keep = True  # where a backup still needs what is there
        self.operations = Operations(t.rng, size, CLUSTER, write_max=128 * KiB)

    def serve(self, *arguments):
        return Nbdkit(self.t, self.path, f"qcow2-control={self.control}", *arguments)

    def change(self, server, count=20):
        apply_all(self.operations.take(count), server.connect("base:allocation"), self.model,
                  CLUSTER)

    def backup(self, *words, **more):
        said = tool("-s", self.control, "backup", self.backups, "--json", *words, **more)[0]
        if "status" in more or "die_at" in more:
            return None
        made = json.loads(said)
        self.shown[made["id"]] = self.model.copy()
        return made

    def check(self):
        """Each backup that was made, restored."""
        for id_, model in self.shown.items():
            restored = self.t.path("restored.qcow2")
            tool("restore", self.backups, restored, "--at", id_, "--force")
            compare(restored, model.to_raw(self.t.path("restored.raw")))
        expect("all sound" in tool("verify", self.backups)[0], "verify")

    def bitmaps(self):
        return [each["name"] for each in
                json.loads(tool("-s", self.control, "bitmap", "list", "--json")[0])]


@case
def full_then_incremental(t):
    disk = Disk(t)
    with disk.serve("bitmap=mine") as server:
        disk.change(server)
        same(disk.backup()["kind"], "full", "the first one")
        for words in ((), ("--verify",), ("--compress",)):
            disk.change(server)
            same(disk.backup(*words)["kind"], "incremental", "the next one")
        nothing = disk.backup()
        same((nothing["kind"], nothing["dirty-bytes"]), ("incremental", 0), "one of nothing")
        tool("-s", disk.control, "resize", SIZE + MiB)
        disk.model.resize(SIZE + MiB)
        server.leave()
        disk.operations = Operations(t.rng, SIZE + MiB, CLUSTER)
        disk.change(server)
        made = disk.backup("--verify")
        same((made["kind"], made["disk-bytes"]), ("incremental", SIZE + MiB), "a grown disk")
        same(disk.bitmaps(), ["mine", f"backup@{made['id']}"], "bitmaps")
        same(json.loads(tool("-s", disk.control, "status", "--json")[0])["backups"], [], "backups")
        disk.check()
        # Through a snapshot and back: all of it is dirty then.
        tool("-s", disk.control, "snapshot", "create", "now")
        was = disk.model.copy()
        disk.change(server)
        disk.backup()
        server.leave()
        tool("-s", disk.control, "snapshot", "revert", "now")
        disk.model = was
        same(disk.backup()["kind"], "incremental", "after a revert")
        disk.check()
        tool("prune", disk.backups, "--keep", 3)
        disk.shown = dict(sorted(disk.shown.items())[-3:])
        disk.check()
    check(disk.path)


# At any time: then the bitmap of the next one covers what it must, by the server's promise.
@cases({step: (step,) for step in ("begun", "copied", "renamed", "ended", "dropped")})
def server_is_killed(t, step):
    disk = Disk(t)
    with disk.serve() as server:
        disk.change(server)
        disk.backup()
        disk.change(server)
        disk.backup(die_at=step)
        disk.change(server)
        server.connect().flush()
        server.kill()
    with disk.serve() as server:
        same(disk.backup()["kind"], "incremental", "the next one")
        disk.change(server)
        same(disk.backup()["kind"], "incremental", "the one after it")
        same(len(disk.bitmaps()), 1, "bitmaps")
        disk.check()


# A writer counts: number n goes to block n modulo their count, one after the other. A
# disk at one instant then has, up to some block, the numbers of one turn, and behind it
# those of the turn before.
@case
def one_instant(t):
    disk = Disk(t)
    blocks = SIZE // (4 * KiB)
    order = list(range(blocks))
    t.rng.shuffle(order)
    stop = threading.Event()

    def write(server):
        h = server.connect()
        turn = 0
        while True:
            turn += 1
            for block in order:
                if stop.is_set():
                    return
                h.pwrite(struct.pack(">Q", turn) * 512, block * 4 * KiB)

    with disk.serve() as server:
        writer = threading.Thread(target=write, args=(server,))
        writer.start()
        try:
            for number in range(4):
                disk.backup(*(["--full"] if number == 2 else []))
        finally:
            stop.set()
            writer.join()
    for path in sorted(glob.glob(disk.backups + "/*.qcow2")):
        raw = t.path("restored.raw")
        run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, raw)
        with open(raw, "rb") as file:
            data = file.read()
        found = [data[block * 4 * KiB:(block + 1) * 4 * KiB] for block in order]
        numbers = [struct.unpack(">Q", block[:8])[0] for block in found]
        expect(all(block == block[:8] * 512 for block in found), f"{path}: half a write")
        same(numbers, sorted(numbers, reverse=True), f"{path}: in the order of writing")
        expect(numbers[0] - numbers[-1] <= 1, f"{path}: {numbers[0]} and {numbers[-1]}")


# The guest goes on, and the next backup has all.
@case
def scratch_is_full(t):
    disk = Disk(t)
    stop = threading.Event()
    with disk.serve("qcow2-scratch-max=1M") as server:
        disk.change(server, 60)
        disk.backup()
        disk.change(server, 60)

        def overwrite():
            h = server.connect()
            data = os.urandom(MiB)
            while not stop.is_set():
                for at in range(0, SIZE, MiB):
                    h.pwrite(data, at)
                    disk.model.write(at, data)

        writer = threading.Thread(target=overwrite)
        writer.start()
        with contextlib.ExitStack() as last:
            last.callback(writer.join)
            last.callback(stop.set)
            refused("had to give the backup up", "-s", disk.control, "backup", disk.backups,
                    "--rate", "1M", "--full")
        same(len(disk.bitmaps()), 1, "bitmaps")
        same(disk.backup()["kind"], "incremental", "the next one")
        disk.check()


main()
