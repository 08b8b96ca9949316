# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# A disk in use: four clients are connected to it, and what it holds at each moment is
# known, so that a copy of it (a backup, a snapshot, what kill -9 leaves) can be judged by
# what it shows, and by nothing that the server says.
#
#   the writer   counts. Its change number n is drawn from n and the seed alone: where, how
#                long, and the data, which have n in each 16 bytes; some are zeros. It makes
#                them one after the other, and flushes now and then. So the part of the disk
#                that is the writer's had just one content after each n: that is the moment n.
#                A copy proves its instant: it must be the content of one moment, and the
#                moment lies between the last change that was answered before the instant was
#                asked for, and the last one that was sent when the answer was there.
#   fio          fills one of its two parts after the other, and verifies it. The one that it
#                has filled last does not change until the other one is full: in each copy,
#                and after each kill, it verifies.
#   the stirrer  writes, zeros and trims in a part of its own.
#   the idler    is connected.
#
# After a kill the writer's part has all that was flushed, and of each later change each
# sector, or not. What is found is where the count goes on from.

import contextlib
import glob
import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
import time

from interop import AUTO, GiB, KiB, MiB, SECTOR, Nbdkit, Qcow2File, Wrong
from interop import check, create, expect, nbd, payload, run, same

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../e2e"))
from qmp import Qmp  # noqa: E402

SECONDS = float(os.environ.get("IN_USE_SECONDS", "0"))  # of one case; 0: it is short
KINDS = {"64K": ("cluster_size=64k",), "4K": ("cluster_size=4k",),
         "subclusters": ("extended_l2=on",)}
if not SECONDS:
    KINDS = {"64K": KINDS["64K"]}
GONE = (EOFError, OSError, nbd.Error)  # what one hears of a server that was killed


def rounds(count):
    """So many, or until SECONDS are over."""
    deadline = time.monotonic() + SECONDS
    number = 0
    while time.monotonic() < deadline if SECONDS else number < count:
        number += 1
        yield number


class Deck:
    """Draws from cards, each of which comes before any comes again."""

    def __init__(self, rng, cards):
        self.rng, self.cards, self.left = rng, cards, []

    def draw(self):
        if not self.left:
            self.left = self.rng.sample(self.cards, len(self.cards))
        return self.left.pop()


