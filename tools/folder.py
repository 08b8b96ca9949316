# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# A folder of backups of one disk: a chain of qcow2 files that qemu-img and the filter
# read without us. Each is named
#
#     STAMP-FOLDER.qcow2        20261127T213000Z-3fa9c10e.qcow2
#
# STAMP is the instant that it shows (UTC; two never have the same, and a later backup
# has a later one, whatever the clock says); FOLDER is drawn by the first backup and tells
# our bitmaps and backups on the server from those of others. STAMP-FOLDER is the id.
# An incremental backup names the one before it as its backing file, without a folder: the
# whole may be moved. What ends in .partial is not finished.
#
# What the files say themselves is read from their headers. The index, index.json, adds what
# they cannot say: a checksum, why a backup is a full one. It may be lost: the next backup
# writes it again.

import contextlib
import dataclasses
import datetime
import fcntl
import hashlib
import json
import os
import re
import secrets
import struct

from failure import AT_WORK, Failure, reached, warn
from show import Progress

NAME = re.compile(r"((\d{8}T\d{6}Z)-([0-9a-f]{8}))\.qcow2(\.partial)?")
STAMP = "%Y%m%dT%H%M%SZ"
PARTIAL = ".partial"
INDEX = "index.json"
LOCK = ".lock"
READERS = ".readers"


@dataclasses.dataclass(frozen=True)
class Backup:
    path: str
    id: str
    disk_bytes: int = 0
    file_bytes: int = 0
    backing: str = None  # the name of the file below; None: it is full
    problem: str = None  # why it cannot be read
    notes: dict = dataclasses.field(default_factory=dict)  # of the index

    @property
    def name(self):
        return os.path.basename(self.path)

    @property
    def time(self):
        return time_of(self.id)

    @property
    def kind(self):
        return "damaged" if self.problem else "incremental" if self.backing else "full"


def time_of(id_):
    stamp = id_.partition("-")[0]
    return datetime.datetime.strptime(stamp, STAMP).replace(tzinfo=datetime.timezone.utc)


def _is_time(stamp):
    try:
        return bool(time_of(stamp))
    except ValueError:
        return False


class Folder:
    def __init__(self, path):
        self.path = path
        try:
            names = sorted(os.listdir(path))
        except OSError as error:
            raise Failure(f"{path}: {error.strerror}") from None
        self.index = _read_index(path)
        self.backups = []  # the oldest first
        self.partials = []  # ids
        for name in names:
            match = NAME.fullmatch(name)
            if match and not _is_time(match[2]):
                continue
            if match and match[4]:
                self.partials.append(match[1])
            elif match:
                self.backups.append(_read_backup(os.path.join(path, name), match[1], self.index))

    @property
    def newest(self):
        return self.backups[-1] if self.backups else None

    def path_of(self, name):
        return os.path.join(self.path, name)

    def chain(self, backup):
        """It, the one below it, and so on to the full one. Failure if that is broken."""
        by_name = {each.name: each for each in self.backups}
        found = [backup]
        while True:
            lowest = found[-1]
            if lowest.problem:
                raise Failure(f"{lowest.path}: {lowest.problem}")
            if lowest.backing is None:
                return found
            below = by_name.get(lowest.backing)
            if below is None:
                raise Failure(f"{lowest.path}: its backing file '{lowest.backing}' is missing")
            if below in found:
                raise Failure(f"{lowest.path}: the chain of its backing files goes in a circle")
            found.append(below)

    def new_id(self):
        """Of a backup that begins now: later than all that are here."""
        now = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
        for id_ in [backup.id for backup in self.backups] + self.partials:
            now = max(now, time_of(id_) + datetime.timedelta(seconds=1))
        return f"{now.strftime(STAMP)}-{self.identity or secrets.token_hex(4)}"

    @property
    def identity(self):
        """What the ids of this folder end with; None in a new one."""
        ids = [backup.id for backup in self.backups] + self.partials
        return ids[-1].partition("-")[2] if ids else None

    # --- For those who hold the lock.

    def write_index(self, notes):
        """notes: {id: dict}, replaces what the index says of all backups."""
        entries = [{"id": id_, **notes[id_]} for id_ in sorted(notes)]
        path = self.path_of(INDEX)
        with open(path + PARTIAL, "w", encoding="utf-8") as file:
            json.dump({"backups": entries}, file, indent=1)
            file.write("\n")
        sync(path + PARTIAL)
        os.rename(path + PARTIAL, path)
        sync(self.path)
        self.index = notes

    def refresh_index(self, **changed):
        """As the files are; `changed`: id=dict of notes. Checksums that are missing are made
        from the files."""
        notes = {}
        for backup in Folder(self.path).backups:
            if backup.problem:
                if backup.id in self.index:
                    notes[backup.id] = self.index[backup.id]
                continue
            old = {**backup.notes, **changed.get(backup.id, {})}
            notes[backup.id] = {**_settled(old, backup.path), **described(backup)}
        if notes != self.index:
            self.write_index(notes)

    def finish(self, name):
        """NAME.partial is complete: it gets its name."""
        sync(self.path_of(name + PARTIAL))
        reached("synced")
        os.rename(self.path_of(name + PARTIAL), self.path_of(name))
        sync(self.path)


