#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# `make check-guest`: a virtual machine with an ext4 file system on a disk that the filter
# serves, connected as the README says. Five workers write, rename, remove, sync and trim in
# it. Meanwhile it is backed up ten times, and each backup must be what the disk of a
# machine is that lost its power: after the journal was replayed, e2fsck finds nothing, and
# all that was on the disk when the backup was asked for is there. At last a machine starts
# from the newest one.
#
# Not a part of `make check`: it downloads what is not installed (machine.py).

import glob
import json
import os
import re
import shlex
import shutil
import subprocess
import time

from interop import KiB, MiB, Nbdkit, case, check, expect, main, requires, run, same
from machine import Machine, Parts
from tool import tool

BACKUPS = int(os.environ.get("BACKUPS") or 10)
SIZE = 384 * MiB


def contents(worker, n):
    """As in guest-init.sh."""
    first = worker * 1000000 + n
    return b"".join(b"%d\n" % number for number in range(first, first + n * 7919 % 7500 + 1))


def block(worker, n):
    first = worker * 1000000 + n
    return b"".join(b"%d\n" % number for number in range(first, first + 512))


def readme(pattern):
    """The command of the README that matches, as words."""
    with open(os.path.join(os.environ["top_srcdir"], "README.md")) as file:
        text = file.read().replace("\\\n", " ")
    [line] = re.findall(rf"^    ({pattern}.*)$", text, re.M)
    return shlex.split(line)


def machine_of(t, parts, server):
    """A machine with the disk of this server, as the README says it."""
    words = [word.replace("/run/vm1.nbd", server.socket)
             for word in readme("qemu-system-x86_64")]
    expect(server.socket in " ".join(words), words)
    initramfs = t.path("initramfs")
    if not os.path.exists(initramfs):
        parts.make_initramfs(initramfs)
    return Machine(t, parts, initramfs, words)


def e2fsck(raw, *options):
    done = subprocess.run(["e2fsck", "-f", *options, raw], capture_output=True, text=True,
                          stdin=subprocess.DEVNULL)
    return done.returncode, done.stdout + done.stderr


# What e2fsck may say when all it does is to replay the journal, and to end what the journal
# says was under way: files that were being removed, or cut. And two sums in the superblock:
# ext4 brings them up to date when it is unmounted, and makes them anew from those of the
# groups, which must be right, when it is mounted. (So it is with a machine that is killed on
# a raw disk of `nbdkit file`.)
REPLAYED = re.compile(r"""e2fsck\ .* | .*:\ recovering\ journal | Pass\ [1-5]:\ .* |
    Clearing\ orphaned\ inode\ .* | Truncating\ orphaned\ inode\ .* |
    Free\ (blocks|inodes)\ count\ wrong\ \(\d+,\ counted=\d+\)\. | Fix\?\ yes |
    .*:\ \*+\ FILE\ SYSTEM\ WAS\ MODIFIED\ \*+ |
    .*:\ \d+/\d+\ files\ .* | \s*""", re.X)


def recover(raw, replays=True):
    """The file system after a loss of power: the journal, and nothing else."""
    status, said = e2fsck(raw, "-y")
    expect(status in (0, 1), f"e2fsck: exit status {status}\n{said}")
    strange = [line for line in said.splitlines() if not REPLAYED.fullmatch(line)]
    same(strange, [], "e2fsck: more than a replay")
    same("recovering journal" in said, replays, "the journal was replayed")
    status, said = e2fsck(raw, "-n")
    same(status, 0, f"e2fsck again: {said}; exit status")


def files_of(t, raw):
    """The files of the file system, in a folder."""
    folder = t.path("files")
    shutil.rmtree(folder, ignore_errors=True)
    os.mkdir(folder)
    done = subprocess.run(["debugfs", "-R", f"rdump / {folder}", raw], capture_output=True,
                          text=True, stdin=subprocess.DEVNULL)
    same((done.returncode, done.stderr.strip().splitlines()[1:]), (0, []), "debugfs")
    return folder


def read(path):
    with open(path, "rb") as file:
        return file.read()


def check_files(folder, steps):
    """`steps`: worker -> the last step that was on the disk. Returns the number of files
    and blocks that had to be there."""
    count = 0
    for worker in (1, 2):
        place = os.path.join(folder, f"files-{worker}")
        there = {int(name) for name in os.listdir(place) if name != "new"}
        last = steps[worker]
        synced = set(range(max(1, last - 39), last + 1))
        # Steps after that one may have removed the oldest, and no other.
        newest = max(there | {last})
        expect(synced - there <= set(range(1, newest - 39)),
               f"worker {worker}: synced up to {last}, missing are {sorted(synced - there)}")
        expect(not there & set(range(1, last - 39)),
               f"worker {worker}: synced up to {last}, removed and there again are "
               f"{sorted(there & set(range(1, last - 39)))}")
        for n in sorted(there):
            # What was not synced may be shorter, where its data were not written yet.
            found = read(os.path.join(place, str(n)))
            if n in synced:
                expect(found == contents(worker, n), f"worker {worker}: file {n} is wrong")
                count += 1
    found = read(os.path.join(folder, "replaced/now"))
    n = int(found.split(b"\n", 1)[0]) - 3000000
    expect(n >= steps[3] and found == contents(3, n), f"replaced/now: {n}, synced was {steps[3]}")
    count += 1
    return count + check_blocks(read(os.path.join(folder, "blocks")), steps[4])


