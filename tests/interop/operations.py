# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# What clients do, drawn at random, and whether the disk then is as the model says.

import collections

import nbd

from byte_ranges import extents, join, qemu_bitmaps
from judging import GiB, KiB, MiB, Wrong, expect, same
from model import SECTOR, Model, expect_bytes, payload
from qcow2_file import Qcow2File

# kind: write, zero, trim, flush, read, cache. `flags`: NBD's, of libnbd.
Op = collections.namedtuple("Op", "kind offset length flags generation")


def describe(op):
    flags = "".join(word for bit, word in ((nbd.CMD_FLAG_FUA, " FUA"),
                                           (nbd.CMD_FLAG_NO_HOLE, " NO_HOLE")) if op.flags & bit)
    return f"{op.kind} {op.offset:#x}+{op.length:#x}{flags} generation {op.generation}"


class Operations:
    """Draws requests: odd alignments, near to what was touched before, to the
    borders of clusters, and to the disk's ends. Weights are drawn once."""

    KINDS = ("write", "zero", "zero-keep", "trim", "flush", "read")

    def __init__(self, rng, size, cluster, write_max=256 * KiB, zero_max=None, area=None):
        self.rng, self.size, self.cluster = rng, size, cluster
        self.write_max = max(1, min(write_max, size))
        self.zero_max = min(zero_max or max(size // 8, 1), size, 2 * GiB)
        self.weights = [rng.choice((4, 8)), rng.choice((1, 3)), rng.choice((1, 2)),
                        rng.choice((1, 3)), 1, 1]
        # Some requests stay here, so that they meet.
        self.area = area or (0, size)
        self.hot = [rng.randrange(size) for _ in range(6)] + [0, size - 1]
        self.generation = 0

    def place(self):
        rng = self.rng
        where = rng.random()
        if where < 0.5:
            at = rng.choice(self.hot) + rng.randrange(-2 * self.cluster, 2 * self.cluster + 1)
        elif where < 0.8:
            at = rng.randrange(*self.area)
        elif where < 0.9:
            at = self.size - rng.choice((1, 2, 511, 512, 513, self.cluster, 3 * self.cluster))
        else:
            at = rng.randrange(self.size)
        shape = rng.random()
        if shape < 0.35:
            at = at // self.cluster * self.cluster
        elif shape < 0.5:
            at = at // self.cluster * self.cluster + rng.choice((-512, -1, 1, 511, 512, 4096))
        elif shape < 0.75:
            at = at // SECTOR * SECTOR
        return min(max(at, 0), self.size - 1)

    def length(self, at, length_max):
        rng = self.rng
        length = rng.choice((
            lambda: rng.randrange(1, 20),
            lambda: SECTOR * rng.randrange(1, 9),
            lambda: rng.randrange(1, 3 * self.cluster),
            lambda: self.cluster * rng.randrange(1, 6),
            lambda: self.cluster - at % self.cluster,
            lambda: rng.randrange(1, length_max + 1),
        ))()
        return max(1, min(length, length_max, self.size - at))

    def next(self):
        rng = self.rng
        kind = rng.choices(self.KINDS, self.weights)[0]
        if kind == "flush":
            return Op(kind, 0, 0, 0, 0)
        at = self.place()
        length = self.length(at, self.zero_max if kind in ("zero", "zero-keep", "trim")
                             else self.write_max)
        flags = nbd.CMD_FLAG_FUA if kind not in ("read",) and rng.random() < 0.05 else 0
        if kind == "zero-keep":
            kind, flags = "zero", flags | nbd.CMD_FLAG_NO_HOLE
        self.generation += 1
        return Op(kind, at, length, flags, self.generation)

    def take(self, count):
        return [self.next() for _ in range(count)]


def touched(ops):
    """The ranges that these change."""
    return join((op.offset, op.offset + op.length) for op in ops
                if op.kind in ("write", "zero", "trim"))


def apply(op, h, model, cluster):
    """One request to a server and to the model, and what can be seen at once."""
    if op.kind == "write":
        data = payload(op.offset, op.length, op.generation)
        h.pwrite(data, op.offset, op.flags)
        model.write(op.offset, data)
    elif op.kind == "zero":
        h.zero(op.length, op.offset, op.flags)
        model.zero(op.offset, op.length)
    elif op.kind == "trim":
        h.trim(op.length, op.offset, op.flags)
        # Whole clusters read as zeros; of the rest it is not said, but nothing
        # else can be there than zeros or what was.
        end = op.offset + op.length
        first, last = -(-op.offset // cluster) * cluster, end // cluster * cluster
        edges = [(op.offset, end)] if first >= last else [(op.offset, first), (last, end)]
        if model.trim_may_keep:
            edges = [(op.offset, end)]
        elif first < last:
            model.zero(first, last - first)
        for begin, stop in edges:
            if begin == stop:
                continue
            found, was = h.pread(stop - begin, begin), model.read(begin, stop - begin)
            if found != was:
                expect_bytes(bytes(f and w for f, w in zip(found, was)), found, begin,
                             f"after {describe(op)}: neither zero nor what was")
                model.write(begin, found)
    elif op.kind == "flush":
        h.flush()
    elif op.kind == "read":
        expect_bytes(h.pread(op.length, op.offset), model.read(op.offset, op.length), op.offset,
                     describe(op))


def apply_all(ops, h, model, cluster):
    for number, op in enumerate(ops):
        try:
            apply(op, h, model, cluster)
        except (nbd.Error, Wrong) as error:
            raise Wrong(f"request {number}, {describe(op)}: {error}") from error


def read_all(h, model, what):
    """All that the model has, all that the server says is there, and some of
    the rest."""
    size = model.size
    same(h.get_size(), size, f"{what}: size")
    piece = 1 * MiB
    places = {number * Model.PIECE // piece for number in model.pieces}
    places |= {0, (size - 1) // piece}
    if size <= 64 * MiB:
        places |= set(range(-(-size // piece)))
    if h.can_meta_context("base:allocation"):
        for begin, end, flags in extents(h, "base:allocation"):
            if not flags & nbd.STATE_ZERO:
                places |= set(range(begin // piece, -(-end // piece)))
    for place in sorted(places):
        length = min(piece, size - place * piece)
        expect_bytes(h.pread(length, place * piece), model.read(place * piece, length),
                     place * piece, what)


def expect_zeros_are_zero(h, model, what):
    """Where block status says zero the disk is zero."""
    for begin, end, flags in extents(h, "base:allocation"):
        if flags & nbd.STATE_ZERO:
            for number in model.pieces:
                at = max(begin, number * Model.PIECE)
                stop = min(end, (number + 1) * Model.PIECE)
                if at < stop:
                    expect(not any(model.read(at, stop - at)),
                           f"{what}: block status says zero in {at:#x}..{stop:#x}, and it is not")


def expect_bitmap(t, path, name, expected, what):
    """A bitmap, as QEMU reads it and as the file's bytes say, is exactly this."""
    [by_qemu] = qemu_bitmaps(t, path, name)
    same(by_qemu, expected, f"{what}: bitmap {name} as QEMU reads it")
    image = Qcow2File(path)
    same(image.dirty(image.bitmaps()[name]), expected, f"{what}: bitmap {name} in the file")
