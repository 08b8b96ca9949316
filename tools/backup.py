# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# qcow2bitmap backup: what makes a chain that is right, whenever the power goes.
#
# The record. For each folder of backups the image has one bitmap, NAME@ID, which records
# all changes since the instant of the backup ID: its name ties it to that file for good.
# So an incremental backup is possible if, and only if, the image has an enabled, sound
# bitmap with the id of the newest file. Where the image is an older copy of itself, where
# a bitmap was removed and made again, where another folder is backed up too, or this one
# was begun anew, there is none of that id, and the backup is a full one. (One bitmap for
# all, taken for whatever was backed up last, is wrong in each of these cases, and nobody
# notices before the day of the restore.)
#
# A backup NEW on top of the newest file, BASE, in this order. (A full one has no BASE.)
#
#   1 noted     an empty NEW.partial is in the folder: it tells the next run what on the
#               server is ours
#   2 begun     in one instant (a transaction) bitmap NAME@NEW is added, and records from
#               then on, and the disk and NAME@BASE are frozen. There are two bitmaps now
#   3 copied    what the frozen bitmap has is in NEW.partial. With --verify, its disk and
#               the frozen one are the same
#   4 synced    NEW.partial is safe
#   5 renamed   to NEW, and safe: THE COMMIT. Before, BASE is the newest file, and its
#               bitmap covers all since. From now on it is NEW, and its bitmap does
#   6 ended     backup-end, with success
#   7 dropped   NAME@BASE is removed
#   8 indexed   with a checksum, which need not keep the frozen disk waiting
#
# So after a crash the next run asks just one thing, which file is the newest, and then
# removes what is left over (`_clean_up`): backups on the server whose id ends with the name
# of this folder (with success if their file has got its name), bitmaps, too, but for that
# of the newest file, and at last files that end in .partial: in a new folder they alone
# know its name. Nothing of that is asked for again. If the server has died meanwhile,
# nothing of the backup is there; the bitmaps are, in the image.

import contextlib
import json
import os
import time

import images
import server
import show
from failure import Failure, reached, say, undisturbed, warn
from folder import PARTIAL, Folder, locked
from qmp import Monitor, Refused

LEASE_SECONDS = 3600  # after that long without a read the server ends the backup itself


def run(arguments):
    if not os.path.isdir(arguments.folder):
        # Not made by us: below a disk that is not mounted it would be in the wrong place.
        raise Failure(f"{arguments.folder}: there is no such folder: mkdir makes it, if this is "
                      "the place for backups")
    with locked(arguments.folder) as folder:
        began = time.monotonic()
        with server.ask(arguments) as monitor:
            _must_know_backups(monitor)
            disk = server.Disk(monitor, arguments.node)
            nbd = _nbd_server(arguments, monitor)
            for id_ in folder.partials:
                warn(f"{folder.path}: {id_} was broken off; what is left of it is removed")
            _clean_up(monitor, disk, folder)
        new = _New(arguments, Folder(arguments.folder), nbd)
        try:
            new.take()
        except BaseException as error:
            with undisturbed():
                new.undo()
            raise _with_the_reason(error, new) from None
        new.tell(time.monotonic() - began)


def _must_know_backups(monitor):
    if "backup-begin" not in [command["name"] for command in monitor.do("query-commands")]:
        raise Failure(f"{monitor.path}: {monitor.server} cannot freeze a disk for a backup; nbdkit "
                      "with the qcow2bitmap filter and qcow2-control= can")


def _nbd_server(arguments, monitor):
    if arguments.nbd:
        return arguments.nbd
    told = monitor.do("query-status").get("disk", {}).get("nbd-uri")
    if not told:
        raise Failure(f"{monitor.path}: the server does not say where its NBD socket is: "
                      "--nbd SOCKET-OR-URI does")
    return told


# --- What a run that was broken off has left.


def _clean_up(monitor, disk, folder):
    newest = folder.newest
    if folder.identity is None:
        return
    for backup in monitor.do("query-backups"):
        if backup["id"].endswith("-" + folder.identity):
            _end(monitor, backup["id"], newest is not None and backup["id"] == newest.id)
    for name in _records(disk, folder.identity):
        if newest is None or not name.endswith("@" + newest.id):
            _drop(monitor, disk, name)
    reached("left-on-the-server")
    for id_ in folder.partials:
        os.unlink(folder.path_of(f"{id_}.qcow2{PARTIAL}"))


def _end(monitor, id_, success):
    try:
        monitor.do("backup-end", {"id": id_, "success": success})
    except Refused:
        # Broken since its last byte was read, or expired: then it has not succeeded.
        if success:
            with contextlib.suppress(Refused):
                monitor.do("backup-end", {"id": id_, "success": False})


def _records(disk, identity):
    """The bitmaps that backups of this folder have made."""
    matches = map(server.RECORD.fullmatch, disk.bitmaps)
    return [match[0] for match in matches if match and match[3] == identity]


def _drop(monitor, disk, name):
    try:
        monitor.do("block-dirty-bitmap-remove", {"node": disk.node, "name": name})
    except Refused as refused:
        warn(f"bitmap '{name}', which is not needed any more, could not be removed: "
             f"{refused.reason}")


# --- A new one.


