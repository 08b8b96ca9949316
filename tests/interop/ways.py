# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# The ways to make backups of a disk in use (disk_in_use.py) that the man page has, each with
# a chain of its own: by qcow2bitmap, by qemu-img convert -B, and by nbdcopy of the qcow2
# export. Each may be interrupted at any time; what has its name is judged by what it shows.

import contextlib
import os
import random
import signal
import subprocess
import sys
import time

from disk_in_use import GONE, digest
from interop import Wrong, check, expect, info, run, same
from qmp import Refused

TOOL = [sys.executable, "-IB", os.path.join(os.environ["top_srcdir"], "tools")]
PATIENCE = 400  # seconds: a busy machine takes ten times what an idle one takes


class Interrupted(Exception):
    """By us."""


class Way:
    """One way to make backups, with a chain of its own."""

    def __init__(self, disk, name):
        self.disk, self.rng, self.name = disk, random.Random(disk.t.rng.random()), name
        self.folder = disk.t.path(name)
        os.mkdir(self.folder)
        self.chain = []  # paths, that of the full one first
        self.digests = {}  # path -> of the disk in it
        self.usual = 0.3  # seconds that the program takes
        self.count = self.interrupted = self.lost = 0
        self.kinds = {"full": 0, "incremental": 0}
        self.made = self.error = None

    def attempt(self, interrupt, is_first):
        """In a thread of its own. `interrupt`: whether the program is; `is_first`: a full one."""
        self.made = self.error = None
        begun = time.monotonic()
        try:
            self.back_up(interrupt, is_first)
        except Interrupted:
            self.interrupted += 1
        except (Wrong, Refused, subprocess.TimeoutExpired, *GONE) as error:
            self.error = error
        else:
            self.usual = (self.usual + time.monotonic() - begun) / 2

    def run(self, command, interrupt, **more):
        """Or interrupts it, at any time."""
        with open(os.path.join(self.folder, "said.log"), "w+b") as said:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said,
                                       stderr=said, cwd=self.folder, **more)
            self.disk.programs.add(process)
            return self.watch(process, interrupt, said)

    def watch(self, process, interrupt, said):
        try:
            if interrupt:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=self.rng.uniform(0, self.usual))
                if process.poll() is None:
                    process.send_signal(self.rng.choice((signal.SIGKILL, signal.SIGTERM)))
                    process.wait(timeout=PATIENCE)
                raise Interrupted  # if it was too late, too: then right after its end
            self.observe(process)
            status = process.wait(timeout=PATIENCE)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            self.disk.programs.discard(process)
        said.seek(0)
        text = said.read().decode(errors="replace")
        expect(status == 0, f"{self.name}: exit status {status}: {process.args}: {text}")
        return text

    def observe(self, process):
        """While it is at work."""

    def take(self, path, instant, is_full, truth):
        """A backup has its name."""
        if is_full:
            self.forget(self.chain)
            self.chain = []
        self.chain.append(path)
        self.made = path, instant, truth
        self.count += 1
        self.kinds["full" if is_full else "incremental"] += 1

    def forget(self, paths):
        for path in paths:
            os.unlink(path)
            self.digests.pop(path, None)

    def judge(self):
        """What was made, as QEMU and we restore it."""
        path, instant, truth = self.made
        what = f"{os.path.basename(path)} by {self.name}, {len(self.chain)} in the chain"
        check(path)
        raw = self.disk.t.path("restored.raw")
        self.restore(path, raw)
        self.disk.judge(raw, instant, what, with_fio=self.rng.random() < 0.3)
        if truth:
            said = run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", path, truth)
            expect("identical" in said and "mismatch" not in said, what, said)
        self.digests[path] = digest(raw)

    def restore(self, path, raw):
        run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, raw)

    def judge_all(self):
        """None has changed since."""
        raw = self.disk.t.path("restored.raw")
        for path in self.chain:
            if path in self.digests:
                self.restore(path, raw)
                same(digest(raw), self.digests[path], f"{path} has changed since it was made")

    def end(self):
        """Nothing is left over that needs a server."""


