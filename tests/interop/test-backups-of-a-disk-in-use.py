#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# Backups of a disk in use (disk_in_use.py), by each of the ways that the man page has, in
# turns and at once, full and incremental: by qcow2bitmap, by qemu-img convert -B, and by
# nbdcopy of the qcow2 export. Some of the programs are interrupted, and the server is
# killed, at any time. Each backup that has its name shows one instant, that of its
# beginning; the next one does, too, whatever went wrong before, and is incremental.
#
#   IN_USE_SECONDS=N: how long (default: short). `make soak-backups`: long, with new seeds.

import os
import sys
import threading
import time

sys.dont_write_bytecode = True
from disk_in_use import GONE, KINDS, SECONDS, Deck, DiskInUse, processes_of  # noqa: E402
from disk_in_use import rounds, wait_for  # noqa: E402
from interop import *  # noqa: E402, F403
from ways import PATIENCE, ByNbdcopy, ByQemuImg, ByTool  # noqa: E402

CHAIN_MAX = 6


class Disk(DiskInUse):
    def __init__(self, t, **more):
        super().__init__(t, **more)
        self.programs = set()
        self.truth_wanted, self.truth = None, t.path("truth.raw")

    def has_begun(self):
        """A backup has, whose instant is known to be just now if nobody writes: then the
        disk as it is is kept beside it. Its path."""
        if not self.truth_wanted:
            return None
        run("nbdcopy", self.uri(""), self.truth)
        self.truth_wanted.set()
        return self.truth


class Backups:
    """Backup after backup."""

    def __init__(self, t, disk):
        self.rng, self.disk = t.rng, disk
        self.deck = Deck(t.rng, ["well", "well", "well", "truth", "interrupt", "interrupt", "kill",
                                 "kill", "stop"])
        self.ways = [ByTool(disk, "tool"), ByQemuImg(disk, "qemu-img"), ByNbdcopy(disk, "nbdcopy")]
        self.restored = self.with_truth = self.at_once = self.turn = 0

    def once(self):
        self.turn += 1
        self.see_the_server()
        ways = [self.ways[self.turn % 3]]
        if self.rng.random() < 0.25:
            ways = self.rng.sample(self.ways, 2)
            self.at_once += 1
        what = self.deck.draw()
        if what == "truth":
            ways = ways[:1]
        attempts = [threading.Thread(target=way.attempt, args=(
            what == "interrupt" and way is ways[0],
            not way.chain or len(way.chain) >= CHAIN_MAX and self.rng.random() < 0.5))
            for way in ways]
        begun = time.monotonic()
        self.do(what, ways, attempts)
        done = time.monotonic()
        lost_it = [way for way in ways if isinstance(way.error, GONE)]
        is_dead = what == "kill" or self.disk.died_of_lost_client(20 if lost_it else 0)
        for way in ways:
            if way.error and is_dead:
                way.lost += 1
            elif way.error:
                raise Wrong(f"{what}: {way.name}: {way.error!r}\n{self.disk.server.said()}")
        if is_dead:
            self.disk.clients_lost += what != "kill"
            self.disk.after_kill()
        else:
            self.disk.check_clients()
        with self.disk.resting():
            for way in ways:
                if way.made:
                    self.restored += 1
                    self.with_truth += bool(way.made[2])
                    way.judge()
        if is_dead:
            self.disk.start()
        elif what == "stop":
            self.disk.stop()
            self.disk.start()
        if os.environ.get("VERBOSE"):
            print(f"    {self.turn}: {what}: {', '.join(way.name for way in ways)}: "
                  f"{done - begun:.1f} s, judged in {time.monotonic() - done:.1f} s", flush=True)
        if len(self.ways[0].chain) > 3 and self.rng.random() < 0.2:
            self.ways[0].prune()

    def see_the_server(self):
        """nbdkit may have died of a client that vanished at the end of a round, or of fio."""
        if self.disk.died_of_lost_client():
            self.disk.clients_lost += 1
            self.disk.after_kill()
            self.disk.start()

    def do(self, what, ways, attempts):
        if what == "truth":
            self.disk.truth_wanted = threading.Event()
            with self.disk.quiet():
                attempts[0].start()
                while not self.disk.truth_wanted.wait(0.05) and attempts[0].is_alive():
                    pass
            self.disk.truth_wanted = None
        else:
            for attempt in attempts:
                attempt.start()
        if what == "kill":
            time.sleep(self.rng.uniform(0, 1.1 * max(way.usual for way in ways)))
            self.disk.server.process.kill()
        for attempt in attempts:
            attempt.join(timeout=2 * PATIENCE)
            expect(not attempt.is_alive(), f"a backup hangs: {ways}")

    def end(self):
        """Of each way one more, which has all, and all that there are; nothing is left."""
        for way in self.ways:
            self.see_the_server()
            way.attempt(False, False)
            if way.error and self.disk.died_of_lost_client(20):
                self.see_the_server()
                way.attempt(False, False)
            if way.error:
                raise Wrong(f"at the end: {way.name}: {way.error!r}")
            with self.disk.resting():
                way.judge()
                way.judge_all()
                way.end()
        with self.disk.qmp() as qmp:
            same(qmp.do("query-backups"), [], "backups that are left")
        wait_for(lambda: not processes_of(self.ways[0].folder), "what runs that was interrupted")

    def tell(self):
        for way in self.ways:
            print(f"    {way.name}: {way.kinds['full']} full, {way.kinds['incremental']} "
                  f"incremental, {way.interrupted} interrupted, {way.lost} lost with the server")
        print(f"    {self.disk.kills} kills ({self.disk.clients_lost} by nbdkit, of a client that "
              f"vanished), {self.restored} restored and compared, {self.with_truth} with all of "
              f"the disk, {self.at_once} times two at once, {self.disk.writer.sent} changes")


@cases(KINDS)
def each_shows_its_instant(t, options):
    requires("fio", "nbdcopy")
    disk = Disk(t, options=options)
    disk.start()
    backups = Backups(t, disk)
    try:
        for _ in rounds(7):
            backups.once()
        backups.end()
        disk.stop()
    finally:
        backups.tell()
        disk.leave_nothing()


main(case_seconds=2 * SECONDS + 3 * PATIENCE)
