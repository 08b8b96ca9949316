#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# qcow2bitmap backup: every backup in a folder is the disk as it was at its instant,
# whenever the program or the server dies; what a run has left the next one removes; and
# an incremental backup is made only where it is right. (What is made of them:
# test-tool-restore.py.)

import fcntl
import glob
import json
import os
import signal
import subprocess
import sys

from backup_folder import Folder, a_chain
from interop import case, expect, info, main, run, same
from tool import BLOCK, TOOLS, FakeServer, refused, tool


@case
def full_then_incremental(t):
    with a_chain(t) as (server, folder):
        folder.check(3)
        folder.verify()
        server.write(5, 0)
        folder.backup("--compress", "--verify", "--rate", "100M")
        server.resize(80)
        server.write(79, 7)
        said = json.loads(folder.backup("--verify", "--json")[0])
        same(said["kind"], "incremental", "kind")
        expect(folder.backup("--quiet") == ("", ""), "--quiet is not")
        same(folder.kinds(), "fiiiii", "kinds")
        folder.check(6)
        folder.verify()
        for path in glob.glob(folder.path + "/*.qcow2"):
            expect("/" not in info(path).get("backing-filename", ""), "the folder can be moved")
        size = os.path.getsize(os.path.join(folder.path, folder.listed()[-1]["file"]))
        expect(size < 6 * BLOCK, f"an incremental backup of nothing has {size} bytes")


# Where it dies, and whether the server dies, too, before the next run.
DEATHS = [("noted", False), ("begun", False), ("begun", True),
          ("copied", False), ("synced", True), ("renamed", False), ("renamed", True),
          ("ended", False), ("dropped", True), ("indexed", False)]
COMMITTED = ("renamed", "ended", "dropped", "indexed")


# The next backup is right wherever this one dies, and is as small as it can be: on top of
# the newest file. So does a chain go on in which one dies at each step, one after the other.
@case
def incremental_one_dies(t):
    with FakeServer(t, 16) as server:
        folder, expected = Folder(t, server), "f"
        folder.backup()
        for step, server_dies in DEATHS:
            folder.change()
            folder.backup(die_at=step)
            folder.change()
            if server_dies:
                server.restart()
            if step in COMMITTED:
                expected += "i"
                folder.check(len(expected), 1)
            folder.backup()
            expected += "i"
            same(folder.kinds(), expected, f"{step}: kinds")
            folder.check(len(expected), 1)
            folder.check_clean()
        folder.verify()


@case
def first_one_dies(t):
    with FakeServer(t, 16) as server:
        for step, server_dies in DEATHS:
            folder = Folder(t, server, f"{step}-{server_dies}")
            folder.change()
            folder.backup(die_at=step)
            folder.change()
            if server_dies:
                server.restart()
            folder.check(1 if step in COMMITTED else 0)
            folder.backup()
            folder.change()
            folder.backup()
            same(folder.kinds(), "fii" if step in COMMITTED else "fi", f"{step}: kinds")
            folder.check(len(folder.kinds()), 2)
            folder.verify()


@case
def server_dies_while_it_is_read(t):
    with a_chain(t, "fi") as (server, folder):
        folder.change()
        server.on["backup-begin"] = lambda _: server.restart()
        refused("copying", "-s", server.socket, "backup", folder.path)
        server.on.clear()
        folder.check(2)
        folder.verify()
        folder.backup()
        same(folder.kinds(), "fii", "kinds")
        folder.check(3)


# In a new folder the .partial alone knows what on the server is ours.
@case
def cleaning_up_dies(t):
    with FakeServer(t, 16) as server:
        folder = Folder(t, server)
        folder.backup(die_at="begun")
        folder.backup(die_at="left-on-the-server")
        same(len(os.listdir(folder.path)), 2, f"{os.listdir(folder.path)}: the lock and .partial")
        same((len(server.backups), len(server.bitmaps)), (0, 0), "left on the server")
        folder.backup()
        folder.check(1)
        folder.verify()


@case
def server_goes_when_all_is_written(t):
    with a_chain(t, "f") as (server, folder):
        folder.change()

        def go(_):
            os.rename(server.socket, t.path("away"))
            raise OSError("the connection is closed")
        server.on["backup-end"] = go
        refused("The backup itself is in its place", "-s", server.socket, "backup", folder.path,
                status=3)
        os.rename(t.path("away"), server.socket)
        server.on.clear()
        folder.backup()
        folder.check(3)
        folder.verify()


@case
def names_that_are_not_ours(t):
    with a_chain(t, "f") as (server, folder):
        for name in ("20269927T221431Z-9e70dd6b.qcow2", "x.qcow2", "20260927T221431Z-9E.qcow2"):
            with open(os.path.join(folder.path, name), "w"):
                pass
        same(len(folder.listed()), 1, "backups")


@case
def server_gives_it_up(t):
    with a_chain(t, "f") as (server, folder):
        folder.change()
        server.on["backup-begin"] = lambda _: server.break_backup("the scratch is full")
        refused("had to give the backup up: the scratch is full",
                "-s", server.socket, "backup", folder.path)
        folder.verify()
        # A backup that breaks when all of it has been read has not failed.
        server.on.clear()
        server.breaks_at_the_end = True
        folder.backup()
        folder.change()
        server.breaks_at_the_end = False
        folder.backup()
        same(folder.kinds(), "fii", "kinds")
        folder.check(3)
        folder.verify()


@case
def wrong_bytes_are_found_by_verify(t):
    with a_chain(t, "fi") as (server, folder):
        # The bitmap misses a change.
        server.write(7, 1)
        for bitmap in server.bitmaps.values():
            bitmap["dirty"].clear()
        refused("not what the disk has", "-s", server.socket, "backup", folder.path, "--verify")
        folder.check(2)
        folder.verify()


