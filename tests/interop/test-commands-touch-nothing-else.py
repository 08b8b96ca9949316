#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# A bitmap is enabled, or changed in another way, while two clients write: no file is opened,
# and no bits of another bitmap are read. What that one has in memory stays there. (A server
# that opens the disk anew for it reads all tables again, holds up every client, and fails
# where a file was renamed.)
#
# What is read below us is what nbdkit's log filter says; what is opened, by whatever name,
# the kernel tells (inotify).

import ctypes
import os
import sys

sys.dont_write_bytecode = True
from interop import *  # noqa: E402, F403

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../e2e"))
from qmp import Qmp  # noqa: E402

SIZE, CLUSTER = 1 * GiB, 64 * KiB
IN_OPEN = 0x20


class Opens:
    """How often these files are opened from now on, by anybody."""

    def __init__(self, paths):
        libc = ctypes.CDLL(None, use_errno=True)
        self.fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        expect(self.fd >= 0, "inotify_init1:", os.strerror(ctypes.get_errno()))
        for path in paths:
            expect(libc.inotify_add_watch(self.fd, path.encode(), IN_OPEN) >= 0,
                   "inotify_add_watch:", os.strerror(ctypes.get_errno()))

    def since_last(self):
        try:
            return len(os.read(self.fd, 1 << 16)) // 16
        except BlockingIOError:
            return 0


class Writers:
    """Two clients that overwrite clusters which are there, each its own."""

    def __init__(self, server, offsets):
        self.ended, self.written = threading.Event(), [0, 0]
        self.threads = []
        for number in range(2):
            h = server.connect()
            self.threads.append(threading.Thread(target=self.run,
                                                 args=(h, number, offsets[number::2])))
        for thread in self.threads:
            thread.start()

    def run(self, h, number, offsets):
        while not self.ended.is_set():
            for offset in offsets:
                h.pwrite(bytes([self.written[number] % 256]) * 4096, offset)
                self.written[number] += 1
            h.flush()

    def go_on(self, more=20):
        """Until both have written so much more."""
        before = list(self.written)
        while any(now < then + more for now, then in zip(self.written, before)):
            expect(all(thread.is_alive() for thread in self.threads), "a writer has failed")
            time.sleep(0.001)

    def end(self):
        self.ended.set()
        for thread in self.threads:
            thread.join()


def bits_of(path, name):
    """Where the bits of a bitmap are. (Its table may be read, to know whose a cluster is.)"""
    image = Qcow2File(path)
    return [(entry, entry + CLUSTER) for entry in image.table(image.bitmaps()[name]) if entry > 1]


def reads(log):
    """Ranges that were read below us."""
    return [(int(offset, 16), int(offset, 16) + int(count, 16)) for offset, count in
            re.findall(r" Read id=\d+ offset=(0x[0-9a-f]+) count=(0x[0-9a-f]+)", log)]


@case
def a_bitmap_changes_while_two_write(t):
    path, base, log = t.path("disk.qcow2"), t.path("base.qcow2"), t.path("log")
    create(base, SIZE, f"cluster_size={CLUSTER}")
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", path)
    # One bit for each 512 bytes: four clusters of bits, of which one is touched below.
    add_bitmap(path, "b", 512)
    add_bitmap(path, "other", 65536, enabled=False)
    offsets = [n * 4 * MiB for n in range(64)]
    # There is room in the file: where it grows it is opened once more, by the layer below.
    qemu_io(path, *(f"write -P 1 {offset} 64k" for offset in offsets), f"write {SIZE - 32 * MiB} 16M",
            f"discard {SIZE - 32 * MiB} 16M")
    theirs = bits_of(path, "b")
    end_qemu()
    with Nbdkit(t, path, f"qcow2-control={t.path('qmp')}", f"qcow2-files={t.folder}",
                f"logfile={log}", below=("log",)) as server:
        writers = Writers(server, offsets)
        try:
            qmp = Qmp(t.path("qmp"))
            writers.go_on(len(offsets))  # all bits that they need are in memory
            opens = Opens([path, base])
            for command, arguments in (
                    ("enable", {"name": "other"}), ("disable", {"name": "other"}),
                    ("clear", {"name": "other"}),
                    ("add", {"name": "new", "persistent": True, "granularity": 65536}),
                    ("merge", {"target": "new", "bitmaps": ["other"]}),
                    ("remove", {"name": "new"})):
                with open(log) as f:
                    f.seek(0, os.SEEK_END)
                    qmp.do(f"block-dirty-bitmap-{command}", {"node": "disk", **arguments})
                    writers.go_on()
                    here = reads(f.read())
                same(opens.since_last(), 0, f"files opened by {command}")
                again = [(begin, end) for begin, end in here
                         if any(begin < b[1] and b[0] < end for b in theirs)]
                same(again, [], f"bits of the other bitmap read by {command}")
        finally:
            writers.end()
        # Such reads would be seen.
        expect(any(begin < theirs[0][1] and theirs[0][0] < end
                   for begin, end in reads(open(log).read())), "nothing is seen in the log")
    check(path)
    image = Qcow2File(path)
    covers = image.dirty(image.bitmaps()["b"])
    for offset in offsets:
        expect(any(begin <= offset and offset + 4096 <= end for begin, end in covers),
               f"what was written at {offset} is not dirty")


@case
def what_is_open_may_have_another_name_by_now(t):
    """And its lock is held all the time: what is locked is the file, not the name."""
    path, base, moved = t.path("disk.qcow2"), t.path("base.qcow2"), t.path("moved.qcow2")
    create(base, 64 * MiB)
    qemu_io(base, "write -P 7 0 64M")
    end_qemu()
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", path)
    with Nbdkit(t, path, f"qcow2-control={t.path('qmp')}", f"qcow2-files={t.folder}") as server:
        qmp = Qmp(t.path("qmp"))
        h = server.connect()
        h.pwrite(b"x" * 4096, 0)
        os.rename(base, moved)
        for command, arguments in (
                ("blockdev-snapshot-internal-sync", {"device": "disk", "name": "s"}),
                ("block_resize", {"node-name": "disk", "size": 128 * MiB}),
                ("blockdev-snapshot-delete-internal-sync", {"device": "disk", "name": "s"}),
                ("block-dirty-bitmap-add", {"node": "disk", "name": "b", "persistent": True})):
            qmp.do(command, arguments)
            same(bytes(h.pread(4096, 63 * MiB)), b"\7" * 4096, f"the backing file after {command}")
            refused = subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write 0 4k", moved],
                                     capture_output=True, text=True)
            expect(refused.returncode != 0 and "lock" in refused.stderr,
                   f"{command}: the backing file is not locked any more:", refused.stderr)
            h.pwrite(b"y" * 4096, 32 * MiB)
    os.rename(moved, base)
    check(path)


main()
