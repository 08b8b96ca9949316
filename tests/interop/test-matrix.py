#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# Every option of `qemu-img create -o help` for qcow2 (but for encryption),
# crossed with random requests of two clients and a restart in the middle.
#
# The crossings are a sample: of each option all values come up in turns, in an
# order drawn from the seed. QCOW2_COUNT is the number of crossings, QCOW2_SEED
# the seed (the same as SEED). A crossing is repeated by
#
#     QCOW2_SEED=N QCOW2_COUNT=M test-matrix.py crossing:NUMBER

import concurrent.futures
import os
import random
import sys

sys.dont_write_bytecode = True
if "QCOW2_SEED" in os.environ:
    os.environ["SEED"] = os.environ["QCOW2_SEED"]
from interop import *  # noqa: E402, F403

COUNT = int(os.environ.get("QCOW2_COUNT", "52"))

OPTIONS = {
    "compat": ("1.1", "1.1", "0.10", "1.1"),
    "cluster": tuple(1 << bits for bits in range(9, 22)),
    "refcount_bits": (16, 1, 16, 2, 16, 4, 8, 16, 32, 64),
    "lazy_refcounts": ("off", "on", "off"),
    "preallocation": ("off", "off", "off", "metadata", "falloc", "full"),
    "compression_type": ("zlib", "zstd"),
    "compressed": (False, True),
    "extended_l2": ("off", "on"),
    "below": ("nothing", "data_file", "data_file_raw", "raw-shorter", "nothing", "raw-longer",
              "qcow2-shorter", "qcow2-longer"),
    "snapshot": (False, True, False),
    "discard": ("unmap", "keep", "unmap"),
    "granularity": (512, 4 * KiB, 64 * KiB, 1 * MiB),
}


def crossing_of(seed, number):
    """The number-th crossing, made valid."""
    drawn = {}
    for option, values in OPTIONS.items():
        turn, at = divmod(number, len(values))
        turned = list(values)
        random.Random(f"{seed} {option} {turn}").shuffle(turned)
        drawn[option] = turned[at]
    cluster = drawn["cluster"]
    if drawn["compat"] == "0.10":
        drawn.update(refcount_bits=16, lazy_refcounts="off", compression_type="zlib",
                     extended_l2="off")
        if drawn["below"].startswith("data_file"):
            drawn["below"] = "nothing"
    if drawn["extended_l2"] == "on" and cluster < 16 * KiB:
        # So that those large enough are not all.
        drawn["extended_l2"] = "off"
    if drawn["below"].startswith("data_file"):
        drawn.update(snapshot=False, compressed=False)
    if drawn["preallocation"] != "off":
        drawn["compressed"] = False
        if "-" in drawn["below"] and drawn["extended_l2"] == "off":
            drawn["preallocation"] = "off"
    if drawn["refcount_bits"] == 1:
        drawn["snapshot"] = False
    return drawn


