#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# kill -9 at any moment. Several clients write, zero, trim and flush; then the
# server is killed, and of what it leaves must hold:
#
#   - the image is sound, at worst clusters leak;
#   - what was flushed is there, every other sector is old or new, never mixed;
#   - an enabled bitmap covers what was certainly changed; with
#     bitmap-sync=on-close it is marked in_use, or says no more than what was
#     possibly changed; a disabled one is as it was; so is one that was
#     inconsistent before, and it stays so.
#
# Then it goes on with what there is.
#
#   KILLS=N: kills of each image (default 8)

import contextlib
import os
import sys
import threading
import time

sys.dont_write_bytecode = True
from interop import *  # noqa: E402, F403

KILLS = int(os.environ.get("KILLS", "8"))
CLIENTS = 3


class Request:
    def __init__(self, kind, first, count, generation, flags):
        self.kind, self.first, self.count = kind, first, count
        self.generation, self.flags = generation, flags
        self.answered = None  # the number of the answer
        self.refused = False


class Client(threading.Thread):
    """Has sectors of its own, which lie between those of others: a run of
    `run` sectors, then runs of the others, and so on."""

    def __init__(self, storm, number, handle, seed):
        super().__init__(daemon=True)
        self.storm, self.number, self.h = storm, number, handle
        self.rng = random.Random(seed)
        self.requests = []
        self.failure = None

    def run(self):
        try:
            while not self.storm.stop:
                if self.storm.pause.is_set():
                    time.sleep(0.002)
                elif self.rng.random() < self.storm.flush_rate:
                    self.flush()
                else:
                    self.request()
        except nbd.Error as error:
            if not self.storm.killed:
                self.failure = error

    def flush(self):
        seen = self.storm.answers
        self.h.flush()
        with self.storm.lock:
            self.storm.flushed = max(self.storm.flushed, seen)

    def request(self):
        rng, storm = self.rng, self.storm
        run = rng.randrange(storm.sectors // (storm.run * CLIENTS))
        if rng.random() < 0.5:
            run = run % 5  # where it is crowded
        first = (run * CLIENTS + self.number) * storm.run
        at = rng.choice((0, rng.randrange(storm.run)))
        count = rng.choice((1, storm.run - at, rng.randrange(1, storm.run - at + 1)))
        kind = rng.choice(("write", "write", "write", "zero", "trim"))
        flags = nbd.CMD_FLAG_FUA if rng.random() < 0.08 else 0
        if kind == "zero" and rng.random() < 0.4:
            flags |= nbd.CMD_FLAG_NO_HOLE
        with storm.lock:
            storm.generation += 1
            generation = storm.generation if kind == "write" else 0
        request = Request(kind, first + at, count, generation, flags)
        self.requests.append(request)
        offset, length = request.first * SECTOR, count * SECTOR
        if kind == "write":
            self.h.pwrite(payload(offset, length, generation), offset, flags)
        elif kind == "zero":
            self.h.zero(length, offset, flags)
        else:
            self.h.trim(length, offset, flags)
        with storm.lock:
            storm.answers += 1
            request.answered = storm.answers


class Storm:
    """One server's life, from its first request until it is killed."""

    def __init__(self, size, run, flush_rate, generation):
        self.sectors, self.run, self.flush_rate = size // SECTOR, run, flush_rate
        self.lock = threading.Lock()
        self.stop = self.killed = False
        self.pause = threading.Event()
        self.answers = 0       # so many requests have been answered
        self.flushed = 0       # and of so many we know that they are durable
        self.generation = generation
        self.clients = []

    def start(self, server, rng):
        self.clients = [Client(self, i, server.connect(), rng.random()) for i in range(CLIENTS)]
        for client in self.clients:
            client.start()

    def end(self):
        for client in self.clients:
            client.join(timeout=PATIENCE)
            expect(not client.is_alive(), "a client hangs")
            if client.failure:
                raise Wrong(f"a client failed before the kill: {client.failure}")

    def requests(self):
        return [request for client in self.clients for request in client.requests]

    def candidates(self, before):
        """sector -> what it may hold; before: what it held."""
        possible = {}
        for client in self.clients:
            for r in client.requests:
                durable = r.answered is not None and \
                    (r.answered <= self.flushed or r.flags & nbd.CMD_FLAG_FUA)
                for sector in range(r.first, r.first + r.count):
                    was = possible.get(sector)
                    if durable and r.kind != "trim":
                        possible[sector] = {r.generation}
                    else:
                        possible[sector] = (was or {before[sector]}) | {r.generation}
        return possible


def ranges_of(requests):
    return join((r.first * SECTOR, (r.first + r.count) * SECTOR) for r in requests)


def generations(raw):
    """Of each sector: what was written there last; 0: zeros."""
    found, zeros, unpack = [], bytes(SECTOR), struct.Struct(">QQ").unpack_from
    for sector in range(len(raw) // SECTOR):
        data = raw[sector * SECTOR:(sector + 1) * SECTOR]
        if data == zeros:
            found.append(0)
            continue
        where, generation = unpack(data)
        expect(where == sector, f"sector {sector} holds what was written to sector {where}")
        expect(data == data[:16] * 32, f"sector {sector} is torn")
        found.append(generation)
    return found


class Survivor:
    """An image that lives through many kills. (Where there is a snapshot leaks
    stay: qemu-img check -r of 7.2 drops the snapshots of an image that has
    bitmaps, and frees what they hold.)"""

    def __init__(self, t, size, cluster, options, snapshot=False):
        self.t, self.size, self.cluster, self.rng = t, size, cluster, t.rng
        self.path = t.path("disk.qcow2")
        create(self.path, size, f"cluster_size={cluster},{options}")
        self.held = [0] * (size // SECTOR)
        self.generation = 0
        self.number = 0
        self.wants_snapshot, self.snapshot = snapshot, None  # what it holds
        self.bitmaps = {}  # of those that may be trusted: name -> (granularity, ranges)
        self.carried = {}  # of the others: name -> everything
        self.in_use_seen = self.exact_seen = self.durable_seen = 0
        add_bitmap(self.path, "frozen", 4 * KiB)
        qemu_io(self.path, "write -z 1M 100k")
        run("qemu-img", "bitmap", "--disable", self.path, "frozen")
        self.carried["frozen"] = self.everything("frozen")
        self.new_bitmap("first", 4 * KiB)

    def everything(self, name):
        image = Qcow2File(self.path)
        return image.everything_of(image.bitmaps()[name])

    def by_qemu(self, *command):
        """QEMU may write bitmaps anew, elsewhere, but not change them."""
        run(*command, self.path, status=(0, 3) if "-r" in command else 0)
        self.see_carried()

    def see_carried(self):
        for name, before in self.carried.items():
            now = self.everything(name)
            same((now[0].flags, [bytes(d) for d in now[2]]),
                 (before[0].flags, [bytes(d) for d in before[2]]), f"{name}, by QEMU")
            self.carried[name] = now

    def new_bitmap(self, name, granularity):
        add_bitmap(self.path, name, granularity)
        self.bitmaps[name] = (granularity, [])
        self.see_carried()

    def once(self):
        """Returns what was done, for the log."""
        rng = self.rng
        self.number += 1
        run = rng.choice((1, 3, 8, 40, 130, 500))
        how = rng.choice(("writes", "writes", "writes", "idle", "stop", "start"))
        arguments, options = [], {}
        asked_for = None
        if rng.random() < 0.4 and "B" not in self.bitmaps and "B" not in self.carried:
            asked_for = "B"
            arguments += ["bitmap=B", "bitmap-granularity=8K"]
        self.durable = rng.random() < 0.7
        arguments += [f"bitmap-sync={'durable' if self.durable else 'on-close'}"]
        if rng.random() < 0.5:
            options["below"] = ("delay",)
            arguments += [f"wdelay={rng.choice((1, 3))}ms"]
        seconds = rng.uniform(0, 0.05) if rng.random() < 0.4 else rng.uniform(0.02, 0.3)
        said = f"kill {self.number}: {how}, runs of {run}, {seconds * 1000:.0f} ms, {arguments}"
        storm = Storm(self.size, run, rng.choice((0.1, 0.02, 0.002)), self.generation)
        server = Nbdkit(self.t, self.path, *arguments, idle_ms=25, **options)
        try:
            if how == "start":
                # The first client makes the bitmaps.
                with contextlib.suppress(nbd.Error):
                    thread = threading.Thread(target=self.connect, args=(server,), daemon=True)
                    thread.start()
                    time.sleep(rng.uniform(0, 0.03))
                    storm.killed = True
                    server.kill()
                    thread.join()
            else:
                h = server.connect()
                raw = b"".join(h.pread(MiB, at) for at in range(0, self.size, MiB))
                same(generations(raw) == self.held, True, "we read what QEMU has read")
                storm.start(server, rng)
                time.sleep(seconds)
                if how == "idle":
                    storm.pause.set()
                    time.sleep(rng.uniform(0.02, 0.1))
                    if rng.random() < 0.3:
                        storm.pause.clear()
                        time.sleep(rng.uniform(0, 0.03))
                elif how == "stop":
                    storm.stop = True
                    storm.end()
                    server.leave()
                    server.process.send_signal(signal.SIGTERM)
                    time.sleep(rng.uniform(0, 0.03))
                storm.killed = True
                server.kill()
                storm.stop = True
                storm.end()
        finally:
            storm.killed = storm.stop = True
            if server.process.returncode is None:
                server.kill()
        self.generation = storm.generation
        requests = storm.requests()
        said += f": {storm.answers} of {len(requests)} requests answered, {storm.flushed} flushed"
        try:
            self.verify(storm, asked_for)
        except Wrong as error:
            raise Wrong(f"{said}: {error}\n{server.said()}") from error
        return said

    def connect(self, server):
        with contextlib.suppress(nbd.Error):
            server.connect()

    def verify(self, storm, asked_for):
        # Before anybody else opens the file.
        image = Qcow2File(self.path)
        stored = image.bitmaps()
        same(image.incompatible, 0, "incompatible features")
        same(image.autoclear, 1, "autoclear bits")
        requests = storm.requests()
        if asked_for and asked_for in stored:
            self.bitmaps[asked_for] = (8 * KiB, [])
        same(set(stored), set(self.bitmaps) | set(self.carried), "names of bitmaps")
        # QEMU reads them too, and all is where it should be.
        leaks = check(self.path, leaks=True).get("leaks", 0)
        # We may have tried, and none may have had a change before.
        certain = ranges_of([r for r in requests if r.answered is not None])
        possible = ranges_of(requests)
        for name, (granularity, ranges) in list(self.bitmaps.items()):
            if stored[name].flags & IN_USE:
                expect(not self.durable, f"bitmap {name} is in_use, but had to survive")
                self.in_use_seen += 1
                del self.bitmaps[name]
                self.carried[name] = self.everything(name)
                continue
            same(stored[name].flags, AUTO, f"flags of {name}")
            found = image.dirty(stored[name])
            least = granules(join(ranges + certain), granularity, self.size)
            most = granules(join(ranges + possible), granularity, self.size)
            expect(covers(found, least), f"bitmap {name} lacks a change: {found}, {least}")
            if self.durable:
                # What is near to a change may be reported too, while the disk
                # is not idle: here that may be all of it.
                self.durable_seen += 1
            else:
                expect(covers(most, found), f"bitmap {name} has too much: {found}, {most}")
                self.exact_seen += 1
            self.bitmaps[name] = (granularity, found)
        for name, before in self.carried.items():
            same(self.everything(name), before, f"all of {name}, which nobody may touch")

        raw = self.t.path("after.raw")
        run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", self.path, raw)
        with open(raw, "rb") as f:
            found = generations(f.read())
        may_hold = storm.candidates(self.held)
        for sector, generation in enumerate(found):
            allowed = may_hold.get(sector)
            if generation != self.held[sector] if allowed is None else generation not in allowed:
                raise Wrong(f"sector {sector} holds generation {generation}, and held "
                            f"{self.held[sector]}; allowed are {sorted(allowed or [])}; "
                            f"{storm.flushed} flushed; requests there: " + ", ".join(
                                f"{r.kind} {r.generation} {r.answered} {r.flags}"
                                for r in requests if r.first <= sector < r.first + r.count))
        self.held = found

        if leaks and not self.wants_snapshot and self.rng.random() < 0.4:
            self.by_qemu("qemu-img", "check", "-q", "-r", "leaks")
            check(self.path)
        for name in [name for name in self.carried if name != "frozen"]:
            if self.rng.random() < 0.6:
                del self.carried[name]
                run("qemu-img", "bitmap", "--remove", self.path, name)
                self.see_carried()
        if not self.bitmaps:
            self.new_bitmap(f"b{self.number}", 1 << self.rng.randrange(9, 20))
        if self.wants_snapshot and self.rng.random() < 0.4:
            if self.snapshot:
                self.snapshot_is_there()
                self.by_qemu("qemu-img", "snapshot", "-d", "s")
            self.by_qemu("qemu-img", "snapshot", "-c", "s")
            self.snapshot = list(self.held)

    def snapshot_is_there(self):
        raw = self.t.path("snapshot.raw")
        run("qemu-img", "convert", "-f", "qcow2", "-l", "snapshot.name=s", "-O", "raw", self.path, raw)
        with open(raw, "rb") as f:
            same(generations(f.read()) == self.snapshot, True, "the snapshot holds what it held")

    def finish(self):
        """After a clean stop there are no leaks but those of before, and the
        bitmaps are exact."""
        model = Model(self.size)
        with open(self.t.path("after.raw"), "rb") as f:
            model.write(0, f.read())
        if not self.wants_snapshot:
            self.by_qemu("qemu-img", "check", "-q", "-r", "leaks")
        leaks = check(self.path, leaks=True).get("leaks", 0)
        ops = Operations(self.rng, self.size, self.cluster).take(40)
        with Nbdkit(self.t, self.path) as server:
            apply_all(ops, server.connect(), model, self.cluster)
        same(check(self.path, leaks=leaks > 0).get("leaks", 0), leaks, "leaks after a clean stop")
        compare(self.path, model.to_raw(self.t.path("disk.raw")))
        if self.snapshot:
            self.snapshot_is_there()
        for name, (granularity, ranges) in self.bitmaps.items():
            expect_bitmap(self.t, self.path, name,
                          granules(join(ranges + touched(ops)), granularity, self.size), "at the end")


@cases({
    "512": (3 * MiB, 512, "refcount_bits=1"),
    "4K": (12 * MiB, 4 * KiB, "refcount_bits=16"),
    "4K-snapshot": (12 * MiB, 4 * KiB, "refcount_bits=8", True),
    "64K": (24 * MiB, 64 * KiB, "refcount_bits=16"),
    "64K-lazy-snapshot": (24 * MiB, 64 * KiB, "lazy_refcounts=on,refcount_bits=64", True),
})
def survives(t, *image):
    image = Survivor(t, *image)
    for _ in range(KILLS):
        said = image.once()
        if os.environ.get("VERBOSE"):
            print("   ", said, flush=True)
    image.finish()
    print(f"    {KILLS} kills: bitmaps durable {image.durable_seen}; with on-close in use "
          f"{image.in_use_seen}, exact {image.exact_seen}")


main(case_seconds=20 * KILLS)
