#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# qcow2bitmap list, restore, verify and prune: what a folder of backups has is told, given
# back and folded, nothing that somebody needs is overwritten or removed, and damage is found.

import datetime
import fcntl
import glob
import json
import os
import sys

sys.dont_write_bytecode = True
from backup_folder import a_chain  # noqa: E402
from interop import Nbdkit, case, cases, expect, info, main, poke, run, same  # noqa: E402
from tool import TOOLS, refused, tool  # noqa: E402

sys.path.append(TOOLS)
import show  # noqa: E402

# --- list, verify, restore


@case
def restores(t):
    with a_chain(t, "fiffi") as (server, folder):
        listed = folder.listed()
        for backup in listed:
            for at in (backup["id"], backup["time"]):
                target = t.path("restored.raw")
                tool("restore", folder.path, target, "--at", at, "--format", "raw", "--verify")
                with open(target, "rb") as file:
                    expect(file.read() == server.shown[backup["id"]], f"{at} is not restored")
                os.unlink(target)
        target = t.path("restored.qcow2")
        tool("restore", folder.path, target)
        expect("backing-filename" not in info(target), "it stands on the backup")
        refused("--force", "restore", folder.path, target, "--at", listed[0]["id"])
        run("qemu-img", "compare", target, os.path.join(folder.path, listed[-1]["file"]))
        tool("restore", folder.path, target, "--at", listed[0]["id"], "--force")
        run("qemu-img", "compare", target, os.path.join(folder.path, listed[0]["file"]))
        refused("the oldest backup here", "restore", folder.path, t.path("x"), "--at",
                "2001-01-01")
        for at in ("yesterday", "", "0001-01-01", "9999-12-31 23:59:59-12:00"):
            refused("is no time", "restore", folder.path, t.path("x"), "--at", at)
        refused("No such file", "restore", t.path("nowhere"), t.path("x"))
        refused("no backup here", "restore", t.folder, t.path("x"))
        same(sorted(glob.glob(t.path("*.partial")) + glob.glob(t.path("x*"))), [], "left")


# What may be meant is meant, to its last second.
@cases({"a day": ("%Y-%m-%d", 86399), "an hour": ("%Y-%m-%d %H", 3599),
        "a minute": ("%Y%m%dT%H%M", 59), "a second": ("%Y-%m-%dT%H:%M:%S", 0)})
def times(t, form, seconds):
    noon = datetime.datetime(2026, 11, 27).astimezone()
    same((show.parsed_moment(noon.strftime(form)) - noon).seconds, seconds, form)


# --force is for what has been thought of, and not for what others need.
@case
def restores_over_nothing_in_use(t):
    with a_chain(t, "fii") as (_, folder):
        for path in (folder.files()[0], folder.path + "/20270101T000000Z-12345678.qcow2",
                     folder.path + "/index.json"):
            refused("name of the backups", "restore", folder.path, path, "--force")
        folder.verify()
        disk = t.path("disk.qcow2")
        run("qemu-img", "create", "-q", "-f", "qcow2", disk, "1M")
        before = os.stat(disk).st_ino
        os.symlink(disk, t.path("link"))
        with Nbdkit(t, disk) as nbdkit:
            nbdkit.connect()
            for name in (disk, t.path("link")):
                refused("is in use", "restore", folder.path, name, "--force")
        same(os.stat(disk).st_ino, before, "the file that was served")
        # Two at once: the second leaves alone what the first has written.
        with open(disk + ".partial", "w") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            refused("another run", "restore", folder.path, disk, "--force", status=4)
            expect(os.path.exists(other.name), "what another run writes is gone")
        tool("restore", folder.path, disk, "--force")
        run("qemu-img", "compare", disk, folder.files()[-1])
        expect(not os.path.exists(disk + ".partial"), "left")


