# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# Servers with a control channel, and what is asked of them there: ours, and
# qemu-storage-daemon. What is one command for us may be several for QEMU.

import json
import os
import sys

from servers import RUN_SECONDS, MiB, Failed, Server, Us, Variant, run

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../e2e"))
from qmp import Qmp, Refused  # noqa: E402


class Monitor(Qmp):
    """do("query-status"). What is refused ends the row."""

    def __init__(self, path):
        super().__init__(path, timeout=RUN_SECONDS)

    def do(self, command, **arguments):
        try:
            return super().do(command, arguments)
        except (Refused, EOFError, OSError) as error:
            raise Failed(f"{command}: {error}") from None


class ControlledServer(Server):
    """With a monitor, from the first time that it is asked for."""

    def __init__(self, command, path, control):
        super().__init__(command, path)
        self.control, self._monitor = control, None

    @property
    def monitor(self):
        if not self._monitor:
            self.connect().shutdown()
            self._monitor = Monitor(self.control)
        return self._monitor

    def __exit__(self, *_):
        if self._monitor:
            self._monitor.close()
        super().__exit__(*_)
        if os.path.exists(self.control):
            os.unlink(self.control)


class Controlled(Us):
    """With scratch beside the image. scratch_max: bytes, or None for the default.
    environment: NAME=VALUE, of the server."""
    frozen = "backup/b"

    def __init__(self, name, title, filter, sync=None, scratch_max=None, environment=()):
        super().__init__(name, title, filter, sync, None)
        self.scratch_max, self.environment = scratch_max, environment

    def serve(self, image, sockets):
        path = os.path.join(sockets, f"{self.name}.sock")
        return ControlledServer(self.command(image, path), path, path + ".qmp")

    def command(self, image, path):
        words = ["env", *self.environment] * bool(self.environment) + super().command(image, path)
        words += ["qcow2-control=" + path + ".qmp", "qcow2-scratch=" + os.path.dirname(image)]
        return words + [f"qcow2-scratch-max={self.scratch_max}"] * (self.scratch_max is not None)

    def layered(self, _is_layered):
        return self

    def prepare(self, image, size):
        """What a backup needs that is made before."""

    def begin(self, server, bitmaps=(), **more):
        words = {"bitmaps": list(bitmaps), "mode": "incremental"} if bitmaps else {"mode": "full"}
        server.monitor.do("backup-begin", id="b", **words, **more)

    def end(self, server, bitmaps=()):
        server.monitor.do("backup-end", id="b", success=True)


class StorageDaemon(Variant):
    """QEMU's way: a node `top` that is exported reads and writes the disk, and for a backup
    a copy-before-write comes in between, with an image for scratch. For what QEMU
    refuses for a node that is below another one there is is_layered=False."""
    family = "qemu"
    frozen = "frozen"

    def __init__(self, name, title, aio, is_layered=True):
        super().__init__(name, title)
        self.aio, self.is_layered = aio, is_layered

    def serve(self, image, sockets):
        path = os.path.join(sockets, f"{self.name}.sock")
        return ControlledServer(self.command(image, path), path, path + ".qmp")

    def file(self, path):
        return {"driver": "file", "filename": path, "aio": self.aio, "discard": "unmap",
                "cache": {"direct": False, "no-flush": False}}

    def layered(self, is_layered):
        return StorageDaemon(self.name, self.title, self.aio, is_layered)

    def command(self, image, path):
        top = ["--blockdev", json.dumps({"driver": "raw", "node-name": "top", "file": "disk"})]
        return ["qemu-storage-daemon",
                "--blockdev", json.dumps({"driver": "qcow2", "node-name": "disk", "discard": "unmap",
                                          "file": self.file(image)}),
                *(top if self.is_layered else []),
                "--nbd-server", f"addr.type=unix,addr.path={path},max-connections=0",
                "--export", f"type=nbd,id=live,node-name={'top' if self.is_layered else 'disk'},name=,writable=on",
                "--chardev", f"socket,id=control,path={path}.qmp,server=on,wait=off",
                "--monitor", "chardev=control"]

    def prepare(self, image, size):
        self.scratch = image + ".scratch"
        run("qemu-img", "create", "-q", "-f", "qcow2", self.scratch, size)

    def put_below_top(self, server, node):
        server.monitor.do("blockdev-reopen", options=[{"driver": "raw", "node-name": "top", "file": node}])

    def begin(self, server, bitmaps=()):
        do = server.monitor.do
        do("blockdev-add", **{"driver": "qcow2", "node-name": "scratch", "discard": "unmap",
                              "file": self.file(self.scratch)})
        do("blockdev-add", **{"driver": "copy-before-write", "node-name": "copy", "file": "disk", "target": "scratch"})
        self.put_below_top(server, "copy")
        if bitmaps:
            do("transaction", actions=[step for name in bitmaps for step in self.rotation(name)])
        do("blockdev-add", **{"driver": "snapshot-access", "node-name": "frozen", "file": "copy"})
        do("block-export-add", **{"type": "nbd", "id": "frozen", "node-name": "frozen", "name": self.frozen})

    @staticmethod
    def rotation(name, **more):
        """What is dirty goes to a bitmap of its own, that does not go on."""
        frozen = f"frozen-{name}"
        return [{"type": "block-dirty-bitmap-add", "data": {"node": "disk", "name": frozen, "disabled": True, **more}},
                {"type": "block-dirty-bitmap-merge", "data": {"node": "disk", "target": frozen, "bitmaps": [name]}},
                {"type": "block-dirty-bitmap-clear", "data": {"node": "disk", "name": name}}]

    def end(self, server, bitmaps=()):
        do = server.monitor.do
        do("block-export-del", id="frozen", mode="hard")
        while any(export["id"] == "frozen" for export in do("query-block-exports")):
            pass
        do("blockdev-del", **{"node-name": "frozen"})
        self.put_below_top(server, "disk")
        for node in ("copy", "scratch"):
            do("blockdev-del", **{"node-name": node})
        for name in bitmaps:
            do("block-dirty-bitmap-remove", node="disk", name=f"frozen-{name}")
        os.unlink(self.scratch)


def with_bitmaps(images, size, count):
    """Mapped everywhere, with enabled bitmaps b0, b1, ...: as a disk in use."""
    def make(path):
        images.create(path, "qcow2", size, "preallocation=metadata")
        for number in range(count):
            run("qemu-img", "bitmap", "--add", path, f"b{number}")
    return images.kept(make, "managed", count, size)


def write_all_over(server, size, amount=32 * MiB):
    server.fio(size=size, io_size=amount, rw="randwrite", bs="4k", iodepth=16)
