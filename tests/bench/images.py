# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# The images that servers are measured on, in one folder. What is costly to make
# is made once and kept until the end of the run.

import array
import os
import shutil
import struct

from servers import KiB, MiB, run

CLUSTER = 64 * KiB
L2_ENTRIES = CLUSTER // 8
BLOCK_ENTRIES = CLUSTER // 2


class Images:
    def __init__(self, folder, filter):
        self.folder, self.filter = folder, filter

    def path(self, *words):
        return os.path.join(self.folder, "-".join(str(word) for word in words))

    def kept(self, make, *words):
        """The path of what make(path) makes, once."""
        path = self.path("kept", *words)
        if not os.path.exists(path):
            make(path + ".part")
            os.rename(path + ".part", path)
        return path

    def thin(self, variant, size, options=""):
        """A new image with nothing in it."""
        path = self.path(variant.name, f"thin.{variant.format}")
        if os.path.exists(path):
            os.unlink(path)
        self.create(path, variant.format, size, options)
        return path

    def create(self, path, format, size, options=""):
        if format == "raw":
            with open(path, "wb") as file:
                file.truncate(size)
            return
        words = ["-o", options] if options else []
        run("qemu-img", "create", "-q", "-f", "qcow2", *words, path, size)

    def full_raw(self, size):
        def make(path):
            with open(path, "wb") as file:
                for _ in range(size // MiB):
                    # Half of each cluster can be compressed.
                    file.write((os.urandom(32 * KiB) + bytes(4095) + b"x" + bytes(28 * KiB)) * 16)
        return self.kept(make, "full", size, "raw")

    def full(self, variant, size, *convert):
        """All of it written. Kept, one for each variant: only for reading and
        overwriting."""
        raw = self.full_raw(size)
        if variant.format == "raw":
            return raw
        return self.kept(lambda path: run("qemu-img", "convert", "-q", "-f", "raw", "-O", "qcow2", *convert,
                                          "-S", "0", raw, path), variant.family, "full", size, *convert)

    def full_copy(self, variant, size, snapshot=False):
        """The same, to be changed; with an internal snapshot of all."""
        path = self.path(variant.name, f"copy.{variant.format}")
        shutil.copyfile(self.full(variant, size), path)
        if snapshot:
            run("qemu-img", "snapshot", "-c", "before", path)
        return path

    def overlay(self, variant, size):
        base = self.kept(lambda path: run("qemu-img", "convert", "-q", "-f", "raw", "-O", "qcow2",
                                          "-S", "0", self.full_raw(size), path), "base", size, "qcow2")
        path = self.path(variant.name, "overlay.qcow2")
        if os.path.exists(path):
            os.unlink(path)
        run("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", path)
        return path

    def mapped(self, variant, size):
        """All clusters are mapped, side by side, and not yet written to. Made
        anew by copying tables, not holes."""
        if variant.format == "raw":
            return self.thin(variant, size)
        kept = self.kept(lambda path: self.create(path, "qcow2", size, "preallocation=metadata"),
                         "mapped", size, "qcow2")
        return self.copied(variant, kept)

    def copied(self, variant, kept):
        path = self.path(variant.name, "copied.qcow2")
        run("cp", "--sparse=always", kept, path)
        return path

    def with_bitmaps(self, variant, size, count):
        def make(path):
            self.create(path, "qcow2", size)
            if count <= 16:
                for number in range(count):
                    run("qemu-img", "bitmap", "--add", path, f"b{number}")
            else:  # qemu-img writes the whole directory for each
                run("nbdkit", "-U", "-", "--filter=" + self.filter, "file", path,
                    *(f"bitmap=b{number}" for number in range(count)), "--run", 'nbdinfo --size "$uri"')
        if variant.format == "raw":
            return self.thin(variant, size)
        return self.kept(make, variant.family, "bitmaps", count, size)

    def with_snapshots(self, variant, size, count):
        def make(path):
            self.create(path, "qcow2", size)
            for number in range(count):
                run("qemu-img", "snapshot", "-c", f"s{number}", path)
        return self.kept(make, variant.family, "snapshots", count, size)

    def fragmented(self, variant, size, run_clusters):
        """Every other run of so many clusters is mapped, all in holes of the
        file. (No program of QEMU makes that in reasonable time.)"""
        return self.kept(lambda path: write_alternating(path, size, run_clusters),
                         variant.family, "fragmented", size, run_clusters)


def big_endian(words):
    words.byteswap()
    return words.tobytes()


def write_alternating(path, size, run_clusters):
    """Header, L1, refcount table and blocks, L2 tables, data (holes)."""
    clusters = size // CLUSTER
    tables = clusters // L2_ENTRIES
    data = clusters // 2
    l1_clusters = -(-tables * 8 // CLUSTER)
    blocks = table_clusters = 1
    while True:  # the refcounts count themselves
        used = 1 + l1_clusters + table_clusters + blocks + tables + data
        wanted = -(-used // BLOCK_ENTRIES), -(-blocks * 8 // CLUSTER)
        if (blocks, table_clusters) == wanted:
            break
        blocks, table_clusters = wanted
    l1 = 1
    refcount_table = l1 + l1_clusters
    first_block = refcount_table + table_clusters
    first_l2 = first_block + blocks
    next_data = first_l2 + tables
    header = struct.pack(">4sIQIIQIIQQIIQQQQII", b"QFI\xfb", 3, 0, 0, 16, size, 0, tables,
                         l1 * CLUSTER, refcount_table * CLUSTER, table_clusters, 0, 0, 0, 0, 0, 4, 104)
    copied = 1 << 63
    with open(path, "wb") as file:
        file.write(header)
        file.seek(l1 * CLUSTER)
        file.write(big_endian(array.array("Q", (copied | (first_l2 + i) * CLUSTER for i in range(tables)))))
        file.seek(refcount_table * CLUSTER)
        file.write(big_endian(array.array("Q", ((first_block + i) * CLUSTER for i in range(blocks)))))
        for i in range(blocks):
            file.seek((first_block + i) * CLUSTER)
            file.write(b"\0\1" * min(used - i * BLOCK_ENTRIES, BLOCK_ENTRIES))
        for i in range(tables):
            words = array.array("Q", bytes(CLUSTER))
            for entry in range(0, L2_ENTRIES, 2 * run_clusters):
                begin = copied | next_data * CLUSTER
                words[entry:entry + run_clusters] = array.array(
                    "Q", range(begin, begin + run_clusters * CLUSTER, CLUSTER))
                next_data += run_clusters
            file.seek((first_l2 + i) * CLUSTER)
            file.write(big_endian(words))
        file.truncate(used * CLUSTER)
