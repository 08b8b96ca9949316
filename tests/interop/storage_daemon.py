# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# One QEMU for many steps. A test that lets QEMU look at an image after each step,
# by a program for each look, spends most of its time starting programs. Here one
# qemu-storage-daemon opens the image, does what is asked, and closes it again:
# the same code of QEMU as in qemu-img and qemu-nbd, at a tenth of the price. In
# between it has nothing open, so that each step is as good as a new process.

import contextlib
import itertools
import json
import os
import shutil
import subprocess
import tempfile

import nbd


class Refused(Exception):
    """QEMU does not do it, and says why."""


class StorageDaemon:
    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="qcow2bitmap-qemu.")
        self.socket = os.path.join(self.folder, "nbd.sock")
        self.names = (f"n{number}" for number in itertools.count())
        self.events = []
        with open(os.path.join(self.folder, "log"), "wb") as log:
            self.process = subprocess.Popen(
                ["qemu-storage-daemon", "--chardev", "stdio,id=us", "--monitor", "chardev=us"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        self._read()  # its greeting
        self.do("qmp_capabilities")
        self.do("nbd-server-start", {"addr": {"type": "unix", "data": {"path": self.socket}}})

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def do(self, command, arguments=None):
        words = {"execute": command, **({"arguments": arguments} if arguments else {})}
        self.process.stdin.write(json.dumps(words).encode() + b"\n")
        self.process.stdin.flush()
        while True:
            said = self._read()
            if "event" in said:
                self.events.append(said)
            elif "error" in said:
                raise Refused(f"{command}: {said['error']['desc']}")
            else:
                return said["return"]

    def wait_for(self, event, id_):
        """Until QEMU has told of this event, with this "id"."""
        while not any(e["event"] == event and e["data"].get("id") == id_ for e in self.events):
            self.events = [self._read()]

    def _read(self):
        line = self.process.stdout.readline()
        if not line:
            with open(os.path.join(self.folder, "log"), errors="replace") as log:
                raise Refused(f"qemu-storage-daemon has ended: {log.read()}")
        return json.loads(line)

    @contextlib.contextmanager
    def opened(self, path, read_only=False, shared=False):
        """The name of the node that is this image. `shared`: without its locks."""
        node = next(self.names)
        modes = {"read-only": read_only, "force-share": shared, "discard": "unmap"}
        self.do("blockdev-add", {"driver": "qcow2", "node-name": node, **modes,
                                 "file": {"driver": "file", "filename": path, **modes}})
        yield node
        self.do("blockdev-del", {"node-name": node})

    def info(self, path):
        """As qemu-img info --output=json."""
        with self.opened(path, read_only=True, shared=True) as node:
            return next(found["image"] for found in self.do("query-named-block-nodes")
                        if found.get("node-name") == node)

    def add_bitmap(self, path, name, granularity, enabled):
        with self.opened(path) as node:
            self.do("block-dirty-bitmap-add",
                    {"node": node, "name": name, "persistent": True, "disabled": not enabled,
                     **({"granularity": granularity} if granularity else {})})

    @contextlib.contextmanager
    def served(self, path, bitmaps=(), read_only=False):
        """An Export of the image, as qemu-nbd [-r] -B BITMAP... serves it."""
        with self.opened(path, read_only) as node:
            self.do("block-export-add",
                    {"type": "nbd", "id": node, "node-name": node, "name": node,
                     "writable": not read_only, "bitmaps": list(bitmaps)})
            export = Export(self.socket, node)
            yield export
            export.leave()
            self.do("block-export-del", {"id": node, "mode": "hard"})
            self.wait_for("BLOCK_EXPORT_DELETED", node)


class Export:
    """What clients connect to, by whichever server."""

    def __init__(self, socket, name=""):
        self.socket, self.name, self.handles = socket, name, []

    def connect(self, *contexts):
        h = nbd.NBD()
        h.set_export_name(self.name)
        for context in contexts:
            h.add_meta_context(context)
        h.connect_unix(self.socket)
        self.handles.append(h)
        return h

    def leave(self):
        for h in self.handles:
            with contextlib.suppress(nbd.Error):
                h.shutdown()
        self.handles = []
