# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# For the tests in this folder: QEMU and we work on the same files. A test is a
# program of cases,
#
#     @case
#     def what_is_shown(t): ...
#     main()
#
# run by `make check TESTS=interop/test-x.py`, or, with FILTER set, by
#
#     test-x.py [--seed N] [--list] [CASE...]
#
# The seed is printed with each failure; a case draws from t.rng alone, so that
# the seed and the name of the case repeat it. SEED=random draws one.

import bisect
import collections
import contextlib
import faulthandler
import json
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback

os.environ["PATH"] = "/usr/bin:/bin:" + os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
os.environ["LC_ALL"] = "C"

try:
    import nbd
except ImportError:
    print("this Python has no module nbd")
    sys.exit(77)

from storage_daemon import Export, StorageDaemon  # noqa: E402

KiB, MiB, GiB, TiB = 1 << 10, 1 << 20, 1 << 30, 1 << 40

# Of one case, in seconds: then its servers are killed, and it fails. A busy
# machine takes ten times what an idle one takes.
CASE_SECONDS = 200
if os.environ.get("SANITIZER_PRELOAD"):
    CASE_SECONDS = 600


class Wrong(Exception):
    """What was shown is not so."""


def expect(is_so, *what):
    if not is_so:
        raise Wrong(" ".join(str(word) for word in what))


def same(found, expected, what):
    if found != expected:
        raise Wrong(f"{what}: found {shorten(found)}, expected {shorten(expected)}")


def shorten(value):
    text = str(value)
    return text if len(text) < 600 else text[:300] + " ... " + text[-200:]


# --- Programs.


def environment_of(program):
    """What our filter needs if it was compiled with a sanitizer, and memory that
    is never zero by chance."""
    environment = dict(os.environ)
    if program == "nbdkit":
        for name, value in (("LD_PRELOAD", os.environ.get("SANITIZER_PRELOAD")),
                            ("MALLOC_PERTURB_", os.environ.get("FILTER_MALLOC_PERTURB"))):
            if value:
                environment[name] = value
    return environment


def run(*command, status=0, cwd=None):
    """Runs it; returns what it said. `status`: the exit status it must have, or
    several of which one."""
    done = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=cwd, timeout=90,
                          env=environment_of(command[0]))
    text = done.stdout.decode(errors="replace")
    if done.returncode not in (status if isinstance(status, tuple) else (status,)):
        raise Wrong(f"exit status {done.returncode}: {' '.join(map(str, command))}\n{text}")
    return text


def create(path, size, options=""):
    """qemu-img create -o OPTIONS."""
    words = ["-o", options] if options else []
    run("qemu-img", "create", "-q", "-f", "qcow2", *words, path, size)


_qemu = None


def qemu():
    """The QEMU that this test has."""
    global _qemu
    if _qemu is None:
        _qemu = StorageDaemon()
    return _qemu


def by_qemu(t, path):
    """In the place of Nbdkit: QEMU serves it."""
    return qemu().served(path)


def end_qemu():
    global _qemu
    if _qemu is not None:
        _qemu.kill()
        _qemu = None


def add_bitmap(path, name, granularity=None, enabled=True):
    qemu().add_bitmap(path, name, granularity, enabled)


def qemu_io(path, *commands, format="qcow2"):
    """qemu-io, whose exit status is that of the last command only."""
    words = [word for command in commands for word in ("-c", command)]
    text = run("qemu-io", "-f", format, "-d", "unmap", *words, path)
    expect("failed" not in text and "rror" not in text, f"qemu-io {commands}: {text}")
    return text


def told(*command):
    """What a program of QEMU says in JSON. (It may warn of something, too.)"""
    done = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL,
                          capture_output=True, timeout=90)
    if done.returncode != 0:
        raise Wrong(f"exit status {done.returncode}: {' '.join(map(str, command))}\n"
                    f"{done.stderr.decode(errors='replace')}")
    return json.loads(done.stdout)