class Guest:
    """What two clients do to one disk, and what it must then hold."""

    UNTOUCHED, MAYBE, OWN = 0, 1, 2

    def __init__(self, model, crossing):
        self.model, self.crossing = model, crossing
        self.part = crossing["cluster"] // (32 if crossing["extended_l2"] == "on" else 1)
        self.parts = {}  # number -> MAYBE or OWN; of a version 2 image, too
        self.compressed = set()  # parts; one alone cannot be trimmed
        self.backed = "-" in crossing["below"]

    def send(self, op, h):
        if op.kind == "write":
            h.pwrite(payload(op.offset, op.length, op.generation), op.offset, op.flags)
        elif op.kind == "zero":
            h.zero(op.length, op.offset, op.flags)
        elif op.kind == "trim":
            h.trim(op.length, op.offset, op.flags)
        elif op.kind == "flush":
            h.flush()
        elif op.kind == "read":
            return h.pread(op.length, op.offset)
        return None

    def pieces(self, begin, end):
        """(number, begin, end) of each part that is in the range."""
        while begin < end:
            number = begin // self.part
            stop = min(end, (number + 1) * self.part)
            yield number, begin, stop
            begin = stop

    def account(self, op, h, answer):
        model, end = self.model, op.offset + op.length
        if op.kind == "read":
            expect_bytes(answer, model.read(op.offset, op.length), op.offset, describe(op))
        elif op.kind == "write":
            model.write(op.offset, payload(op.offset, op.length, op.generation))
            for number, _, _ in self.pieces(op.offset, end):
                self.parts[number] = self.OWN
        elif op.kind == "zero":
            if self.backed:
                for number, at, stop in self.pieces(op.offset, end):
                    # Where there are zeros nothing may have been done.
                    changed = any(model.read(at, stop - at))
                    self.parts[number] = max(self.parts.get(number, 0),
                                             self.OWN if changed else self.MAYBE)
            model.zero(op.offset, op.length)
        elif op.kind == "trim":
            self.account_trim(op, h, end)

    def account_trim(self, op, h, end):
        """Whole parts of its own read as zeros, what never was written shows
        the backing file, and of borders it is not said."""
        found = h.pread(op.length, op.offset)
        was = self.model.read(op.offset, op.length)
        crossing = self.crossing
        for number, at, stop in self.pieces(op.offset, end):
            now = found[at - op.offset:stop - op.offset]
            before = was[at - op.offset:stop - op.offset]
            whole = at == number * self.part and stop == min((number + 1) * self.part,
                                                             self.model.size)
            what = f"after {describe(op)}"
            zeros = bytes(len(now))
            if number in self.compressed:
                expect(now in (zeros, before), f"{what}: at {at:#x} neither zeros nor what was")
            elif crossing["below"] == "data_file_raw":
                expect_bytes(now, zeros, at, f"{what}: a raw data file")
            elif not whole:
                if now != before:
                    expect_bytes(bytes(n and b for n, b in zip(now, before)), now, at,
                                 f"{what}: neither zero nor what was")
            elif crossing["compat"] == "0.10" and (self.backed or crossing["discard"] == "keep"):
                # It has no zero flag: the bytes stay.
                expect_bytes(now, before, at, f"{what}: version 2")
            elif not self.backed or self.parts.get(number) == self.OWN or \
                    crossing["discard"] == "keep":
                expect_bytes(now, zeros, at, f"{what}: was written before")
            elif self.parts.get(number) == self.MAYBE:
                expect(now in (zeros, before), f"{what}: at {at:#x} neither zeros nor what was")
            else:
                expect_bytes(now, before, at, f"{what}: never written")
        self.model.write(op.offset, found)

    def run(self, ops, handles, rng):
        """Now one, now the other; and if they do not meet, both at once."""
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            at = 0
            while at < len(ops):
                pair = ops[at:at + 2]
                if len(pair) < 2 or rng.random() < 0.5 or self.meet(*pair):
                    pair = pair[:1]
                handles = handles[::rng.choice((1, -1))]
                at += len(pair)
                try:
                    answers = [done.result() for done in
                               [pool.submit(self.send, op, h) for op, h in zip(pair, handles)]]
                    for op, answer in zip(pair, answers):
                        self.account(op, handles[-1], answer)
                except (nbd.Error, Wrong) as error:
                    raise Wrong(f"request {at}, {' with '.join(map(describe, pair))}: {error}") \
                        from error

    @staticmethod
    def meet(a, b):
        return a.offset < b.offset + b.length and b.offset < a.offset + a.length


