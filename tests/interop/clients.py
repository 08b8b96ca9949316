# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# Who uses a disk in use (disk_in_use.py): the writer, the stirrer and fio.

import contextlib
import random
import signal
import subprocess
import threading
import time

from interop import PATIENCE, KiB, MiB, SECTOR, expect, nbd, run


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
        self.join(timeout=PATIENCE)
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
        self.join(timeout=PATIENCE)
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