class Sequence:
    """All changes that the writer makes, to the bytes from `begin` on."""

    LENGTHS = (SECTOR, 4 * KiB, 4 * KiB, 4 * KiB, 9 * SECTOR, 16 * KiB, 64 * KiB, 150 * KiB)

    def __init__(self, rng, begin, length):
        self.begin, self.length = begin, length
        self.blocks, at = [], begin
        while at < begin + length:
            size = min(rng.choice(self.LENGTHS), begin + length - at)
            self.blocks.append((at, size))
            at += size
        rng.shuffle(self.blocks)
        self.key = rng.getrandbits(64) | 1

    def change(self, n):
        """(offset, length, data), no data for zeros. They stay in some blocks for a while, so
        that in between two backups not everything changes."""
        drawn = n * self.key % (1 << 64) >> 32
        offset, length = self.blocks[(n // 1024 * 32 + drawn % 64) % len(self.blocks)]
        return offset, length, None if (drawn >> 8) % 8 == 0 else payload(offset, length, n)


class History:
    """What the writer's part holds at each moment from `first` on."""

    def __init__(self, sequence, first, content):
        self.sequence, self.first, self.content = sequence, first, bytes(content)
        self._now, self._state = first, bytearray(content)

    def at(self, moment):
        """(Valid until the next call.)"""
        expect(moment >= self.first, f"moment {moment} is before {self.first}")
        if moment < self._now:
            self._now, self._state = self.first, bytearray(self.content)
        while self._now < moment:
            self._now += 1
            offset, length, data = self.sequence.change(self._now)
            place = offset - self.sequence.begin
            self._state[place:place + length] = data or bytes(length)
        return self._state

    def moment(self, found, low, high, what):
        """Which of low..high it is that this shows."""
        low = max(low, self.first)
        for moment in range(low, high + 1):
            if self.at(moment) == found:
                return moment
        raise Wrong(f"{what}: it shows no moment of {low}..{high}; "
                    f"{self._nearest(found, low, high)}")

    def _nearest(self, found, low, high):
        numbers = {int.from_bytes(found[at + 8:at + 16], "big")
                   for at in range(0, len(found), SECTOR)} - {0}
        newest = max(numbers, default=0)
        state = self.at(min(max(newest, low), high))
        wrong = [at for at in range(0, len(found), SECTOR)
                 if found[at:at + SECTOR] != state[at:at + SECTOR]]
        if not wrong:
            return "but it shows another one"
        at = wrong[0]
        return (f"the newest change in it is {newest}; then {len(wrong)} sectors are wrong, the "
                f"first at {self.sequence.begin + at:#x}: {bytes(found[at:at + 16]).hex()}, "
                f"expected {bytes(state[at:at + 16]).hex()}")

    def after_crash(self, found, flushed, sent):
        """This is what a crash may leave."""
        allowed, flushed = {}, max(flushed, self.first)
        for n in range(flushed + 1, sent + 1):
            offset, length, data = self.sequence.change(n)
            place = offset - self.sequence.begin
            for at in range(0, length, SECTOR):
                allowed.setdefault(place + at, set()).add(
                    data[at:at + SECTOR] if data else bytes(SECTOR))
        state = self.at(flushed)
        rest = bytearray(found)
        for at, contents in allowed.items():
            was = bytes(state[at:at + SECTOR])
            expect(found[at:at + SECTOR] in contents | {was},
                   f"after the kill: {self.sequence.begin + at:#x} holds what was never there")
            rest[at:at + SECTOR] = was
        expect(rest == state, "after the kill, what was flushed is not there:",
               self._nearest(rest, flushed, flushed))


class Client(threading.Thread):
    """Goes on step by step, until it is told to stop, or the server has gone."""

    def __init__(self, server, disk, name):
        super().__init__(daemon=True)
        self.h = nbd.NBD()
        self.h.connect_unix(server.socket)
        self.name, self.disk = name, disk
        self.rng = random.Random(disk.t.rng.random())
        self.error = None
        self._wants_end, self._pause = False, False
        self._paused, self._go_on = threading.Event(), threading.Event()

    def run(self):
        try:
            while not self._wants_end:
                if self._pause:
                    self._paused.set()
                    self._go_on.wait()
                else:
                    self.step()
        except nbd.Error as error:
            self.error = error
        self._paused.set()

    def pause(self):
        """It has nothing under way when this returns."""
        self._paused.clear()
        self._go_on.clear()
        self._pause = True
        while self.is_alive() and not self._paused.wait(0.05):
            pass

    def go_on(self):
        self._pause = False
        self._go_on.set()

    def end(self):
        self._wants_end = True
        self.go_on()
        self.join(timeout=60)
        expect(not self.is_alive(), f"{self.name} hangs")
        with contextlib.suppress(nbd.Error):
            self.h.shutdown()


class Writer(Client):
    def __init__(self, server, disk):
        super().__init__(server, disk, "the writer")
        self.sent = self.answered = self.flushed = disk.history.first

    def step(self):
        offset, length, data = self.disk.sequence.change(self.sent + 1)
        entry = self.disk.log.send(offset, length)
        self.disk.log_of_writer.append(entry)
        self.sent += 1
        if data:
            self.h.pwrite(data, offset)
        else:
            self.h.zero(length, offset, nbd.CMD_FLAG_NO_HOLE if self.sent % 2 else 0)
        entry[2] = True
        self.answered = self.sent
        if self.rng.random() < 0.03:
            self.h.flush()
            self.flushed = self.answered
        time.sleep(0.0003)  # the pace of a guest, and time for the others


class Stirrer(Client):
    def __init__(self, server, disk, begin, length):
        super().__init__(server, disk, "the stirrer")
        self.begin, self.length = begin, length

    def step(self):
        kind = self.rng.choice(("write", "write", "zero", "trim", "flush"))
        length = self.rng.choice((SECTOR, 4 * KiB, 100 * KiB, MiB))
        offset = self.begin + self.rng.randrange(0, self.length - length, SECTOR)
        if kind == "flush":
            self.h.flush()
        elif kind == "trim":  # it may do nothing
            self.h.trim(length, offset)
        else:
            entry = self.disk.log.send(offset, length)
            if kind == "write":
                self.h.pwrite(self.rng.randbytes(length), offset)
            else:
                self.h.zero(length, offset)
            entry[2] = True
        time.sleep(0.003)


class Fio(threading.Thread):
    """Of the disk: `full`, number of the part -> seed of what it was filled with, and verified."""

    name = "fio"

    def __init__(self, server, disk, begin, length):
        super().__init__(daemon=True)
        self.server, self.disk, self.begin, self.length = server, disk, begin, length
        self.uri = f"nbd+unix:///?socket={server.socket}"
        self.error = None
        self._wants_end, self._process = False, None
        self._lock = threading.Lock()

    def run(self):
        while not self._wants_end:
            part = self.disk.fio_turn % 2
            self.disk.fio_turn += 1
            self.disk.full.pop(part, None)
            begin = self.begin + part * self.length
            entry = self.disk.log.send(begin, self.length)
            with self._lock:
                if self._wants_end:
                    return
                self._process = subprocess.Popen(
                    self.job(part, self.disk.fio_turn, "--ioengine=nbd", f"--uri={self.uri}",
                             "--iodepth=16", "--rate_iops=600", "--end_fsync=1", "--do_verify=1"),
                    stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                    cwd=self.disk.t.folder)
            said = self._process.communicate()[0]
            if self._process.returncode != 0 or b"err=" in said.replace(b"err= 0", b""):
                self.error = None if self._wants_end else said.decode(errors="replace")
                return
            entry[2] = True
            self.disk.full[part] = self.disk.fio_turn

    def job(self, part, seed, *more):
        return ["fio", "--name=job", "--thread", "--rw=randwrite", "--bs=4k",
                f"--size={self.length}", f"--offset={self.begin + part * self.length}",
                f"--randseed={seed}",
                "--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0", *more]

    def verify(self, raw, part, seed, what):
        """The part of this raw file."""
        said = run(*self.job(part, seed, "--ioengine=psync", f"--filename={raw}", "--verify_only"),
                   cwd=self.disk.t.folder)
        expect("err= 0" in said, f"{what}: fio does not find what it has written:", said)

    def end(self):
        """What is under way is completed, if there is a server. (If not fio waits for it
        for ever.)"""
        number = signal.SIGTERM if self.server.process.poll() is None else signal.SIGKILL
        with self._lock:
            self._wants_end = True
            if self._process is not None and self._process.poll() is None:
                self._process.send_signal(number)
        self.join(timeout=60)
        expect(not self.is_alive(), "fio hangs")


class Log:
    """What was sent to be changed, in order: [begin, end, whether it was answered]."""

    def __init__(self):
        self.entries = []

    def send(self, offset, length):
        self.entries.append([offset, offset + length, False])
        return self.entries[-1]

    def answered(self, first, end=None):
        """Ranges."""
        return [(begin, stop) for begin, stop, answered in self.entries[first:end] if answered]


class DiskInUse:
    """`SIZE` bytes: the writer's part, two of fio, the stirrer's, and the rest, where nothing
    is ever written."""

    PART = 4 * MiB
    SIZE = 24 * MiB

    def __init__(self, t, options="", arguments=()):
        self.t, self.arguments = t, list(arguments)
        self.path, self.control = t.path("disk.qcow2"), t.path("control")
        create(self.path, self.SIZE, options)
        self.sequence = Sequence(t.rng, 0, self.PART)
        self.history = History(self.sequence, 0, bytes(self.PART))
        self.log, self.log_of_writer = Log(), []  # change n is number n - 1 there
        self.fio_turn, self.full = 0, {}
        self.server = None
        self.kills = self.clients_lost = 0

    # --- In use.

    def start(self):
        options = ("-t", "1") if self.t.rng.random() < 0.5 else ()
        self.server = Nbdkit(self.t, self.path, f"qcow2-control={self.control}",
                             f"qcow2-scratch={self.t.folder}", *self.arguments, options=options,
                             idle_ms=self.t.rng.choice((30, 60000)))
        self.writer = Writer(self.server, self)
        self.stirrer = Stirrer(self.server, self, 3 * self.PART, self.PART)
        self.fio = Fio(self.server, self, self.PART, self.PART)
        self.idler = self.server.connect()
        same(self.idler.pread(self.PART, 0) == self.history.content, True,
             "what the server reads is what QEMU has read in the file")
        self.begin_clients()

    def begin_clients(self):
        for client in (self.writer, self.stirrer, self.fio):
            client.start()

    def qmp(self):
        return Qmp(self.control, timeout=100)

    def uri(self, name):
        return f"nbd+unix:///{name}?socket={self.server.socket}"

    def leave_nothing(self):
        """At the end, however that came. (Servers are ended by main.)"""
        for number in processes_of(self.t.folder):
            if number != self.server.process.pid:
                with contextlib.suppress(OSError):
                    os.kill(number, signal.SIGKILL)

    def check_clients(self):
        for client in (self.writer, self.stirrer, self.fio):
            if client.error:
                raise Wrong(f"{client.name}: {client.error}\n{self.server.said()}")

    @contextlib.contextmanager
    def quiet(self):
        """Nobody writes meanwhile."""
        self.stop_fio()
        with self.resting():
            yield
        self.start_fio()

    def go_on(self, changes):
        """Until the writer has made so many."""
        goal = self.writer.answered + changes
        while self.writer.answered < goal and self.writer.is_alive():
            time.sleep(0.002)

    @contextlib.contextmanager
    def resting(self):
        """Whoever judges has the machine for himself. (A server may have been killed before.)"""
        self.writer.pause()
        self.stirrer.pause()
        yield
        self.writer.go_on()
        self.stirrer.go_on()

    def stop_fio(self):
        self.fio.end()

    def start_fio(self):
        self.fio = Fio(self.server, self, self.PART, self.PART)
        self.fio.start()

    # --- What a copy shows.

    def instant(self):
        """Call it, then ask for the copy, then call what it returns: then the Instant is that
        of the copy."""
        low, full, history = self.writer.answered, dict(self.full), self.history

        def is_over():
            return Instant(history, low, self.writer.sent,
                           {part: seed for part, seed in full.items()
                            if self.full.get(part) == seed})
        return is_over

    def judge(self, raw, instant, what, with_fio=True):
        """A raw copy of the disk shows this instant. Its moment."""
        with open(raw, "rb") as file:
            moment = instant.history.moment(file.read(self.PART), instant.low, instant.high, what)
        if with_fio:
            for part, seed in instant.full.items():
                self.fio.verify(raw, part, seed, what)
        return moment

    # --- The end of a server.

    def kill(self):
        self.server.process.kill()
        self.after_kill()

    def died_of_lost_client(self, seconds=0):
        """Whether the server has ended by the assertion that nbdkit before 1.34 has for clients
        that vanish. `seconds`: so long it may take to end."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.server.process.wait(timeout=seconds)
        if self.server.process.poll() is None:
            return False
        said = self.server.said()
        same(self.server.process.returncode, -signal.SIGABRT, f"how the server ended; {said}")
        expect("nbdkit: " in said and "Assertion" in said and "qcow2bitmap" not in
               said[said.rindex("Assertion") - 200:], "an assertion that is not nbdkit's:", said)
        return True

    def end_clients(self):
        self.fio.end()
        self.writer.end()
        self.stirrer.end()

    def after_kill(self, other_histories=lambda: ()):
        """The file as it was left is right, and the count goes on from there. It may have come
        from one of these histories, too."""
        self.server.kill()
        self.end_clients()
        self.kills += 1
        image = Qcow2File(self.path)
        stored = image.bitmaps()
        same(image.incompatible & 3, 0, "dirty and corrupt, in the features")
        expect(image.autoclear or not stored, "all bitmaps are out of date")
        for name, bitmap in stored.items():
            same(bitmap.flags & ~AUTO, 0, f"flags of bitmap {name}")
        check(self.path, leaks=True)
        self.judge_left(other_histories)

    def judge_left(self, other_histories=lambda: ()):
        raw = self.t.path("left.raw")
        run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", self.path, raw)
        with open(raw, "rb") as file:
            found = file.read(self.PART)
        self._judge_content(found, other_histories)
        for part, seed in self.full.items():
            self.fio.verify(raw, part, seed, "after the kill")
        self.history = History(self.sequence, self.writer.sent, found)

    def _judge_content(self, found, other_histories):
        try:
            self.history.after_crash(found, self.writer.flushed, self.writer.sent)
            return
        except Wrong:
            for history in other_histories():
                with contextlib.suppress(Wrong):
                    history.after_crash(found, self.writer.flushed, self.writer.sent)
                    return
            raise

    def stop(self):
        """Cleanly."""
        self.end_clients()
        self.check_clients()
        self.writer.flushed = self.writer.sent
        self.server.stop()
        self.judge_left()


class Instant:
    """Of a copy: it shows one moment of low..high; these parts of fio were full."""

    def __init__(self, history, low, high, full):
        self.history, self.low, self.high, self.full = history, low, high, full


def digest(path):
    sha = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            sha.update(piece)
    return sha.hexdigest()


def processes_of(folder):
    """Those whose command line has this folder: number -> command line."""
    found = {}
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            with open(path, "rb") as file:
                words = file.read().replace(b"\0", b" ").decode(errors="replace")
            if folder in words:
                found[int(path.split("/")[2])] = words
    return found


def wait_for(is_so, what):
    deadline = time.monotonic() + 60
    while not is_so():
        expect(time.monotonic() < deadline, "waited too long for", what)
        time.sleep(0.01)