class ByHand(Way):
    """As "By hand" and "As a stream" in the man page: begin, copy, rename, end."""

    def __init__(self, disk, name):
        super().__init__(disk, name)
        self.number, self.open = 0, set()
        with disk.qmp() as qmp:
            qmp.do("block-dirty-bitmap-add", {"node": "disk", "name": name, "persistent": True})

    def back_up(self, interrupt, is_first):
        self.number += 1
        id_ = f"{self.name}-{self.number}"
        path = os.path.join(self.folder, f"{self.number:04}.qcow2")
        is_full = is_first or not self.chain
        words = {"id": id_, "bitmap": self.name, "mode": "full" if is_full else "incremental"}
        if not is_full:
            words["backing"] = {"file": os.path.basename(self.chain[-1]), "format": "qcow2"}
            words["whole"] = self.rng.random() < 0.5
        with self.disk.qmp() as qmp:
            self.end_old(qmp)
            is_over = self.disk.instant()
            begun = qmp.do("backup-begin", words)
            instant = is_over()
            self.open.add(id_)
            truth = self.disk.has_begun()
            same(begun["mode"], words["mode"], "mode")
            try:
                self.run(self.command(id_, is_full, path), interrupt)
                if is_full or words["whole"]:
                    self.run(["qemu-img", "compare", "-f", "qcow2", "-F", "raw", path + ".partial",
                              self.disk.uri(f"backup/{id_}")], interrupt)
            except Interrupted:
                if self.rng.random() < 0.5:  # or it is left to be ended by the next one
                    self.end_old(qmp)
                raise
            os.rename(path + ".partial", path)
            self.take(path, instant, is_full, truth)
            qmp.do("backup-end", {"id": id_, "success": True})
            self.open.discard(id_)

    def end_old(self, qmp):
        for backup in qmp.do("query-backups"):
            if backup["id"] in self.open:
                qmp.do("backup-end", {"id": backup["id"], "success": False})
        self.open.clear()


class ByQemuImg(ByHand):
    def command(self, id_, is_full, path):
        words = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2",
                 *(["-c"] if self.rng.random() < 0.3 else [])]
        if is_full:
            return [*words, self.disk.uri(f"backup/{id_}"), path + ".partial"]
        return [*words, "-B", os.path.basename(self.chain[-1]), "-F", "qcow2",
                self.disk.uri(f"backup/{id_}/dirty"), path + ".partial"]


class ByNbdcopy(ByHand):
    def command(self, id_, is_full, path):
        name = f"backup/{id_}.qcow2" if is_full else f"backup/{id_}/dirty.qcow2"
        return ["nbdcopy", self.disk.uri(name), path + ".partial"]


class ByTool(Way):
    def __init__(self, disk, name):
        super().__init__(disk, name)
        self.known = set()

    def back_up(self, interrupt, is_first):
        is_full = is_first or not self.chain
        words = [word for word, share in (("--verify", 0.3), ("--compress", 0.3))
                 if self.rng.random() < share]
        if is_full and self.chain:
            words.append("--full")
        self.seen = None
        with self.disk.qmp() as qmp:  # an earlier run that was interrupted may have left one
            self.old = {backup["id"] for backup in qmp.do("query-backups")}
        self.is_over = self.disk.instant()
        try:
            self.run([*TOOL, "-s", self.disk.control, "backup", self.folder, *words], interrupt)
        finally:
            self.see(None)
            self.find(is_full)
        expect(self.made, "the program has ended well, and there is no backup")

    def observe(self, process):
        """When the backup is there on the server."""
        with contextlib.suppress(*GONE), self.disk.qmp() as qmp:
            while process.poll() is None and not self.seen:
                is_over = self.disk.instant()
                ids = {backup["id"] for backup in qmp.do("query-backups")} - self.old
                if any(id_[:8].isdigit() for id_ in ids):
                    self.see(self.disk.has_begun())
                else:
                    self.is_over = is_over
                    time.sleep(0.002)

    def see(self, truth):
        self.seen = self.seen or (self.is_over(), truth)

    def find(self, is_full):
        """What has its name, also if the program was interrupted after that."""
        new = {os.path.join(self.folder, name) for name in os.listdir(self.folder)
               if name.endswith(".qcow2")} - self.known
        expect(len(new) <= 1, new)
        for path in new:
            self.known.add(path)
            backing = info(path).get("backing-filename")
            expect(is_full or backing, f"{path} is a full one: "
                   f"{open(os.path.join(self.folder, 'said.log')).read()}")
            self.take(path, self.seen[0], backing is None, self.seen[1])

    def forget(self, paths):
        """With a chain begun anew: its only backup stays."""
        run(*TOOL, "prune", "--keep", "1", self.folder)
        for path in paths:
            self.digests.pop(path, None)
            expect(not os.path.exists(path), f"{path} was to be removed")
        self.known -= set(paths)

    def restore(self, path, raw):
        run(*TOOL, "restore", self.folder, raw, "--format", "raw", "--force", "--at",
            os.path.basename(path)[:-len(".qcow2")])

    def prune(self):
        """The oldest is folded into the next."""
        run(*TOOL, "prune", "--keep", str(len(self.chain) - 1), self.folder)
        self.known.discard(self.chain[0])
        self.digests.pop(self.chain.pop(0), None)

    def end(self):
        said = run(*TOOL, "verify", self.folder)
        expect("all sound" in said, said)
        same([name for name in os.listdir(self.folder) if name.endswith(".partial")], [], "left")