class _New:
    def __init__(self, arguments, folder, nbd):
        self.arguments = arguments
        self.folder = folder
        self.nbd = nbd
        self.id = folder.new_id()
        self.name = f"{self.id}.qcow2"
        self.path = folder.path_of(self.name)
        self.partial = self.name + PARTIAL
        self.base = self.record = None  # of an incremental one: the newest file, and its bitmap
        self.why_full = None
        self.dirty_bytes = None
        self.broken = None  # the server's reason

    def take(self):
        with Monitor(self.arguments.socket) as monitor:
            disk = server.Disk(monitor, self.arguments.node)
            self._decide(disk)
            self._note()
            self._begin(monitor, disk)
        reached("begun")
        self._copy()
        reached("copied")
        self.folder.finish(self.name)
        reached("renamed")
        with Monitor(self.arguments.socket) as monitor:
            _end(monitor, self.id, True)
            reached("ended")
            _clean_up(monitor, server.Disk(monitor, self.arguments.node),
                      Folder(self.folder.path))
        reached("dropped")
        self._index()
        reached("indexed")

    def _decide(self, disk):
        if self.arguments.full:
            self.why_full = "--full asks for it"
        else:
            self.why_full = _why_full(disk, self.folder)
        if not self.why_full:
            self.base = self.folder.newest
            self.record = _record(disk, self.base)

    def _note(self):
        with open(self.folder.path_of(self.partial), "xb"):
            pass
        reached("noted")

    def _begin(self, monitor, disk):
        words = {"id": self.id, "mode": "full", "timeout": LEASE_SECONDS}
        if self.base:
            words.update(mode="auto", bitmap=self.record)
            if self.arguments.verify:
                words["whole"] = True
        bitmap = {"node": disk.node, "name": f"{self.arguments.bitmap}@{self.id}",
                  "persistent": True}
        begun = monitor.do("transaction", {"actions": [
            {"type": "block-dirty-bitmap-add", "data": bitmap},
            {"type": "backup-begin", "data": words}]})["backup"]
        self.dirty_bytes = begun.get("dirty-bytes")
        if self.base and begun["mode"] == "full":
            self.base, self.why_full = None, begun["why-full"]

    def _copy(self):
        export, options = f"backup/{self.id}", []
        if self.base:
            export += "/dirty"
            options += ["-B", self.base.name, "-F", "qcow2"]
        if self.arguments.compress:
            options += ["-c", "-o", "compression_type=zstd"]
        if self.arguments.rate:
            options += ["-r", str(self.arguments.rate)]
        written, more = ("qcow2", self.partial), {"folder": self.folder.path,
                                                  "end_source": self._give_up}
        images.convert(("raw", images.nbd_uri(self.nbd, export)), written, "copying", options,
                       **more)
        whole = ("raw", images.nbd_uri(self.nbd, f"backup/{self.id}"))
        if self.arguments.verify and not images.are_same(whole, written, "verifying", **more):
            raise Failure(f"{self.path}: what was written is not what the disk has; it is thrown "
                          "away" + (". --full begins anew" if self.base else ""))

    def _index(self):
        notes = {"compressed": bool(self.arguments.compress)}
        if self.why_full:
            notes["why-full"] = self.why_full
        self.folder.refresh_index(**{self.id: notes})

    def _give_up(self):
        with contextlib.suppress(Failure), Monitor(self.arguments.socket) as monitor:
            _end(monitor, self.id, False)

    def undo(self):
        """What can be undone at once. The next run does the rest."""
        with contextlib.suppress(Failure), Monitor(self.arguments.socket) as monitor:
            for backup in monitor.do("query-backups"):
                if backup["id"] == self.id and backup["state"] == "broken":
                    self.broken = backup.get("reason")
            _clean_up(monitor, server.Disk(monitor, self.arguments.node),
                      Folder(self.folder.path))

    def tell(self, seconds):
        backup = next(each for each in Folder(self.folder.path).backups if each.id == self.id)
        if self.arguments.json:
            print(json.dumps({"id": backup.id, **backup.notes, "dirty-bytes": self.dirty_bytes,
                              "seconds": round(seconds, 1)}, indent=1))
            return
        what = f"incremental, on {self.base.name}" if self.base else f"full: {self.why_full}"
        say(f"{backup.path}: {show.size(backup.file_bytes)} in {show.duration(seconds)}; {what}")


def _why_full(disk, folder):
    """Why an incremental backup on top of the newest file would be wrong; None if it is right."""
    newest = folder.newest
    if newest is None:
        return "it is the first one here"
    try:
        folder.chain(newest)
    except Failure as broken:
        return str(broken)
    bytes_then = newest.notes.get("file-bytes", newest.file_bytes)
    if newest.file_bytes != bytes_then:
        return f"{newest.name} had {bytes_then} bytes and has {newest.file_bytes}"
    if disk.bytes < newest.disk_bytes:
        return f"the disk had {show.size(newest.disk_bytes)}, and has {show.size(disk.bytes)}"
    name = _record(disk, newest)
    if name is None:
        return f"the image has no bitmap that records since {newest.name}"
    bitmap = disk.bitmaps[name]
    if bitmap.get("inconsistent") or not bitmap["recording"]:
        return f"bitmap '{name}' is {server.bitmap_state(bitmap)}"
    return None


def _record(disk, backup):
    """The name of the bitmap that records since this backup; None if there is none."""
    return next((name for name in disk.bitmaps if name.endswith("@" + backup.id)), None)


def _with_the_reason(error, new):
    if isinstance(error, OSError):
        error = Failure(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    if not isinstance(error, Failure):
        return error
    if os.path.exists(new.path):
        return Failure(f"{error}. The backup itself is in its place: {new.path}", error.status)
    if new.broken:
        return Failure(f"the server had to give the backup up: {new.broken} ({error})")
    return error