def why_full(folder, *words):
    said = json.loads(folder.backup("--json", *words)[0])
    same(said["kind"], "full", "kind")
    return said["why-full"]


@case
def full_where_an_incremental_one_would_be_wrong(t):
    def expect_full(words, *more):
        why = why_full(folder, *more)
        expect(words in why, f"why: '{why}', expected '{words}'")
        folder.change()
        folder.backup()
        same(folder.kinds()[-2:], "fi", "kinds")
        folder.check(len(folder.kinds()), 2)
        folder.check_clean()

    with a_chain(t, "fi") as (server, folder):
        expect_full("--full asks", "--full")
        # The image is an older copy of itself.
        state = server.state()
        folder.change()
        folder.backup()
        folder.change()
        server.roll_back(state)
        expect_full("no bitmap that records since")
        # The bitmap was removed, and one made again.
        [name] = server.bitmaps
        del server.bitmaps[name]
        folder.change()
        server._block_dirty_bitmap_add("disk", "backup", True)
        why = why_full(folder)
        expect("no bitmap" in why, why)
        server.bitmaps.pop("backup")
        [name] = server.bitmaps
        server.bitmaps[name]["inconsistent"] = True
        expect_full("is inconsistent")
        [name] = server.bitmaps
        server.bitmaps[name]["enabled"] = False
        folder.change()
        expect_full("is disabled")
        server.resize(32)
        expect_full("the disk had 4 MiB, and has 2 MiB")
        folder.verify()
        # The newest file was cut, or has lost what it stands on.
        os.truncate(os.path.join(folder.path, folder.listed()[-1]["file"]), BLOCK)
        expect("bytes and has" in why_full(folder), "a file that was cut")


@case
def full_where_the_chain_is_broken(t):
    with a_chain(t, "fii") as (server, folder):
        os.unlink(os.path.join(folder.path, folder.listed()[1]["file"]))
        why = why_full(folder)
        expect("is missing" in why, why)
        listed = folder.listed()
        expect("is missing" in listed[1]["problem"], listed)
        refused("is missing", "restore", folder.path, t.path("x"), "--at", listed[1]["id"])
        said = tool("verify", folder.path, status=1)
        expect("is missing" in said[0] and "1 of 3 backups" in said[1], said)


@case
def folders_do_not_disturb_each_other(t):
    with a_chain(t, "fi") as (server, folder):
        other = Folder(t, server, "other")
        other.backup()
        for _ in range(2):
            other.change()
            other.backup()
            folder.change()
            folder.backup()
        same(folder.kinds() + " " + other.kinds(), "fiii fii", "kinds")
        folder.check(4)
        other.check(3)


@case
def one_at_a_time(t):
    with a_chain(t, "f") as (server, folder):
        with open(os.path.join(folder.path, ".lock"), "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            refused("another run of qcow2bitmap is at work", "-s", server.socket, "backup",
                    folder.path, status=4)
            refused("another run", "prune", folder.path, "--keep", 1, status=4)
            tool("verify", folder.path)
        with open(os.path.join(folder.path, ".readers"), "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)
            refused("somebody reads", "prune", folder.path, "--keep", 1, status=4)
            tool("verify", folder.path)
            folder.backup()
        folder.check(2)


# Nobody is killed while it reads: nbdkit 1.32 would die of that.
@case
def ended_by_a_signal(t):
    with a_chain(t, "f") as (server, folder):
        for name, status in (("TERM", 143), ("INT", 130)):
            def end(name=name):
                server.nbd.before_read = lambda: None
                os.killpg(process.pid, getattr(signal, f"SIG{name}"))
            server.nbd.before_read = end
            process = subprocess.Popen(
                [sys.executable, "-IB", TOOLS, "-s", server.socket, "backup", folder.path, "--full"],
                stderr=subprocess.PIPE, start_new_session=True)
            said = process.communicate()[1]
            same((process.returncode, said), (status, f"qcow2bitmap: ended by SIG{name}\n".encode()),
                 "how it ended")
            same(server.nbd.vanished, 0, "clients that did not take leave")
            folder.check(1)
            folder.verify()


@case
def index_is_lost(t):
    with a_chain(t, "fi") as (_, folder):
        index = os.path.join(folder.path, "index.json")
        os.unlink(index)
        folder.check(2)
        expect("without a checksum" in tool("verify", folder.path)[0], "verify")
        folder.backup()
        folder.check(3)
        folder.verify()
        with open(index, "w") as file:
            file.write("{")
        expect("cannot be read" in folder.backup()[1], "nothing is said")
        folder.verify()


# What is said where there is no room: where, and whether the backup is there.
@case
def room_ends(t):
    with a_chain(t, "f") as (server, folder):
        server.write(1, 1)
        os.mkdir(os.path.join(folder.path, "index.json.partial"))  # an error as any other
        refused("The backup itself is in its place", "-s", server.socket, "backup", folder.path)
        os.rmdir(os.path.join(folder.path, "index.json.partial"))
        server.write(2, 2)
        folder.backup()
        folder.check(3)
        folder.verify()
        if os.geteuid() != 0:
            return
        full = t.path("full")
        os.mkdir(full)
        run("mount", "-t", "tmpfs", "-o", "size=300k", "none", full)
        try:
            refused(f"{full}/2", "-s", server.socket, "backup", full)
            refused("No space left", "-s", server.socket, "backup", full)
            refused(f"{full}/x.partial", "restore", folder.path, f"{full}/x")
            same([name for name in os.listdir(full) if name[0] != "."], [], "left")
        finally:
            run("umount", full)
        folder.check_clean()


main(in_memory=True)