@case
def restores_to_a_server(t):
    with a_chain(t, "fi") as (server, folder):
        disk = t.path("disk.qcow2")
        run("qemu-img", "create", "-q", "-f", "qcow2", disk, len(server.disk))
        with Nbdkit(t, disk, "bitmap=b0") as nbdkit:
            uri = f"nbd+unix:///?socket={nbdkit.socket}"
            tool("restore", folder.path, uri, "--verify")
            refused("--force", "restore", folder.path, uri)
            tool("restore", folder.path, uri, "--force")
        run("qemu-img", "compare", disk, os.path.join(folder.path, folder.listed()[-1]["file"]))
        run("qemu-img", "create", "-q", "-f", "qcow2", disk, 1 << 20)
        with Nbdkit(t, disk) as nbdkit:
            refused("has 1048576 bytes", "restore", folder.path,
                    f"nbd+unix:///?socket={nbdkit.socket}")


@case
def damage_is_found(t):
    with a_chain(t, "fiif") as (_, folder):
        listed = folder.listed()
        path = os.path.join(folder.path, listed[1]["file"])
        with open(path, "r+b") as file:
            file.seek(-1, os.SEEK_END)
            last = file.read()[0]
        poke(path, os.path.getsize(path) - 1, bytes([last ^ 1]))
        said = tool("verify", folder.path, status=1)
        expect("another checksum" in said[0] and f"needs {listed[1]['file']}" in said[0], said)
        expect("2 of 4 backups" in said[1], said)
        poke(path, 0, b"QFJ")
        said = tool("verify", folder.path, status=1)
        expect("no qcow2 file" in said[0] and "2 of 4 backups" in said[1], said)
        expect("no qcow2 file" in tool("list", folder.path)[0], "list")
        os.unlink(path)
        said = tool("verify", folder.path, status=1)
        expect(f"{listed[1]['id']}: index.json has it" in said[0], said)


# --- prune


@case
def prunes(t):
    with a_chain(t, "fiifi") as (server, folder):
        inodes = {each["file"]: os.stat(os.path.join(folder.path, each["file"])).st_ino
                  for each in folder.listed()}
        tool("prune", folder.path, "--keep", 9)
        folder.check(5)
        tool("prune", folder.path, "--keep", 3)
        same(folder.kinds(), "ffi", "kinds")
        folder.check(3)
        tool("prune", folder.path, "--keep", 2)
        # Nothing had to be folded.
        for each in folder.listed():
            same(os.stat(os.path.join(folder.path, each["file"])).st_ino, inodes[each["file"]],
                 "the file of a backup that has no need to be folded")
        folder.verify()
        folder.change()
        folder.backup("--compress")
        tool("prune", folder.path, "--keep", 1)
        same(folder.kinds(), "f", "kinds")
        expect("compressed\": true" in json.dumps(folder.listed()), "it is not compressed")
        folder.change()
        folder.backup()
        same(folder.kinds(), "fi", "kinds")
        folder.check(2)
        folder.verify()


@cases({step: (step,) for step in ("folded", "noted", "synced", "renamed", "removed", "indexed")})
def prune_dies_after(t, step):
    with a_chain(t, "fiiii") as (_, folder):
        tool("prune", folder.path, "--keep", 2, die_at=step)
        folder.check({"removed": 4, "indexed": 2}.get(step, 5))
        said = tool("verify", folder.path, status=1 if step == "removed" else 0)
        expect(step != "removed" or "1 of 5" in said[1], said)
        # A backup may come before the next prune.
        folder.change()
        folder.backup()
        tool("prune", folder.path, "--keep", 2)
        same(folder.kinds(), "fi", "kinds")
        folder.check(2)
        folder.verify()


@case
def prune_removes_nothing_where_something_is_wrong(t):
    with a_chain(t, "fiii") as (_, folder):
        os.rename(os.path.join(folder.path, folder.listed()[1]["file"]), t.path("away"))
        with open(os.path.join(folder.path, "index.json"), "rb") as file:
            index = file.read()
        refused("is missing", "prune", folder.path, "--keep", 1)
        with open(os.path.join(folder.path, "index.json"), "rb") as file:
            same(file.read(), index, "index")
        same(len(folder.listed()), 3, "backups")


main(in_memory=True)
