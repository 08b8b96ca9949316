# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# qcow2bitmap prune DIR --keep N: the newest N backups stay, and can be restored as before.
#
# Of those that stay, the oldest has a backing file that goes. It is *folded*: its whole
# disk is written to a file without a backing file, which then takes its place, under its
# name. What a file shows does not change by that, so those above it need not be touched,
# and before and after the one rename the chain is right. Nothing is changed in place:
# who has an old file open reads on from it. It needs room for one more full backup.
#
# In this order; after a crash anywhere all backups that were to stay can be restored, and
# the next prune goes on where this one has ended:
#
#   folded    NAME.partial has the disk of NAME, compared from end to end, and is safe
#   noted     the index knows both checksums of NAME: that of now, and the new one
#   renamed   NAME.partial is NAME
#   removed   the backups that go, the newest first: none is left without what it stands on
#   indexed

import contextlib
import os

import images
import show
from failure import Failure, reached, say
from folder import PARTIAL, Folder, checksum, locked, sync


def run(arguments):
    with locked(arguments.folder, readers_too=True) as folder:
        keep, go = folder.backups[-arguments.keep:], folder.backups[:-arguments.keep]
        for backup in keep:
            folder.chain(backup)
        for backup in keep:
            if backup.backing is not None and backup.backing not in [each.name for each in keep]:
                _fold(folder, backup, arguments)
                say(f"{backup.path}: is a full backup now")
        _remove(Folder(arguments.folder), [backup.id for backup in go])
        folder.refresh_index()
        reached("indexed")
    say(f"{arguments.folder}: {show.plural(len(keep), 'backup')} kept, {len(go)} removed")


def _fold(folder, backup, arguments):
    partial = backup.name + PARTIAL
    options = []
    if arguments.compress or backup.notes.get("compressed"):
        options = ["-c", "-o", "compression_type=zstd"]
    old, new = ("qcow2", backup.name), ("qcow2", partial)
    try:
        images.convert(old, new, "folding", options, folder=folder.path)
        if not images.are_same(old, new, "verifying", folder=folder.path):
            raise Failure(f"{backup.path}: what was written does not come back; nothing is removed")
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(folder.path_of(partial))
        raise
    reached("folded")
    notes = {**folder.index, backup.id: {**backup.notes, "compressed": bool(options),
                                         "sha256-new": checksum(folder.path_of(partial))}}
    folder.write_index(notes)
    reached("noted")
    folder.finish(backup.name)
    reached("renamed")


def _remove(folder, ids):
    """The newest first. `folder`: as it is after folding."""
    kept = [backup for backup in folder.backups if backup.id not in ids]
    for backup in kept:
        if any(below.id in ids for below in folder.chain(backup)):
            raise Failure(f"{backup.path} still needs one that was to be removed; none was")
    for backup in reversed(folder.backups):
        if backup.id in ids:
            os.unlink(backup.path)
            sync(folder.path)
            reached("removed")
