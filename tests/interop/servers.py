# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# Servers of one image, over a unix socket. They end with us; if we are killed, driver.sh
# kills them.

import os
import signal
import subprocess
import time

from judging import Limits, Wrong, expect
from programs import check, environment_of
from storage_daemon import Export

# All that run.
children = set()
_names = iter(range(1 << 30))

# The lengths of files when our server was last started on them.
_lengths = {}


def kill_children():
    for child in list(children):
        child.kill()


class Server(Export):
    """A server on a unix socket: nbdkit or qemu-nbd. Its export has no name."""

    def __init__(self, program, folder, make_command):
        number = next(_names)
        super().__init__(os.path.join(folder, f"{number}.sock"))
        self.program = program
        self.pid_file = os.path.join(folder, f"{number}.pid")
        self.log = os.path.join(folder, f"{number}.log")
        self.command = [str(w) for w in make_command(self.socket, self.pid_file)]
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=environment_of(program))
        children.add(self.process)
        for _ in range(2000):
            if os.path.exists(self.pid_file) and os.path.getsize(self.pid_file) > 0:
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.005)
        self.kill()
        raise Wrong(f"{program} did not start: {' '.join(self.command)}\n{self.said()}")

    def said(self):
        with open(self.log, errors="replace") as log:
            return log.read()

    def stop(self, statuses=(0,)):
        """SIGTERM, all clients gone. Returns what the server has said."""
        self.leave()
        self.process.send_signal(signal.SIGTERM)
        return self.wait(statuses)

    def wait(self, statuses=(0,)):
        try:
            status = self.process.wait(timeout=Limits.case_seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Wrong(f"{self.program} does not end: {' '.join(self.command)}\n{self.said()}")
        children.discard(self.process)
        expect(status in statuses, f"{self.program}: exit status {status}\n{self.said()}")
        return self.said()

    def kill(self):
        """kill -9."""
        self.process.kill()
        self.process.wait()
        children.discard(self.process)
        self.handles = []

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if self.process.returncode is not None:
            return
        if kind is not None:
            self.kill()
            print(f"-- {self.program} had said:\n{self.said()[-4000:]}")
        else:
            self.stop()


class Nbdkit(Server):
    """nbdkit with our filter over a file. `idle_ms`: after so many milliseconds
    without a change the file is as a clean stop leaves it; "asked": when
    ask_to_settle() says so, and never by itself. `below`: filters between us and
    the file."""

    def __init__(self, t, path, *arguments, options=(), below=(), idle_ms=60000):
        program = ["nbdkit", "-f"]
        if idle_ms == "asked":
            program += ["-D", "qcow2bitmap.idle_ms=40",
                        "-D", f"qcow2bitmap.settle_signal={int(signal.SIGUSR1)}"]
        elif idle_ms is not None:
            program += ["-D", f"qcow2bitmap.idle_ms={idle_ms}"]
        _lengths[path] = os.path.getsize(path)
        super().__init__("nbdkit", t.folder, lambda socket, pid: [
            *program, "-U", socket, "-P", pid, *options, f"--filter={os.environ['FILTER']}",
            *(f"--filter={name}" for name in below), "file", path, *arguments])

    def ask_to_settle(self):
        """Not before there was a client that may write."""
        self.process.send_signal(signal.SIGUSR1)


class QemuNbd(Server):
    def __init__(self, t, path, bitmaps=(), read_only=False, format="qcow2", options=()):
        words = ["-r"] if read_only else ["--discard=unmap"]
        words += [word for name in bitmaps for word in ("-B", name)]
        super().__init__("qemu-nbd", t.folder, lambda socket, pid: [
            "qemu-nbd", "-t", "-e", "8", *(["-f", format] if format else []), "-k", socket, f"--pid-file={pid}", *words,
            *options, path])


def check_cut(path):
    """After a clean stop: sound, no leaks, and the file ends where what is used
    ends, unless it was as long before."""
    end = check(path)["image-end-offset"]
    length = os.path.getsize(path)
    expect(length <= max(end, _lengths[path]),
           f"{path} has {length} bytes, had {_lengths[path]}, used are {end}")