def make_base(t, rng, size, kind):
    """A file for below the image, and what the image then shows."""
    form, length = kind.split("-")
    if length == "shorter":
        base_size = max(512, int(size * rng.choice((0.3, 0.6, 0.9))) // 512 * 512)
    else:
        base_size = size + rng.randrange(1, 3 * MiB) // 512 * 512
    if form == "raw" and rng.random() < 0.3:
        base_size += rng.randrange(1, 512)  # read as if zeros followed
    model = Model(base_size)
    for _ in range(8):
        at = rng.randrange(base_size)
        model.write(at, rng.randbytes(min(base_size - at, rng.randrange(1, 700 * KiB))))
    raw = model.to_raw(t.path("base.raw"))
    path = raw
    if form == "qcow2":
        path = t.path("base.qcow2")
        run("qemu-img", "convert", *rng.choice(((), ("-c",))), "-f", "raw", "-O", "qcow2", "-o",
            f"cluster_size={1 << rng.randrange(9, 19)}", raw, path)
        os.unlink(raw)
    shown = Model(size)
    shown.write(0, model.read(0, min(size, base_size)))
    return os.path.basename(path) if rng.random() < 0.5 else path, form, shown


def write_compressed(path, model, rng, cluster):
    commands = []
    for at in {rng.randrange(model.size // cluster) * cluster for _ in range(12)}:
        pattern = rng.randrange(256)
        commands.append(f"write -c -P {pattern} {at} {cluster}")
        model.write(at, bytes([pattern]) * cluster)
    qemu_io(path, *commands)
    return [int(command.split()[4]) for command in commands]


@cases({f"{number:03}": (number,) for number in range(COUNT)})
def crossing(t, number):
    c = crossing_of(t.seed, number)
    rng, cluster, path = t.rng, c["cluster"], t.path("disk.qcow2")
    size = rng.choice((rng.randrange(2, 12) * cluster, rng.randrange(1 * MiB, 3 * MiB)))
    size = min(max(size, 256 * KiB), 12 * MiB) // 512 * 512
    if cluster <= 1 * KiB:
        size = min(size, 2 * MiB)

    words = [f"cluster_size={cluster}", f"compat={c['compat']}"]
    if c["compat"] == "1.1":
        words += [f"{key}={c[key]}" for key in ("refcount_bits", "lazy_refcounts", "extended_l2",
                                                "compression_type")]
    words.append(f"preallocation={c['preallocation']}")
    model = Model(size)
    if c["below"].startswith("data_file"):
        words.append(f"data_file={t.path('data')}")
        if c["below"] == "data_file_raw":
            words.append("data_file_raw=on")
    elif c["below"] != "nothing":
        base, form, model = make_base(t, rng, size, c["below"])
        words += [f"backing_file={base}", f"backing_fmt={form}"]
    options = ",".join(words)
    try:
        run("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, "disk.qcow2", size,
            cwd=t.folder)
        one_crossing(t, c, rng, path, model)
    except (nbd.Error, Wrong) as error:
        raise Wrong(f"{error}\n    made by: qemu-img create -f qcow2 -o {options} "
                    f"disk.qcow2 {size}\n    {c}\n"
                    f"    again: QCOW2_SEED={t.seed} QCOW2_COUNT={number + 1} "
                    f"{sys.argv[0]} crossing:{number:03}") from error


def one_crossing(t, c, rng, path, model):
    cluster, size = c["cluster"], model.size
    guest = Guest(model, c)
    if c["compressed"] and size >= cluster:
        for at in write_compressed(path, model, rng, cluster):
            for number, _, _ in guest.pieces(at, at + cluster):
                guest.parts[number] = guest.OWN
                if c["extended_l2"] == "on":
                    guest.compressed.add(number)
    granularities = {}
    arguments = [f"qcow2-discard={c['discard']}"]
    if c["below"] != "nothing":
        arguments.append(f"qcow2-files={t.folder}")
    if c["compat"] == "1.1":
        granularities["b0"] = c["granularity"]
        add_bitmap(path, "b0", c["granularity"])
        if rng.random() < 0.5:
            granularities["b1"] = 2048
            arguments += ["bitmap=b1", "bitmap-granularity=2048"]

    draw = Operations(rng, size, cluster, area=(0, min(size, 8 * cluster)))
    dirty, shot = [], None
    if c["below"] == "data_file_raw":
        data_length = os.path.getsize(t.path("data"))
    for number in range(2):
        ops = draw.take(45)
        with Nbdkit(t, path, *arguments) as server:
            handles = [server.connect("base:allocation") for _ in range(2)]
            read_all(handles[0], model, "before")
            guest.run(ops, handles, rng)
            read_all(handles[1], model, "after")
            for h in handles:
                expect_zeros_are_zero(h, model, "block status")
        check_cut(path)
        dirty = join(dirty + touched(ops))
        raw = model.to_raw(t.path("disk.raw"))
        compare(path, raw)
        if c["below"] == "data_file_raw":
            # QEMU makes whole clusters of it where it preallocates.
            length = os.path.getsize(t.path("data"))
            expect(length in (size, data_length), f"{length} bytes of raw data file,",
                   f"{data_length} before, the disk has {size}")
            run("cmp", "-n", size, t.path("data"), raw)
        for name, granularity in granularities.items():
            expect_bitmap(t, path, name, granules(dirty, granularity, size), f"run {number}")
        if number == 0 and c["snapshot"]:
            run("qemu-img", "snapshot", "-q", "-c", "one", path)
            shot = model.to_raw(t.path("shot.raw"))
    if shot:
        run("qemu-img", "convert", "-l", "one", "-f", "qcow2", "-O", "raw", path,
            t.path("found.raw"))
        run("cmp", t.path("found.raw"), shot)
        run("qemu-img", "snapshot", "-q", "-d", "one", path)
        check(path)
        compare(path, t.path("disk.raw"))


main()
