#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# core/check and qemu-img check must say the same of images that QEMU made, and
# of the same images with one or two words of their metadata changed: sound,
# corrupt or leaking, and how many clusters leak.
#
#   test-check-agrees.py [SEED [COUNT]]     COUNT changes to each image
#
# A difference is printed with the line that repeats it.

import json
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile

from judging import PATIENCE

CHECK_IMAGE = os.environ.get(
    "CHECK_IMAGE", os.path.join(os.environ.get("builddir", "."), "support/check_image"))
SEED = int(sys.argv[1]) if len(sys.argv) > 1 else 1
COUNT = int(sys.argv[2]) if len(sys.argv) > 2 else 9
ONLY = sys.argv[3] if len(sys.argv) > 3 else None  # the name of one image

PATTERN = 0xAA  # of guest data: what is not this is metadata


def run(*command):
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def io(path, *commands):
    arguments = [word for c in commands for word in ("-c", c)]
    run("qemu-io", "-f", "qcow2", *arguments, path)


def create(path, size, options=""):
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", options or "compat=1.1", path, str(size))


def image_plain(path, options, size="4M"):
    create(path, size, options)
    io(path, f"write -P {PATTERN} 0 100k", f"write -P {PATTERN} 1M 8k", "write -z 200k 64k",
       f"write -P {PATTERN} 400k 64k", "discard 400k 64k", f"write -P {PATTERN} 4000k 8k")


def image_zeros_v2(path, options):
    create(path, "4M", options)
    io(path, f"write -P {PATTERN} 0 100k", f"write -P {PATTERN} 1M 8k", "write -z 1M 8k")


def image_snapshots(path, options):
    create(path, "4M", options)
    for i in range(3):
        io(path, f"write -P {PATTERN} {i * 64}k 200k", f"write -z {300 + i * 8}k 64k")
        run("qemu-img", "snapshot", "-c", f"snapshot {i}", path)
    io(path, f"write -P {PATTERN} 64k 64k")
    run("qemu-img", "snapshot", "-d", "snapshot 1", path)


def image_bitmaps(path, options):
    create(path, "4M", options)
    for name, extra in (("b0", []), ("a longer name", ["-g", "512"]), ("b2", ["--disable"])):
        run("qemu-img", "bitmap", "--add", *extra, path, name)
    io(path, f"write -P {PATTERN} 0 100k", f"write -P {PATTERN} 1M 8k", "write -z 3M 64k")
    run("qemu-img", "bitmap", "--add", path, "late")


def image_in_use(path, options):
    image_bitmaps(path, options)
    process = subprocess.Popen(["qemu-io", "-f", "qcow2", path], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE)
    process.stdin.write(f"write -P {PATTERN} 2M 64k\nflush\n".encode())
    process.stdin.flush()
    for line in process.stdout:
        if b"ops;" in line:
            break
    # The bytes of the file as a crash would leave them.
    shutil.copyfile(path, path + ".crashed")
    process.stdin.close()
    process.wait()
    os.rename(path + ".crashed", path)


def image_vouched_for_by_nobody(path, options):
    image_bitmaps(path, options)
    with open(path, "r+b") as f:
        f.seek(95)
        f.write(b"\0")


def image_compressed(path, options):
    raw = path + ".raw"
    with open(raw, "wb") as f:
        draw = random.Random(5)
        for _ in range(64):
            f.write(bytes(draw.choice(b"abcdefgh") for _ in range(4096)) * 4)
    run("qemu-img", "convert", "-c", "-O", "qcow2", "-o", options, raw, path)
    os.unlink(raw)
    io(path, f"write -P {PATTERN} 100k 50k")


