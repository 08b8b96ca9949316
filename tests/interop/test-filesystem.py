#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# A file system with files in it goes through real tools: into our server, out
# of it, and by its bitmap into an incremental backup. e2fsck finds nothing, the
# files are what they were.

import os
import shutil
import sys

sys.dont_write_bytecode = True
from interop import *  # noqa: E402, F403

requires("mke2fs", "e2fsck", "debugfs", "nbdcopy", "cmp")

SIZE = 64 * MiB


def make_tree(t, folder, count, generation):
    """Files of many sizes; returns name -> content."""
    files = {}
    os.makedirs(folder, exist_ok=True)
    for number in range(count):
        size = t.rng.choice((0, 1, 100, 4096, 5000, 70000, 300000, 2 * MiB))
        name = f"file-{generation}-{number}"
        files[name] = payload(number * 4 * MiB, size, generation) if number % 3 else \
            t.rng.randbytes(size)
        with open(os.path.join(folder, name), "wb") as f:
            f.write(files[name])
    return files


def make_filesystem(t, raw):
    files = make_tree(t, t.path("tree"), 40, 1)
    run("mke2fs", "-q", "-t", "ext4", "-b", 4096, "-d", t.path("tree"), raw, f"{SIZE // MiB}M")
    return files


def is_whole(t, raw, files):
    run("e2fsck", "-f", "-n", raw)
    out = t.path("out")
    shutil.rmtree(out, ignore_errors=True)
    os.mkdir(out)
    run("debugfs", "-R", f"rdump / {out}", raw)
    same(sorted(n for n in os.listdir(out) if n != "lost+found"), sorted(files), "names of files")
    for name, content in files.items():
        with open(os.path.join(out, name), "rb") as f:
            expect(f.read() == content, f"{name} is not what it was")


def uri(server):
    return f"nbd+unix:///?socket={server.socket}"


@cases({"64K": ("cluster_size=64K",), "4K": ("cluster_size=4K",), "512": ("cluster_size=512",),
        "2M": ("cluster_size=2M",), "v2": ("compat=0.10",)})
def in_and_out(t, options):
    raw, path = t.path("fs.raw"), t.path("disk.qcow2")
    files = make_filesystem(t, raw)
    create(path, SIZE, options)
    # By QEMU's client in, by nbdcopy out; then the other way round.
    with Nbdkit(t, path) as server:
        run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", raw, uri(server))
        run("nbdcopy", uri(server), t.path("out.raw"))
        run("qemu-img", "compare", "-f", "raw", "-F", "raw", raw, uri(server))
    check_cut(path)
    run("cmp", raw, t.path("out.raw"))
    compare(path, raw)
    is_whole(t, t.path("out.raw"), files)

    os.unlink(t.path("out.raw"))
    create(path, SIZE, options)
    with Nbdkit(t, path) as server:
        run("nbdcopy", "--connections=4", raw, uri(server))
        run("qemu-img", "convert", "-f", "raw", "-O", "raw", uri(server), t.path("out.raw"))
    check_cut(path)
    run("cmp", raw, t.path("out.raw"))
    compare(path, raw)
    is_whole(t, t.path("out.raw"), files)


@case
def an_incremental_backup(t):
    raw, path, backup = t.path("fs.raw"), t.path("disk.qcow2"), t.path("backup.raw")
    files = make_filesystem(t, raw)
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, path)
    # The full backup, and from here on a bitmap.
    run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, backup)
    add_bitmap(path, "since", 64 * KiB)

    for generation in (2, 3):
        # The file system changes: files go, others come.
        gone = t.rng.sample(sorted(files), 5)
        new = make_tree(t, t.path(f"tree{generation}"), 8, generation)
        commands = [f"rm {name}" for name in gone]
        commands += [f"write {t.path(f'tree{generation}')}/{name} {name}" for name in new]
        changed = t.path("changed.raw")
        shutil.copyfile(raw, changed)
        with open(t.path("commands"), "w") as f:
            f.write("\n".join(commands) + "\n")
        run("debugfs", "-w", "-f", t.path("commands"), changed)
        run("e2fsck", "-f", "-n", changed)
        for name in gone:
            del files[name]
        files.update(new)
        # Only the blocks that differ are written to us: what a guest would do.
        with open(raw, "rb") as f, open(changed, "rb") as g, \
                Nbdkit(t, path, "bitmap=since") as server:
            h = server.connect()
            blocks = 0
            for at in range(0, SIZE, 4096):
                was, now = f.read(4096), g.read(4096)
                if was != now:
                    blocks += 1
                    if any(now):
                        h.pwrite(now, at)
                    else:
                        h.zero(4096, at)
            h.flush()
        expect(blocks > 20, f"only {blocks} blocks have changed")
        check_cut(path)
        compare(path, changed)

        # The next backup copies what is dirty, and starts the bitmap anew.
        with QemuNbd(t, path, bitmaps=("since",), read_only=True) as server, \
                open(backup, "r+b") as f:
            h = server.connect("qemu:dirty-bitmap:since")
            copied = 0
            for begin, end, flags in extents(h, "qemu:dirty-bitmap:since"):
                if flags & 1:
                    f.seek(begin)
                    for at in range(begin, end, MiB):
                        f.write(h.pread(min(MiB, end - at), at))
                    copied += end - begin
        expect(blocks * 4096 <= copied < SIZE, f"{blocks} blocks changed, {copied} bytes copied")
        run("qemu-img", "bitmap", "--clear", path, "since")
        run("cmp", backup, changed)
        is_whole(t, backup, files)
        os.rename(changed, raw)


main()