def info(path):
    return qemu().info(path)


def bitmap_infos(path):
    """name -> (granularity, set of flags), as QEMU sees them."""
    found = info(path)["format-specific"]["data"].get("bitmaps", [])
    return {b["name"]: (b["granularity"], frozenset(b["flags"])) for b in found}


def check(path, leaks=False):
    """No corruption, and no leaks unless `leaks`, in QEMU's eyes and in
    core/check's. Returns what QEMU said."""
    done = subprocess.run(["qemu-img", "check", "-f", "qcow2", "--output=json", path],
                          capture_output=True, timeout=90)
    said = done.stdout.decode(errors="replace") + done.stderr.decode(errors="replace")
    expect(done.returncode in ((0, 3) if leaks else (0,)),
           f"qemu-img check {path}: exit status {done.returncode}\n{said}")
    result = json.loads(done.stdout)
    ours = os.path.join(os.environ.get("builddir", "."), "support/check_image")
    expect(os.access(ours, os.X_OK), f"{ours} is missing: run this by make check TESTS=...")
    done = subprocess.run([ours, path], capture_output=True, timeout=90)
    expect(done.returncode in ((0, 3) if leaks else (0,)),
           f"check_image {path}: exit status {done.returncode}\n"
           f"{(done.stdout + done.stderr).decode(errors='replace')}")
    return result


# The lengths of files when our server was last started on them.
_lengths = {}


def check_cut(path):
    """After a clean stop: sound, no leaks, and the file ends where what is used
    ends, unless it was as long before."""
    end = check(path)["image-end-offset"]
    length = os.path.getsize(path)
    expect(length <= max(end, _lengths[path]),
           f"{path} has {length} bytes, had {_lengths[path]}, used are {end}")


def compare(path, raw):
    """QEMU reads the same from both, and they have the same length."""
    said = run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", path, raw)
    expect("size mismatch" not in said, f"{path}: {said}")


def same_bytes(raw, model, length, what):
    """The file begins as the model does."""
    with open(raw, "rb") as f:
        for at in range(0, length, MiB):
            size = min(MiB, length - at)
            expect_bytes(f.read(size), model.read(at, size), at, what)


# --- Servers. They end with us; if we are killed, driver.sh kills them.

_children = set()
_names = iter(range(1 << 30))


