# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# For the tests of the program qcow2bitmap: a folder of backups, of a server that is none
# (tool.py), and what is right in such a folder.

import contextlib
import glob
import json
import os
import sys

from interop import expect, run, same
from tool import BLOCK, TOOLS, FakeServer, tool

sys.path.append(TOOLS)
from folder import read_header  # noqa: E402


class Folder:
    """The folder of backups, and a disk that changes between them."""

    def __init__(self, t, server, name="backups"):
        self.rng, self.server = t.rng, server
        self.path = t.path(name)
        os.mkdir(self.path)

    def backup(self, *words, **more):
        return tool("-s", self.server.socket, "backup", self.path, *words, **more)

    def change(self):
        for _ in range(4):
            self.server.write(self.rng.randrange(len(self.server.disk) // BLOCK),
                              self.rng.randrange(3))  # zeros, too

    def listed(self):
        return json.loads(tool("list", self.path, "--json")[0])

    def kinds(self):
        """f and i for each, the oldest first, as the files' headers tell."""
        backing = [read_header(path)[1] for path in self.files()]
        same(backing[1:], [name and os.path.basename(self.files()[i])
                           for i, name in enumerate(backing[1:])], "backing files")
        return "".join("i" if name else "f" for name in backing)

    def files(self):
        return sorted(glob.glob(self.path + "/*.qcow2"))

    def check(self, count, newest=None):
        """So many backups, and each of them (of the newest so many) is right."""
        same(len(self.files()), count, f"backups in {os.listdir(self.path)}")
        for path in self.files()[-(newest or count):]:
            raw = path + ".raw"
            run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, raw)
            with open(raw, "rb") as file:
                expect(file.read() == self.server.shown[os.path.basename(path)[:-6]],
                       f"{path} is not what the disk was, in {self.kinds()}")
            os.unlink(raw)

    def check_clean(self):
        """Nothing is left over, here or on the server."""
        same([name for name in os.listdir(self.path) if name.endswith(".partial")], [], "left")
        same(list(self.server.backups), [], "backups on the server")
        newest = os.path.basename(self.files()[-1])[:-len(".qcow2")]
        same([name for name in self.server.bitmaps if name[-8:] == newest[-8:]],
             [f"backup@{newest}"], "bitmaps")

    def verify(self):
        """And whatever the folder has of itself is right."""
        self.check_clean()
        said = tool("verify", self.path)[0]
        expect("all sound" in said and "without a checksum" not in said, said)
        with open(os.path.join(self.path, "index.json")) as file:
            same([entry["file"] for entry in json.load(file)["backups"]],
                 list(map(os.path.basename, self.files())), "index")


@contextlib.contextmanager
def a_chain(t, kinds="fii"):
    with FakeServer(t) as server:
        folder = Folder(t, server)
        for kind in kinds:
            folder.change()
            folder.backup(*(["--full"] if kind == "f" else []))
        same(folder.kinds(), kinds, "kinds")
        yield server, folder
