# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# For the tests of the program qcow2bitmap: how it is run, and a server that is none. The
# latter has a disk of blocks of 64K, bitmaps and frozen disks as the filter has them, and
# answers on a control socket; nbd_server.py serves its exports. So what the program does is
# tested against whatever a server may say, and whenever it may die.

import atexit
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading

from interop import KiB, Wrong, expect, same
from nbd_server import Export, NbdServer

BLOCK = 64 * KiB
HOLE, ZERO = 1, 2  # of NBD's base:allocation
TOOLS = os.path.join(os.environ["top_srcdir"], "tools")


def tool(*words, status=0, die_at=None, user=0):
    """Runs it. What it said: (standard output, standard error). `status`: as which it must
    end. `die_at`: the step after which it kills itself. `user`: a number, if not us."""
    words = [str(word) for word in words]
    with tempfile.TemporaryDirectory() as place:
        out, err = os.path.join(place, "out"), os.path.join(place, "err")
        ended = _run({"words": words, "user": user, "out": out, "err": err,
                      "environment": {"QCOW2BITMAP_DIE_AT": die_at or ""}})
        with open(out) as out, open(err) as err:
            said = out.read(), err.read()
    if ended != (-9 if die_at else status):
        raise Wrong(f"exit status {ended}, expected {status}: qcow2bitmap {' '.join(words)}\n"
                    f"{said[0]}{said[1]}")
    expect("Traceback" not in said[1], said[1])
    return said


_runner = None


