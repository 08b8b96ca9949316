# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# The file's bytes, read by the format's text.

import collections
import re
import struct

from byte_ranges import join
from judging import MiB, expect, same

Bitmap = collections.namedtuple(
    "Bitmap", "name at table_offset table_size flags type granularity extra")
IN_USE, AUTO = 1, 2
BITMAPS_EXTENSION = 0x23852875


class Qcow2File:
    """The header, its extensions and the bitmaps of an image as they are in the
    file now."""

    def __init__(self, path):
        self.path = path
        with open(path, "rb") as f:
            head = f.read(2 * MiB)
        self.head = head
        (magic, self.version, self.backing_offset, _, self.cluster_bits, self.size) = \
            struct.unpack_from(">IIQIIQ", head)
        same(magic, 0x514649fb, f"{path}: magic")
        self.cluster_size = 1 << self.cluster_bits
        self.disk_size = self.size // 512 * 512
        self.incompatible = self.compatible = self.autoclear = 0
        self.header_length = 72
        if self.version >= 3:
            (self.incompatible, self.compatible, self.autoclear, _, self.header_length) = \
                struct.unpack_from(">QQQII", head, 72)
        self.extensions = []  # (type, bytes, place)
        place = self.header_length
        while place + 8 <= min(len(head), self.cluster_size):
            kind, length = struct.unpack_from(">II", head, place)
            if kind == 0:
                break
            self.extensions.append((kind, head[place + 8:place + 8 + length], place))
            place += 8 + (length + 7) // 8 * 8

    def extension(self, kind):
        found = [data for k, data, _ in self.extensions if k == kind]
        return found[0] if found else None

    def read(self, offset, length):
        with open(self.path, "rb") as f:
            f.seek(offset)
            data = f.read(length)
        return data + bytes(length - len(data))

    def bitmaps(self):
        """name -> Bitmap"""
        extension = self.extension(BITMAPS_EXTENSION)
        if extension is None:
            return {}
        same(len(extension), 24, f"{self.path}: length of the bitmaps extension")
        count, reserved, size, offset = struct.unpack(">IIQQ", extension)
        same(reserved, 0, f"{self.path}: reserved word of the bitmaps extension")
        directory = self.read(offset, size)
        found, place = {}, 0
        for _ in range(count):
            table, entries, flags, kind, bits, name_size, extra_size = \
                struct.unpack_from(">QIIBBHI", directory, place)
            name_at = place + 24 + extra_size
            name = directory[name_at:name_at + name_size].decode()
            found[name] = Bitmap(name, offset + place, table, entries, flags, kind, 1 << bits,
                                 directory[place + 24:name_at])
            place += (24 + extra_size + name_size + 7) // 8 * 8
        same(place, size, f"{self.path}: bytes in the bitmap directory")
        same(len(found), count, f"{self.path}: bitmaps of different names")
        return found

    def table(self, bitmap):
        data = self.read(bitmap.table_offset, bitmap.table_size * 8)
        return struct.unpack(f">{bitmap.table_size}Q", data)

    def dirty(self, bitmap):
        """The ranges that are set; the tail must be clear."""
        count = -(-self.disk_size // bitmap.granularity)
        same(bitmap.table_size, -(-(-(-count // 8)) // self.cluster_size),
             f"{self.path}: entries in the table of {bitmap.name}")
        found = []
        for index, entry in enumerate(self.table(bitmap)):
            first = index * self.cluster_size * 8
            if entry in (0, 1):
                if entry:
                    found.append((first, min(count, first + self.cluster_size * 8)))
                continue
            same(entry & ~0x00fffffffffffe00, 0, f"{self.path}: reserved bits in a bitmap table")
            data = self.read(entry, self.cluster_size)
            for run_ in re.finditer(rb"\xff+|[^\x00\xff]", data):
                at = first + run_.start() * 8
                if run_[0][0] == 0xff:
                    found.append((at, at + len(run_[0]) * 8))
                else:
                    byte = run_[0][0]
                    found += [(at + i, at + i + 1) for i in range(8) if byte >> i & 1]
        found = join(found)
        expect(not found or found[-1][1] <= count,
               f"{self.path}: bitmap {bitmap.name} has bits set behind its end")
        g = bitmap.granularity
        return [(begin * g, min(end * g, self.disk_size)) for begin, end in found]

    def everything_of(self, bitmap):
        """What must not change of a bitmap that is carried along: all that
        belongs to it, and where."""
        data = [self.read(e, self.cluster_size) if e > 1 else b"" for e in self.table(bitmap)]
        return bitmap._replace(at=0), self.table(bitmap), data


def poke(path, offset, data):
    with open(path, "r+b") as f:
        f.seek(offset)
        f.write(data)


def poke_flags(path, name, flags):
    """Sets the flags word of a bitmap."""
    poke(path, Qcow2File(path).bitmaps()[name].at + 12, struct.pack(">I", flags))
