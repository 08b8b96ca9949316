#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# What a crash must not cost: a full backup. Each bitmap belongs to a backup of
# its own, a raw file that began as a full copy. The disk is written to through
# our server, which is killed in the middle of requests, started again, killed
# again or stopped; QEMU writes in between. Then a backup is brought up to date
# with nothing but the granules that qemu-nbd -r -B reports, and must equal the
# disk. As backup tools do, the bitmap is cleared after that.

import contextlib
import os
import sys
import threading
import time

sys.dont_write_bytecode = True
from interop import *  # noqa: E402, F403

ROUNDS = int(os.environ.get("ROUNDS", "5"))
CLIENTS = 2


class Client(threading.Thread):
    """Changes what it likes until the server is gone."""

    def __init__(self, handle, draw):
        super().__init__(daemon=True)
        self.h, self.draw = handle, draw
        self.answered = 0
        self.stop = self.killed = False
        self.failure = None

    def run(self):
        try:
            while not self.stop:
                self.request(self.draw.next())
                self.answered += 1
        except nbd.Error as error:
            if not self.killed:
                self.failure = error

    def request(self, op):
        if op.kind == "write":
            self.h.pwrite(payload(op.offset, op.length, op.generation), op.offset, op.flags)
        elif op.kind == "zero":
            self.h.zero(op.length, op.offset, op.flags)
        elif op.kind == "trim":
            self.h.trim(op.length, op.offset, op.flags)
        elif op.kind == "flush":
            self.h.flush()


class Disk:
    def __init__(self, t, size, cluster, granularities, options=""):
        self.t, self.rng, self.size, self.cluster = t, t.rng, size, cluster
        self.path = t.path("disk.qcow2")
        create(self.path, size, f"cluster_size={cluster}{options}")
        # Something to begin with.
        with Nbdkit(t, self.path) as server:
            self.write_with(server, 30)
        self.backups = {}  # name of the bitmap -> raw file
        for name, granularity in granularities.items():
            self.backups[name] = t.path(f"{name}.raw")
            self.full_copy(self.backups[name])
            add_bitmap(self.path, name, granularity)
        self.crashes = self.copied = self.copies = 0

    def full_copy(self, raw):
        run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", self.path, raw)

    def draw(self):
        # Some are near to each other; most of the disk stays as it is.
        begin = self.rng.randrange(self.size // 2)
        area = (begin, begin + self.size // 16)
        ops = Operations(self.rng, self.size, self.cluster, 64 * KiB, zero_max=1 * MiB, area=area)
        ops.hot = [self.rng.randrange(*area) for _ in range(4)] + [0]
        # Generations of one client are not those of another.
        ops.generation = self.rng.randrange(1 << 60)
        return ops

    def write_with(self, server, count):
        client = Client(server.connect(), self.draw())
        for _ in range(count):
            client.request(client.draw.next())

    def life(self, how):
        """Of our server: it is killed, or stopped, while clients write."""
        rng = self.rng
        arguments, below = [], ()
        if rng.random() < 0.3:
            below, arguments = ("delay",), [f"wdelay={rng.choice((1, 2))}ms"]
        server = Nbdkit(self.t, self.path, *arguments, below=below,
                        idle_ms=rng.choice((20, 60000)))
        clients = [Client(server.connect(), self.draw()) for _ in range(CLIENTS)]
        for client in clients:
            client.start()
        time.sleep(rng.choice((rng.uniform(0, 0.02), rng.uniform(0.02, 0.2))))
        if how == "idle, kill":
            for client in clients:
                client.stop = True
                client.join()
            time.sleep(rng.uniform(0, 0.1))
        for client in clients:
            client.killed = "kill" in how
            client.stop = True
        if how == "stop":
            for client in clients:
                client.join()
            # The delay filter takes no writes when the server ends: then it is
            # as after a crash, and the exit status says so.
            server.stop((0, 1) if below else (0,))
        else:
            server.kill()
            for client in clients:
                client.join()
            self.crashes += 1
        for client in clients:
            if client.failure:
                raise Wrong(f"a client failed before the kill: {client.failure}\n{server.said()}")
        return sum(client.answered for client in clients)

    def back_up(self, name):
        """By the granules that are dirty, as a backup tool does it."""
        context = f"qemu:dirty-bitmap:{name}"
        raw = self.backups[name]
        with QemuNbd(self.t, self.path, bitmaps=[name], read_only=True) as server, \
                open(raw, "r+b") as copy:
            h = server.connect(context)
            expect(h.can_meta_context(context), f"qemu-nbd does not offer {context}")
            dirty = [(begin, end) for begin, end, flags in extents(h, context) if flags & 1]
            for begin, end in dirty:
                for at in range(begin, end, 1 * MiB):
                    data = h.pread(min(1 * MiB, end - at), at)
                    copy.seek(at)
                    copy.write(data)
        compare(self.path, raw)
        run("qemu-img", "bitmap", "--clear", self.path, name)
        self.copied += sum(end - begin for begin, end in dirty)
        self.copies += 1

    def round(self):
        log = []
        for _ in range(self.rng.randrange(1, 4)):
            how = self.rng.choice(("kill", "kill", "idle, kill", "stop", "qemu"))
            if how == "qemu":
                # QEMU repairs nothing by itself, but gets along with leaks.
                with QemuNbd(self.t, self.path) as server:
                    self.write_with(server, 20)
                log.append("qemu-nbd writes")
            else:
                log.append(f"{how} after {self.life(how)} answers")
        try:
            check(self.path, leaks=True)
            same({name: flags for name, (_, flags) in bitmap_infos(self.path).items()},
                 dict.fromkeys(self.backups, frozenset({"auto"})), "flags of the bitmaps")
            names = list(self.backups)
            self.rng.shuffle(names)
            for name in names[:self.rng.randrange(1, len(names) + 1)]:
                self.back_up(name)
        except Wrong as error:
            raise Wrong(f"{', '.join(log)}: {error}") from error
        if os.environ.get("VERBOSE"):
            print("   ", ", ".join(log), flush=True)


@cases({
    "512": (150 * MiB + 1536, 512, {"fine": 512, "coarse": 1 * MiB}),
    "4K": (300 * MiB, 4 * KiB, {"fine": 4 * KiB, "middle": 64 * KiB, "one": 2 * GiB}),
    "64K": (400 * MiB, 64 * KiB, {"finest": 512, "usual": 64 * KiB, "coarse": 16 * MiB}),
    "64K-lazy": (300 * MiB, 64 * KiB, {"fine": 4 * KiB, "usual": 64 * KiB}, ",lazy_refcounts=on"),
    "64K-subclusters": (300 * MiB, 64 * KiB, {"fine": 4 * KiB, "usual": 64 * KiB},
                        ",extended_l2=on"),
})
def the_next_incremental_is_right(t, *image):
    disk = Disk(t, *image)
    for _ in range(ROUNDS):
        disk.round()
    # At least one for each, and one at least after a crash.
    disk.life("kill")
    for name in disk.backups:
        disk.back_up(name)
    print(f"    {disk.crashes} crashes, {disk.copies} incrementals of "
          f"{disk.copied / disk.copies / disk.size:.0%} of the disk")


main(case_seconds=20 * ROUNDS)
