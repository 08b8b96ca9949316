# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# qcow2bitmap backup, list, restore, verify and prune: every backup in a folder is the
# disk as it was at its instant, whenever the program or the server dies; what a run has
# left the next one removes; and an incremental backup is made only where it is right.

import contextlib
import datetime
import fcntl
import glob
import json
import os
import signal
import subprocess
import sys

from interop import Nbdkit, case, cases, expect, info, main, poke, run, same
from tool import BLOCK, TOOLS, FakeServer, refused, tool

sys.path.append(TOOLS)
import show  # noqa: E402
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


# --- backup


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