class Server(Export):
    """A server on a unix socket: nbdkit or qemu-nbd. Its export has no name."""

    def __init__(self, program, folder, make_command):
        number = next(_names)
        super().__init__(os.path.join(folder, f"{number}.sock"))
        self.program = program
        self.pid_file = os.path.join(folder, f"{number}.pid")
        self.log = os.path.join(folder, f"{number}.log")
        self.command = [str(w) for w in make_command(self.socket, self.pid_file)]
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=environment_of(program))
        _children.add(self.process)
        for _ in range(2000):
            if os.path.exists(self.pid_file) and os.path.getsize(self.pid_file) > 0:
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.005)
        self.kill()
        raise Wrong(f"{program} did not start: {' '.join(self.command)}\n{self.said()}")

    def said(self):
        with open(self.log, errors="replace") as log:
            return log.read()

    def stop(self, statuses=(0,)):
        """SIGTERM, all clients gone. Returns what the server has said."""
        self.leave()
        self.process.send_signal(signal.SIGTERM)
        return self.wait(statuses)

    def wait(self, statuses=(0,)):
        try:
            status = self.process.wait(timeout=CASE_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Wrong(f"{self.program} does not end: {' '.join(self.command)}\n{self.said()}")
        _children.discard(self.process)
        expect(status in statuses, f"{self.program}: exit status {status}\n{self.said()}")
        return self.said()

    def kill(self):
        """kill -9."""
        self.process.kill()
        self.process.wait()
        _children.discard(self.process)
        self.handles = []

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if self.process.returncode is not None:
            return
        if kind is not None:
            self.kill()
            print(f"-- {self.program} had said:\n{self.said()[-4000:]}")
        else:
            self.stop()


class Nbdkit(Server):
    """nbdkit with our filter over a file. `idle_ms`: after so many milliseconds
    without a change the file is as a clean stop leaves it; "asked": when
    ask_to_settle() says so, and never by itself. `below`: filters between us and
    the file."""

    def __init__(self, t, path, *arguments, options=(), below=(), idle_ms=60000):
        program = ["nbdkit", "-f"]
        if idle_ms == "asked":
            program += ["-D", "qcow2bitmap.idle_ms=40",
                        "-D", f"qcow2bitmap.settle_signal={int(signal.SIGUSR1)}"]
        elif idle_ms is not None:
            program += ["-D", f"qcow2bitmap.idle_ms={idle_ms}"]
        _lengths[path] = os.path.getsize(path)
        super().__init__("nbdkit", t.folder, lambda socket, pid: [
            *program, "-U", socket, "-P", pid, *options, f"--filter={os.environ['FILTER']}",
            *(f"--filter={name}" for name in below), "file", path, *arguments])


    def ask_to_settle(self):
        """Not before there was a client that may write."""
        self.process.send_signal(signal.SIGUSR1)


class QemuNbd(Server):
    def __init__(self, t, path, bitmaps=(), read_only=False, format="qcow2", options=()):
        words = ["-r"] if read_only else ["--discard=unmap"]
        words += [word for name in bitmaps for word in ("-B", name)]
        super().__init__("qemu-nbd", t.folder, lambda socket, pid: [
            "qemu-nbd", "-t", "-e", "8", *(["-f", format] if format else []), "-k", socket, f"--pid-file={pid}", *words,
            *options, path])


# --- Ranges of bytes: sorted lists of (begin, end) that do not touch.


def join(ranges):
    joined = []
    for begin, end in sorted(ranges):
        if begin >= end:
            continue
        if joined and begin <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((begin, end))
    return joined


def granules(ranges, granularity, size):
    """The granules that these touch."""
    return join((begin // granularity * granularity,
                 min(size, -(-end // granularity) * granularity))
                for begin, end in ranges if begin < end)


def covers(outer, inner):
    begins = [begin for begin, _ in outer]
    for begin, end in inner:
        i = bisect.bisect_right(begins, begin) - 1
        if i < 0 or outer[i][1] < end:
            return False
    return True


def extents(h, context, size=None):
    """(begin, end, flags) of the whole disk; neighbours are joined."""
    size = h.get_size() if size is None else size
    found = []

    def take(name, position, entries, _error):
        if name != context:
            return
        for length, flags in zip(entries[::2], entries[1::2]):
            if found and found[-1][2] == flags and found[-1][1] == position:
                found[-1] = (found[-1][0], position + length, flags)
            else:
                found.append((position, position + length, flags))
            position += length

    offset = 0
    while offset < size:
        h.block_status(min(size - offset, 4 * GiB - 64 * KiB), offset, take)
        expect(found[-1][1] > offset, f"block status of {context} stands still at {offset:#x}")
        offset = found[-1][1]
    return found


def qemu_bitmaps(t, path, *names):
    """What is dirty, as QEMU tells libnbd: a list of ranges each."""
    with qemu().served(path, names, read_only=True) as export:
        contexts = [f"qemu:dirty-bitmap:{name}" for name in names]
        h = export.connect(*contexts)
        for context in contexts:
            expect(h.can_meta_context(context), f"{path}: QEMU does not offer {context}")
        return [[(begin, end) for begin, end, flags in extents(h, context) if flags & 1]
                for context in contexts]


# --- The file's bytes, read by the format's text.

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


# --- What clients do, and what the disk must then hold.

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


# --- Cases.

_cases = []


def case(function):
    _cases.append((function.__name__, function, ()))
    return function


def cases(named):
    """name -> arguments: one case each."""
    def add(function):
        for name, arguments in named.items():
            _cases.append((f"{function.__name__}:{name}", function, arguments))
        return function
    return add


class Case:
    """What a case gets: a folder of its own, and where to draw from."""

    def __init__(self, name, seed, folder):
        self.name, self.folder = name, folder
        self.seed = seed
        self.rng = random.Random(f"{seed} {name}")

    def path(self, name):
        return os.path.join(self.folder, name)


def requires(*programs):
    for program in programs:
        if shutil.which(program) is None:
            print(f"{program} is missing")
            sys.exit(77)


def _too_long(name):
    print(f"{name}: takes longer than {CASE_SECONDS} s; its servers are killed", flush=True)
    faulthandler.dump_traceback(file=sys.stdout)
    if _qemu is not None:
        _qemu.process.kill()
    for child in list(_children):
        child.kill()


def main(case_seconds=0, in_memory=False):
    """`in_memory`: no case relies on the file system, and it costs less without its syncs."""
    global CASE_SECONDS
    CASE_SECONDS = max(CASE_SECONDS, case_seconds)
    requires("nbdkit", "qemu-img", "qemu-io", "qemu-nbd", "qemu-storage-daemon")
    if not os.path.exists(os.environ.get("FILTER", "")):
        print("FILTER does not name the filter: run this by make check TESTS=...")
        sys.exit(1)
    wanted, seed = sys.argv[1:], os.environ.get("SEED", "1")
    if wanted and wanted[0] == "--list":
        print("\n".join(name for name, _, _ in _cases))
        return
    if len(wanted) >= 2 and wanted[0] == "--seed":
        seed, wanted = wanted[1], wanted[2:]
    if seed == "random":
        seed = str(random.SystemRandom().randrange(1 << 32))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    in_memory = in_memory and os.access("/dev/shm", os.W_OK)
    top = tempfile.mkdtemp(prefix="qcow2bitmap-interop.", dir="/dev/shm" if in_memory else None)
    print(f"seed {seed}")
    failed = count = 0
    try:
        for name, function, arguments in _cases:
            if wanted and not any(name == w or name.startswith(w + ":") for w in wanted):
                continue
            count += 1
            folder = tempfile.mkdtemp(dir=top)
            t = Case(name, seed, folder)
            watchdog = threading.Timer(CASE_SECONDS, _too_long, (name,))
            watchdog.daemon = True
            watchdog.start()
            begun = time.monotonic()
            try:
                function(t, *arguments)
                print(f"ok {name} ({time.monotonic() - begun:.1f} s)", flush=True)
            except Exception as error:
                failed += 1
                end_qemu()  # with what is open
                print(f"FAILED {name}: {error}")
                if isinstance(error, Wrong):
                    at = [f for f in traceback.extract_tb(error.__traceback__)
                          if os.path.basename(f.filename) != "interop.py"]
                    print("".join(f"    {os.path.basename(f.filename)}:{f.lineno}: {f.line}\n"
                                  for f in at), end="")
                else:
                    traceback.print_exc(file=sys.stdout)
                print(f"    again: {sys.argv[0]} --seed {seed} {name}", flush=True)
                if os.environ.get("KEEP"):
                    print(f"    files: {shutil.copytree(folder, tempfile.mkdtemp() + '/case', ignore=lambda d, n: [x for x in n if x.endswith('.sock')])}")
            finally:
                watchdog.cancel()
                for child in list(_children):
                    child.kill()
                    child.wait()
                    _children.discard(child)
                shutil.rmtree(folder)
    finally:
        end_qemu()
        for child in list(_children):
            child.kill()
        shutil.rmtree(top, ignore_errors=True)
    expect(count, "there is no such case")
    print(f"{count - failed} of {count} cases passed, seed {seed}")
    sys.exit(1 if failed else 0)