def described(backup):
    """What the index says of it for people, and a reader can see from the file."""
    return {"time": backup.time.isoformat(), "kind": backup.kind, "file": backup.name,
            "backing": backup.backing, "disk-bytes": backup.disk_bytes,
            "file-bytes": backup.file_bytes}


def _settled(notes, path):
    """With one checksum, which is that of the file. (sha256-new: prune was about to replace
    the file, and we do not know whether it has.)"""
    notes = dict(notes)
    new = notes.pop("sha256-new", None)
    if "sha256" not in notes:
        notes["sha256"] = checksum(path)
    elif new and checksum(path) == new:
        notes["sha256"] = new
    return notes


def checksum(path):
    digest, done = hashlib.sha256(), 0
    with open(path, "rb") as file, Progress("checksum") as bar:
        size = os.fstat(file.fileno()).st_size
        while piece := file.read(1 << 20):
            digest.update(piece)
            done += len(piece)
            bar.to(100 * done / max(size, done))
    return digest.hexdigest()


def sync(path):
    """A file, or the names in a folder, are safe from a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_index(path):
    """{id: notes}"""
    try:
        with open(os.path.join(path, INDEX), encoding="utf-8") as file:
            return {entry.pop("id"): entry for entry in json.load(file)["backups"]}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise Failure(f"{os.path.join(path, INDEX)}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        warn(f"{os.path.join(path, INDEX)} cannot be read ({error}): its checksums are not used; "
             "the next backup writes it anew")
        return {}


def _read_backup(path, id_, index):
    notes = index.get(id_, {})
    try:
        disk_bytes, backing = read_header(path)
        return Backup(path, id_, disk_bytes, os.path.getsize(path), backing, None, notes)
    except OSError as error:
        return Backup(path, id_, problem=error.strerror, notes=notes)
    except ValueError as error:
        return Backup(path, id_, problem=str(error), notes=notes)


def read_header(path):
    """Size of the disk, and name of the backing file or None, of a qcow2 file."""
    with open(path, "rb") as file:
        head = file.read(32)
        if len(head) < 32 or head[:4] != b"QFI\xfb":
            raise ValueError("this is no qcow2 file")
        _version, name_at, name_bytes, _cluster_bits, size = struct.unpack(">IQIIQ", head[4:])
        if name_at == 0:
            return size, None
        file.seek(name_at)
        name = file.read(min(name_bytes, 1023))
        if len(name) != name_bytes:
            raise ValueError("the file ends in the middle of its header")
        return size, os.fsdecode(name)


@contextlib.contextmanager
def locked(path, readers_too=False):
    """The folder, which nobody else changes meanwhile. It is looked at after the lock is
    there: before, another run may be about to finish."""
    with contextlib.ExitStack() as held:
        try:
            _lock(held, path, LOCK, fcntl.LOCK_EX, "another run of qcow2bitmap is at work here")
            if readers_too:
                _lock(held, path, READERS, fcntl.LOCK_EX, "somebody reads the backups here")
        except OSError as error:
            raise Failure(f"{path}: {error.strerror}") from None
        yield Folder(path)


@contextlib.contextmanager
def read_by_us(path):
    """The folder, from which nobody removes anything meanwhile; new backups may come."""
    with contextlib.ExitStack() as held:
        # Where we may not write there is no lock: the folder is taken as it is.
        with contextlib.suppress(OSError):
            _lock(held, path, READERS, fcntl.LOCK_SH, "backups are being removed here")
        yield Folder(path)


def _lock(held, path, name, how, who):
    file = held.enter_context(open(os.path.join(path, name), "a", encoding="utf-8"))
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Failure(f"{path}: {who}", AT_WORK) from None
