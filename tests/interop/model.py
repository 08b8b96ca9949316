# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# What a disk must hold.

import struct

from judging import KiB, MiB, Wrong

SECTOR = 512


def payload(offset, length, generation):
    """Each 16 bytes tell which sector they were written to, and when."""
    first, last = offset // SECTOR, -(-(offset + length) // SECTOR)
    pack = struct.Struct(">QQ").pack
    data = b"".join([pack(sector, generation) * (SECTOR // 16) for sector in range(first, last)])
    return data[offset - first * SECTOR:offset - first * SECTOR + length]


class Model:
    """The bytes of a disk: pieces that are not in the dictionary are zero."""

    PIECE = 64 * KiB

    def __init__(self, size):
        self.size = size
        self.pieces = {}
        self.trim_may_keep = False  # whole clusters, too: over a backing file

    def copy(self):
        other = Model(self.size)
        other.trim_may_keep = self.trim_may_keep
        other.pieces = {number: bytearray(piece) for number, piece in self.pieces.items()}
        return other

    def resize(self, size):
        if size < self.size:
            self.zero(size, self.size - size)
            self.pieces = {n: p for n, p in self.pieces.items() if n * self.PIECE < size}
        self.size = size

    def write(self, offset, data):
        view = memoryview(data)
        done = 0
        while done < len(data):
            number, at = divmod(offset + done, self.PIECE)
            length = min(len(data) - done, self.PIECE - at)
            piece = self.pieces.get(number)
            if piece is None:
                piece = self.pieces[number] = bytearray(self.PIECE)
            piece[at:at + length] = view[done:done + length]
            done += length

    def zero(self, offset, length):
        end = offset + length
        first, last = -(-offset // self.PIECE), end // self.PIECE
        if first > last:
            first = last = offset // self.PIECE
        if first < last:
            if last - first > len(self.pieces):
                for number in [n for n in self.pieces if first <= n < last]:
                    del self.pieces[number]
            else:
                for number in range(first, last):
                    self.pieces.pop(number, None)
        for begin, stop in ((offset, min(end, first * self.PIECE)),
                            (max(offset, last * self.PIECE), end)) if first < last else \
                ((offset, end),):
            while begin < stop:
                number, at = divmod(begin, self.PIECE)
                length_ = min(stop - begin, self.PIECE - at)
                if number in self.pieces:
                    self.pieces[number][at:at + length_] = bytes(length_)
                begin += length_

    def read(self, offset, length):
        data = bytearray()
        while length:
            number, at = divmod(offset, self.PIECE)
            n = min(length, self.PIECE - at)
            piece = self.pieces.get(number)
            data += piece[at:at + n] if piece is not None else bytes(n)
            offset += n
            length -= n
        return bytes(data)

    def to_raw(self, path):
        with open(path, "wb") as f:
            f.truncate(self.size)
            for number, piece in self.pieces.items():
                f.seek(number * self.PIECE)
                f.write(piece[:self.size - number * self.PIECE])
        return path


def first_difference(found, expected, offset):
    for i, (a, b) in enumerate(zip(found, expected)):
        if a != b:
            at = i // 16 * 16
            return (f"at {offset + i:#x} (sector {(offset + i) // SECTOR}): found "
                    f"{found[at:at + 16].hex()}, expected {expected[at:at + 16].hex()}")
    return f"lengths {len(found)} and {len(expected)}"


def expect_bytes(found, expected, offset, what):
    if found != expected:
        raise Wrong(f"{what}: {first_difference(found, expected, offset)}")


def same_bytes(raw, model, length, what):
    """The file begins as the model does."""
    with open(raw, "rb") as f:
        for at in range(0, length, MiB):
            size = min(MiB, length - at)
            expect_bytes(f.read(size), model.read(at, size), at, what)
