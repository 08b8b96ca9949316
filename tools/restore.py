# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# qcow2bitmap list, verify and restore: what one does with the files alone.

import contextlib
import fcntl
import json
import os
import stat

import images
import show
from failure import AT_WORK, FAILED, Failure, say
from folder import INDEX, NAME, PARTIAL, Folder, checksum, read_by_us, sync


def list_backups(arguments):
    folder = Folder(arguments.folder)
    if arguments.json:
        print(json.dumps([_in_json(folder, backup) for backup in folder.backups], indent=1))
        return
    show.table(("TIME", "KIND", "FILE SIZE", "DISK", "ID", ""),
               [(show.moment(backup.time), backup.kind, show.size(backup.file_bytes),
                 show.size(backup.disk_bytes), backup.id, _remark(folder, backup))
                for backup in folder.backups])


def _in_json(folder, backup):
    return {"id": backup.id, **backup.notes, "file": backup.name, "time": backup.time.isoformat(),
            "kind": backup.kind, "backing": backup.backing, "disk-bytes": backup.disk_bytes,
            "file-bytes": backup.file_bytes, "problem": _problem(folder, backup)}


def _problem(folder, backup):
    """Why it cannot be restored, as far as names and headers tell; None if it can."""
    try:
        folder.chain(backup)
    except Failure as broken:
        return str(broken)
    return None


def _remark(folder, backup):
    problem = _problem(folder, backup)
    return f"cannot be restored: {problem}" if problem else ""


# --- verify


def verify(arguments):
    with read_by_us(arguments.folder) as folder:
        wrong = {backup.id: _what_is_wrong(folder, backup) for backup in folder.backups}
        bad = [_verdict(folder, backup, wrong) for backup in folder.backups]
        gone = sorted(set(folder.index) - set(wrong))
    for id_ in gone:
        print(f"{id_}: {INDEX} has it, and there is no such file")
    count = sum(bad) + len(gone)
    if count:
        raise Failure(f"{arguments.folder}: {count} of {len(bad) + len(gone)} backups cannot be "
                      "relied on", FAILED)
    say(f"{arguments.folder}: {show.plural(len(bad), 'backup')}, all sound")


def _what_is_wrong(folder, backup):
    """With this one file; None if all is well."""
    found = backup.problem or _problem(folder, backup) or images.what_is_wrong(backup.path)
    if found:
        return found
    known = [backup.notes[key] for key in ("sha256", "sha256-new") if key in backup.notes]
    if known and checksum(backup.path) not in known:
        return f"it has another checksum than {INDEX} says: its bytes have changed"
    return None


def _verdict(folder, backup, wrong):
    """Says what is wrong with a backup, and whether anything is."""
    problem = wrong[backup.id]
    if not problem:
        below = [each.name for each in folder.chain(backup)[1:] if wrong[each.id]]
        problem = f"it needs {below[0]}" if below else None
    if problem:
        print(f"{backup.path}: {problem}")
    else:
        say(f"{backup.path}: sound" + ("" if "sha256" in backup.notes else ", as far as can be "
                                       "told without a checksum"))
    return bool(problem)


# --- restore


def restore(arguments):
    with read_by_us(arguments.folder) as folder:
        backup = _wanted(folder, arguments.at)
        folder.chain(backup)
        target = arguments.target
        if "://" in target:
            _into_nbd(backup, target, arguments)
        elif _is_device(target):
            _into_device(backup, target, arguments)
        else:
            _into_file(backup, target, arguments)
    say(f"{target}: the disk as it was at {show.moment(backup.time)}, "
        f"{show.size(backup.disk_bytes)}")


def _wanted(folder, at):
    """`at`: a time, an id, or None: the newest."""
    if not folder.backups:
        raise Failure(f"{folder.path}: there is no backup here")
    if at is None:
        return folder.newest
    for backup in folder.backups:
        if at in (backup.id, backup.name):
            return backup
    try:
        when = show.parsed_moment(at)
    except ValueError as error:
        raise Failure(str(error)) from None
    found = [backup for backup in folder.backups if backup.time <= when]
    if not found:
        raise Failure(f"{folder.path}: the oldest backup here is of "
                      f"{show.moment(folder.backups[0].time)}, later than {show.moment(when)}")
    return found[-1]


def _into_file(backup, target, arguments):
    place = os.path.realpath(target)
    _refuse_a_backup(backup, place)
    _refuse_to_overwrite(os.path.lexists(target), target, arguments.force)
    _refuse_what_is_open(place)
    format_ = arguments.format or "qcow2"
    with _partial_of(place) as partial:
        images.convert(("qcow2", backup.path), (format_, partial), "restoring")
        _must_be_the_same(backup, partial, format_, arguments)
        sync(partial)
        _refuse_to_overwrite(os.path.lexists(target), target, arguments.force)
        _refuse_what_is_open(place)
        os.rename(partial, place)
    sync(os.path.dirname(place))


@contextlib.contextmanager
def _partial_of(place):
    """The file that gets this name when all is there. It is ours alone, and does not stay."""
    partial = place + PARTIAL
    with open(partial, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Failure(f"{place}: another run of qcow2bitmap writes it", AT_WORK) from None
        try:
            yield partial
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(partial)


def _refuse_a_backup(backup, place):
    """Others may stand on what would be overwritten."""
    folder, name = os.path.split(place)
    if os.path.realpath(os.path.dirname(backup.path)) == folder and (
            NAME.fullmatch(name) or name == INDEX):
        raise Failure(f"{place} is a name of the backups themselves: restore into another file")


def _refuse_what_is_open(place):
    """Whoever has the file open goes on with it when its name has another one, and all that is
    written there from then on is lost."""
    if images.is_open(place):
        raise Failure(f"{place} is in use: a server or QEMU has it open, and what is written "
                      "there would be lost. Stop it first (qcow2bitmap -s SOCKET stop)")


def _into_device(backup, target, arguments):
    if arguments.format is None:
        raise Failure(f"{target} is a device: say --format raw, for the disk itself, or --format "
                      "qcow2")
    _refuse_to_overwrite(True, target, arguments.force)
    images.convert(("qcow2", backup.path), (arguments.format, target), "restoring")
    _must_be_the_same(backup, target, arguments.format, arguments)
    sync(target)


def _into_nbd(backup, uri, arguments):
    have = images.size_of(uri)
    if have != backup.disk_bytes:
        raise Failure(f"{uri} has {have} bytes, and the disk in the backup {backup.disk_bytes}")
    _refuse_to_overwrite(not images.reads_as_zeros(uri), uri, arguments.force)
    images.convert(("qcow2", backup.path), ("raw", uri), "restoring", ["-n", "-t", "writeback"])
    _must_be_the_same(backup, uri, "raw", arguments)


def _must_be_the_same(backup, written, format_, arguments):
    have = images.size_of(written, format_)
    if have < backup.disk_bytes:
        raise Failure(f"{arguments.target} has {have} bytes, and the disk {backup.disk_bytes}")
    if arguments.verify and not images.are_same(("qcow2", backup.path), (format_, written),
                                                "verifying"):
        raise Failure(f"{arguments.target}: what was written does not come back")


def _refuse_to_overwrite(is_there, target, force):
    if is_there and not force:
        raise Failure(f"{target} has something in it already; --force overwrites it")


def _is_device(path):
    try:
        return stat.S_ISBLK(os.stat(path).st_mode)
    except OSError:
        return False