def check_blocks(data, last):
    """Each one is whole, and not older than what was synced."""
    same(len(data), 2048 * 4 * KiB, "length of blocks")
    synced = {n * 37 % 2048: n for n in range(1, last + 1)}
    for place in range(2048):
        found = data[place * 4 * KiB:(place + 1) * 4 * KiB]
        n = int(found.split(b"\n", 1)[0]) - 4000000 if any(found) else 0
        expect(not n or (found == block(4, n) and n * 37 % 2048 == place),
               f"block {place}: not as any step has written it")
        expect(n >= synced.get(place, 0), f"block {place}: of step {n}, synced was {synced.get(place)}")
    return len(synced)


class Backups:
    """A folder of them, and what had to be on the disk at the instant of each."""

    def __init__(self, t, control):
        self.t, self.control, self.folder = t, control, t.path("backups")
        os.mkdir(self.folder)
        self.made = []  # (id, steps before it)

    def make(self, machine, *words):
        steps = machine.steps()
        begun = time.monotonic()
        made = json.loads(tool("-s", self.control, "backup", self.folder, "--json", *words)[0])
        took = time.monotonic() - begun
        meanwhile = sum(machine.steps().values()) - sum(steps.values())
        same(made["kind"], "incremental" if self.made else "full", f"backup {len(self.made) + 1}")
        print(f"backup {len(self.made) + 1:2}: {made['kind']:11} {' '.join(words):18} "
              f"{made['dirty-bytes'] / MiB:6.1f} MiB, {took:4.1f} s, "
              f"{meanwhile} steps of the machine meanwhile", flush=True)
        self.made.append((made["id"], steps))
        return meanwhile

    def check(self):
        raw = self.t.path("restored.raw")
        for number, (id_, steps) in enumerate(self.made, 1):
            tool("restore", self.folder, raw, "--at", id_, "--format", "raw", "--force")
            recover(raw)
            count = check_files(files_of(self.t, raw), steps)
            print(f"restored {number:2}: clean, {count} files and blocks are right", flush=True)


@case
def backups_of_a_machine(t):
    parts = Parts()
    disk, control = t.path("vm1.qcow2"), t.path("vm1.qmp")
    raw = t.path("disk.raw")
    with open(raw, "wb") as file:
        file.truncate(SIZE)
    run("mke2fs", "-q", "-t", "ext4", raw)
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, disk)
    os.unlink(raw)
    backups = Backups(t, control)
    meanwhile = 0
    with Nbdkit(t, disk, f"qcow2-control={control}", idle_ms=None) as server:
        machine = machine_of(t, parts, server)
        begun = time.monotonic()
        machine.hear("up")
        print(f"the machine is up after {time.monotonic() - begun:.1f} s", flush=True)
        machine.order("work")
        for number in range(BACKUPS):
            machine.wait_for_steps(2)
            meanwhile += backups.make(machine, *((), ("--verify",), ("--compress",))[number % 3])
        machine.off()
    expect(meanwhile > 0, "the machine did nothing while backups were made")
    check(disk)
    run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", disk, raw)
    recover(raw, replays=False)
    backups.check()
    start_from_the_newest(t, parts, backups)


def start_from_the_newest(t, parts, backups):
    """As the README says it: at once, on a new file."""
    now = t.path("now.qcow2")
    newest = sorted(glob.glob(backups.folder + "/*.qcow2"))[-1]
    before = {path: read(path) for path in glob.glob(backups.folder + "/*")}
    run("qemu-img", "create", "-f", "qcow2", "-F", "qcow2", "-b", newest, now)
    with Nbdkit(t, now, f"qcow2-files={backups.folder}", idle_ms=None) as server:
        machine = machine_of(t, parts, server)
        machine.hear("up")
        last = backups.made[-1][1]
        machine.order(f"check {last[1]} {last[2]}")
        right = int(machine.hear(r"right \d+").split()[1])
        expect(right >= min(last[1], 39) + min(last[2], 39), f"only {right} files are there")
        machine.order("work")
        machine.wait_for_steps(2)
        machine.off()
    print(f"a machine started from the newest: {right} files right, wrote on", flush=True)
    check(now)
    raw = t.path("now.raw")
    run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", now, raw)
    recover(raw, replays=False)
    same({path: read(path) for path in glob.glob(backups.folder + "/*")}, before,
         "the folder of backups")


requires("apt-get", "debugfs", "dpkg-deb", "e2fsck", "mke2fs")
main(case_seconds=850)