IMAGES = {
    "64k": lambda p: image_plain(p, "cluster_size=64k"),
    "64k-1bit": lambda p: image_plain(p, "cluster_size=64k,refcount_bits=1"),
    "4k-2bit": lambda p: image_plain(p, "cluster_size=4k,refcount_bits=2"),
    "512-64bit": lambda p: image_plain(p, "cluster_size=512,refcount_bits=64"),
    "512-4bit": lambda p: image_plain(p, "cluster_size=512,refcount_bits=4"),
    "2M-8bit": lambda p: image_plain(p, "cluster_size=2M,refcount_bits=8"),
    "4k-32bit-sparse": lambda p: image_plain(p, "cluster_size=4k,refcount_bits=32", "8T"),
    "v2-4k": lambda p: image_zeros_v2(p, "cluster_size=4k,compat=0.10"),
    "v2-snapshots": lambda p: image_snapshots(p, "cluster_size=4k,compat=0.10"),
    "snapshots-4k": lambda p: image_snapshots(p, "cluster_size=4k"),
    "snapshots-64k": lambda p: image_snapshots(p, "cluster_size=64k,refcount_bits=8"),
    "snapshots-512": lambda p: image_snapshots(p, "cluster_size=512,refcount_bits=4"),
    "bitmaps-64k": lambda p: image_bitmaps(p, "cluster_size=64k"),
    "bitmaps-512": lambda p: image_bitmaps(p, "cluster_size=512"),
    "bitmaps-4k": lambda p: image_bitmaps(p, "cluster_size=4k,refcount_bits=1"),
    "bitmaps-in-use": lambda p: image_in_use(p, "cluster_size=4k"),
    "bitmaps-cleared": lambda p: image_vouched_for_by_nobody(p, "cluster_size=4k"),
    "compressed-64k": lambda p: image_compressed(p, "cluster_size=64k"),
    "compressed-4k": lambda p: image_compressed(p, "cluster_size=4k,refcount_bits=64"),
    "data-file": lambda p: image_plain(p, f"cluster_size=64k,data_file={p}.data"),
    "extended-l2": lambda p: image_plain(p, "cluster_size=16k,extended_l2=on"),
    "lazy": lambda p: image_plain(p, "cluster_size=64k,lazy_refcounts=on"),
    "preallocated": lambda p: create(p, "4M", "cluster_size=4k,preallocation=metadata"),
}


class Change:
    """Changes words of an image's metadata that hold something, or lie beside
    one that does."""

    def __init__(self, image, draw):
        self.image = bytearray(image)
        self.draw = draw
        self.what = []
        self.cluster_bits = struct.unpack_from(">I", image, 20)[0]

    def places(self):
        image = self.image
        data = bytes([PATTERN]) * 512
        header, others = [], []
        for sector in range(0, len(image), 512):
            piece = bytes(image[sector:sector + 512])
            if piece == data or not any(piece):
                continue
            words = [sector + i for i in range(0, len(piece) - 7, 8)
                     if any(piece[max(0, i - 8):i + 16])]
            (header if sector < 1 << self.cluster_bits else others).append(words)
        # A sector first, then a word of it: large tables must not win.
        if self.draw.random() < 0.1:
            return self.draw.choice(header)
        return self.draw.choice(others)

    def once(self):
        draw = self.draw
        at = draw.choice(self.places())
        word = struct.unpack_from(">Q", self.image, at)[0]
        cluster = 1 << self.cluster_bits
        clusters = len(self.image) >> self.cluster_bits
        new = draw.choice([
            lambda: word ^ 1 << draw.randrange(64),
            lambda: word ^ 1 << draw.randrange(64),
            lambda: word ^ 1 << 63,
            lambda: 0,
            lambda: word + cluster,
            lambda: max(0, word - cluster),
            lambda: draw.randrange(clusters + 2) << self.cluster_bits | (word & 1 << 63),
            lambda: struct.unpack_from(">Q", self.image, draw.choice(self.places()))[0],
            lambda: word ^ 1 << 48,
            lambda: word + (1 << draw.randrange(64)),
        ])() & 0xffffffffffffffff
        struct.pack_into(">Q", self.image, at, new)
        self.what.append(f"{at:#x}: {word:#018x} -> {new:#018x}")