def _run(order):
    global _runner
    if _runner is None:
        here = os.path.dirname(os.path.abspath(__file__))
        _runner = subprocess.Popen(
            [sys.executable, "-IB", os.path.join(here, "tool_runner.py"), TOOLS],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        # It ends when its standard input does, that is with us. (It is waited for, so that
        # what it has run counts as ours.)
        atexit.register(lambda: (_runner.stdin.close(), _runner.wait()))
    _runner.stdin.write(json.dumps(order) + "\n")
    _runner.stdin.flush()
    return int(_runner.stdout.readline())


def refused(pattern, *words, status=1, **more):
    """It must fail, and say this."""
    said = tool(*words, status=status, **more)
    expect(pattern in said[1], f"{words}: said {said}, expected '{pattern}'")


class FakeServer:
    def __init__(self, t, blocks=64):
        self.socket = t.path("control.sock")
        self.disk = bytearray(blocks * BLOCK)
        self.bitmaps = {}  # name -> dict(enabled=, inconsistent=, dirty=set of blocks)
        self.backups = {}  # id -> dict(bitmap=, since=set of blocks, broken=reason or None)
        self.exports = {}
        self.breaks_at_the_end = False
        self.tells = {}  # more in query-status
        self.shown = {}  # id -> the disk at its instant, of all backups that ever began
        self.on = {}  # command -> function of its arguments, to be called when it is done
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.socket)
        self._listener.listen()
        threading.Thread(target=self._listen, daemon=True).start()
        self.nbd = NbdServer(t.path("nbd.sock"), self.exports.get)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.nbd.close()

    # --- What happens to it.

    def write(self, block, value):
        self.disk[block * BLOCK:(block + 1) * BLOCK] = bytes([value]) * BLOCK
        for bitmap in self.bitmaps.values():
            if bitmap["enabled"]:
                bitmap["dirty"].add(block)
        for backup in self.backups.values():
            backup["since"].add(block)

    def resize(self, blocks):
        grown = range(len(self.disk) // BLOCK, blocks)
        self.disk = self.disk[:blocks * BLOCK] + bytes(max(0, blocks * BLOCK - len(self.disk)))
        for bitmap in self.bitmaps.values():
            bitmap["dirty"] = {b for b in bitmap["dirty"] if b < blocks} | set(grown)

    def restart(self):
        """It was killed, and is here again."""
        for id_ in list(self.backups):
            self._thaw(id_)

    def state(self):
        """Of what is in the image."""
        return bytes(self.disk), {name: {**bitmap, "dirty": set(bitmap["dirty"])}
                                  for name, bitmap in self.bitmaps.items()}

    def roll_back(self, state):
        disk, bitmaps = state
        self.disk = bytearray(disk)
        self.bitmaps = {name: {**bitmap, "dirty": set(bitmap["dirty"])}
                        for name, bitmap in bitmaps.items()}

    # --- The wire.

    def _listen(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        def put(message):
            connection.sendall(json.dumps(message).encode() + b"\r\n")

        with connection, contextlib.suppress(OSError):
            put({"QMP": {"version": {"qemu": {"major": 0, "minor": 9, "micro": 0},
                                     "package": "qcow2bitmap 0.9.0, and not really"},
                         "capabilities": []}})
            for line in connection.makefile("rb"):
                said = json.loads(line)
                put({"timestamp": {"seconds": 1, "microseconds": 2}, "event": "SOMETHING",
                     "data": {"id": said["id"]}})
                try:
                    returned = self._do(said["execute"], said.get("arguments", {}))
                    put({"return": returned, "id": said["id"]})
                except KeyError as error:
                    put({"error": {"class": "CommandNotFound", "desc": str(error)},
                         "id": said["id"]})
                except Wrong as error:
                    put({"error": {"class": "GenericError", "desc": str(error)}, "id": said["id"]})

    def _do(self, command, arguments):
        do = getattr(self, "_" + command.replace("-", "_"), None)
        if do is None:
            raise KeyError(f"The command {command} has not been found")
        returned = do(**{key.replace("-", "_"): value for key, value in arguments.items()})
        if command in self.on:
            self.on[command](arguments)
        return returned or {}

    def _qmp_capabilities(self):
        pass

    def _query_commands(self):
        return [{"name": name} for name in ("backup-begin", "backup-end", "query-backups")]

    def _query_status(self):
        return {"status": "running", "running": True,
                "disk": {"nbd-uri": f"nbd+unix:///?socket={self.nbd.path}"}, **self.tells}

    def _query_named_block_nodes(self):
        used = [backup["bitmap"] for backup in self.backups.values()]
        return [{"node-name": "disk", "drv": "qcow2", "ro": False,
                 "image": {"filename": "disk.qcow2", "virtual-size": len(self.disk)},
                 "dirty-bitmaps": [
                     {"name": name, "count": len(bitmap["dirty"]) * BLOCK, "granularity": BLOCK,
                      "recording": bitmap["enabled"], "busy": name in used, "persistent": True,
                      **({"inconsistent": True} if bitmap["inconsistent"] else {})}
                     for name, bitmap in self.bitmaps.items()]}]

    def _block_dirty_bitmap_add(self, node, name, persistent):
        same((node, persistent), ("disk", True), "arguments")
        expect(name not in self.bitmaps, f"Bitmap already exists: {name}")
        self.bitmaps[name] = {"enabled": True, "inconsistent": False, "dirty": set()}

    def _block_dirty_bitmap_remove(self, node, name):
        same(node, "disk", "node")
        expect(name in self.bitmaps, f"Dirty bitmap '{name}' not found")
        expect(name not in [backup["bitmap"] for backup in self.backups.values()],
               f"Bitmap '{name}' is currently in use by another operation and cannot be used")
        del self.bitmaps[name]

    def _transaction(self, actions):
        same([action["type"] for action in actions], ["block-dirty-bitmap-add", "backup-begin"],
             "actions")
        for action in actions:
            returned = self._do(action["type"], action["data"])
        return {"backup": returned}

    def _query_backups(self):
        return [{"id": id_, "state": "broken" if backup["broken"] else "active", "age": 61,
                 "mode": "incremental" if backup["bitmap"] else "full", "scratch-bytes": BLOCK,
                 "bytes-read": 3 * BLOCK, "clients": 2,
                 **({"reason": backup["broken"]} if backup["broken"] else {})}
                for id_, backup in self.backups.items()]

    def _backup_begin(self, id, mode, timeout, bitmap=None, whole=False):
        expect(id not in self.backups, f"there is a backup {id} already")
        dirty = None
        if bitmap is not None:
            expect(bitmap in self.bitmaps, f"Dirty bitmap '{bitmap}' not found")
            dirty = self.bitmaps[bitmap]["dirty"]
        same(mode, "auto" if bitmap else "full", "mode")
        self.backups[id] = {"bitmap": bitmap, "since": set(), "broken": None}
        self.shown[id] = bytes(self.disk)
        self._freeze(id, dirty)
        return {"id": id, "size": len(self.disk), "mode": "incremental" if bitmap else "full"}

    def _freeze(self, id_, dirty):
        disk = bytes(self.disk)
        self.exports[f"backup/{id_}"] = Export(disk)
        if dirty is not None:
            blocks = [disk[at:at + BLOCK] for at in range(0, len(disk), BLOCK)]
            self.exports[f"backup/{id_}/dirty"] = Export(disk, [
                (BLOCK, HOLE if number not in dirty else 0 if any(block) else HOLE | ZERO)
                for number, block in enumerate(blocks)])

    def _thaw(self, id_):
        for name in (f"backup/{id_}", f"backup/{id_}/dirty"):
            self.exports.pop(name, None)
        return self.backups.pop(id_)

    def _backup_end(self, id, success):
        expect(id in self.backups, f"there is no backup {id}")
        if self.breaks_at_the_end:
            self.backups[id]["broken"] = "too late"
        expect(not success or not self.backups[id]["broken"], f"backup {id} is broken")
        backup = self._thaw(id)
        if success and backup["bitmap"]:
            self.bitmaps[backup["bitmap"]]["dirty"] = backup["since"]

    def break_backup(self, reason):
        [(id_, backup)] = self.backups.items()
        backup["broken"] = reason
        for name in (f"backup/{id_}", f"backup/{id_}/dirty"):
            self.exports.pop(name, None)
