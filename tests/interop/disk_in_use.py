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
import signal
import subprocess
import sys
import time

from clients import Fio, Log, Stirrer, Writer
from interop import AUTO, PATIENCE, MiB, Nbdkit, Qcow2File, Wrong, check, create, expect, nbd, run, same
from moments import History, Instant, Sequence

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
        return Qmp(self.control, timeout=PATIENCE)

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


def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        expect(time.monotonic() < deadline, "waited too long for", what)
        time.sleep(0.01)