def qemu(path):
    done = subprocess.run(["qemu-img", "check", "-f", "qcow2", "--output=json", path],
                          capture_output=True, timeout=PATIENCE)
    if done.returncode not in (0, 2, 3):
        return done.returncode, 0, done.stderr.decode(errors="replace")
    told = json.loads(done.stdout)
    return (done.returncode, told.get("leaks", 0), done.stderr.decode(errors="replace"))


def ours(path):
    done = subprocess.run([CHECK_IMAGE, path], capture_output=True, timeout=PATIENCE)
    text = (done.stdout + done.stderr).decode(errors="replace")
    if done.returncode not in (0, 2, 3):
        return done.returncode, 0, text
    return done.returncode, int(text.splitlines()[-1].split()[2]), text


def differ(theirs, us, text):
    """Why the two do not agree, or None."""
    if theirs[0] == 1:
        if "Could not open" in theirs[2]:
            return None  # a data file, which we do not look for
        # QEMU could not even begin, or gave up.
        return None if us[0] in (1, 2) else "QEMU cannot check it, we see nothing"
    # Where we are stricter, on purpose: the format's text is.
    if us[0] in (1, 2) and any(word in text for word in STRICTER):
        return None
    # What we do not check at all QEMU may check and find corrupt.
    if us[0] == 1 and theirs[0] == 2:
        return None
    if us[0] != theirs[0]:
        return "exit codes"
    if us[0] == 3 and us[1] != theirs[1]:
        return "leaks"
    if us[0] == 2 and us[1] != theirs[1] and not any(word in text for word in NOT_FOLLOWED):
        return "leaks beside corruption"
    return None


STRICTER = (
    "bitmap_directory_padding",
    "bitmaps_extension_missing",
    "data_file_offset_wrong",  # QEMU sees it when it reads there
)

# What is below these QEMU follows as far as it goes, and we do not.
NOT_FOLLOWED = (
    "l1_table_past_end",
    "snapshot_table_past_end",
)


def main():
    if not shutil.which("qemu-img") or not shutil.which("qemu-io"):
        print("qemu-img is not installed")
        sys.exit(77)
    folder = tempfile.mkdtemp(prefix="check-agrees-")
    tried, kinds, differences = 0, {}, 0
    try:
        for name, make in IMAGES.items():
            if ONLY and name != ONLY:
                continue
            path = os.path.join(folder, name)
            make(path)
            with open(path, "rb") as f:
                image = f.read()
            for number in range(COUNT + 1):
                change = Change(image, random.Random(f"{SEED} {name} {number}"))
                if number:  # the first is the image as it is
                    for _ in range(change.draw.choice((1, 1, 1, 2))):
                        change.once()
                changed = path + ".changed"
                with open(changed, "wb") as f:
                    f.write(change.image)
                theirs, us = qemu(changed), ours(changed)
                tried += 1
                kinds[theirs[0]] = kinds.get(theirs[0], 0) + 1
                why = differ(theirs, us, us[2])
                if us[0] < 0 or us[0] > 3:
                    why = "we crashed"
                if why:
                    differences += 1
                    print(f"{name} {number}: {why}: QEMU {theirs[:2]}, we {us[:2]}")
                    print("   ", "; ".join(change.what))
                    print("    QEMU:", theirs[2].strip().replace("\n", "\n          ")[:1500])
                    print("    we:  ", us[2].strip().replace("\n", "\n          ")[:1500])
                    print(f"    again: {sys.argv[0]} {SEED} {COUNT} {name}")
    finally:
        shutil.rmtree(folder)
    print(f"{tried} images, of which QEMU found {kinds.get(0, 0)} sound, {kinds.get(2, 0)} corrupt, "
          f"{kinds.get(3, 0)} leaking, {kinds.get(1, 0)} not to be checked; "
          f"{differences} differences")
    sys.exit(1 if differences else 0)


main()
