#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# Requests of any place and length do what they do to plain bytes, and set exactly
# the granules that they touch. Compared after each, and by QEMU in the end.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

# Disks whose last cluster is cut short. Granules of one sector, so that a wrong
# one shows.
for cluster in 512 65536; do
    step "clusters of $cluster bytes"
    size=$((cluster * 9 + 1536))
    make_qcow2 disk.qcow2 $size cluster_size=$cluster
    serve file disk.qcow2 bitmap=b0 bitmap-granularity=512
    client main $cluster $size >expected <<'PYTHON'
import random

cluster, size = int(sys.argv[1]), int(sys.argv[2])
assert h.get_size() == size
twin = bytearray(size)
dirty = set()
seed = int.from_bytes(os.urandom(4), "big")
draw = random.Random(seed)
generation = 0

def touched(offset, length):
    dirty.update(range(offset // 512, (offset + length + 511) // 512))

def write(offset, length, flags=0):
    global generation
    generation += 1
    data = bytes([1 + generation % 255]) * length
    h.pwrite(data, offset, flags)
    twin[offset:offset + length] = data
    touched(offset, length)

def zero(offset, length, flags=0):
    h.zero(length, offset, flags)
    twin[offset:offset + length] = bytes(length)
    touched(offset, length)

def trim(offset, length):
    h.trim(length, offset)
    # Whole clusters read as zeros after it, the rest as before.
    begin = -(-offset // cluster) * cluster
    end = offset + length if offset + length == size else (offset + length) // cluster * cluster
    if begin < end:
        twin[begin:end] = bytes(end - begin)
    touched(offset, length)

def check(offset, length):
    begin = max(0, offset - 3)
    end = min(size, offset + length + 3)
    assert h.pread(end - begin, begin) == twin[begin:end], "at %d+%d, seed %d" % (offset, length, seed)

edges = [0, 1, 511, 512, 513, cluster - 1, cluster, cluster + 1, 2 * cluster,
         3 * cluster - 1, 5 * cluster + 7, size - 513, size - 512, size - 2, size - 1]
lengths = [1, 2, 511, 512, 513, cluster - 1, cluster, cluster + 1, 3 * cluster]
operations = [write, zero, trim, write,
              lambda o, l: write(o, l, nbd.CMD_FLAG_FUA),
              lambda o, l: zero(o, l, nbd.CMD_FLAG_NO_HOLE)]
try:
    for offset in edges:
        for length in lengths:
            if offset + length <= size:
                draw.choice(operations)(offset, length)
                check(offset, length)
    # The whole disk at once, one byte at a time around each edge.
    assert h.pread(size, 0) == twin
    for edge in edges:
        for offset in range(max(0, edge - 2), min(size, edge + 2)):
            write(offset, 1)
            assert h.pread(1, offset) == twin[offset:offset + 1]
except BaseException:
    print("seed", seed, file=sys.stderr)
    raise
h.flush()

# Nothing at all is nothing at all; past the end is refused and harms nothing.
fails(errno.ENOSPC, h.pwrite, b"xx", size - 1)
fails(errno.EINVAL, h.pread, 2, size - 1)
fails(errno.EINVAL, h.trim, 2, size - 1)
fails(errno.ENOSPC, h.zero, 2, size - 1)
assert h.pread(size, 0) == twin
h.shutdown()
with open("twin.raw", "wb") as file:
    file.write(twin)

line = None
for sector in sorted(dirty) + [None]:
    if line and line[1] == sector:
        line[1] += 1
    else:
        if line:
            print("%d+%d" % (line[0] * 512, (line[1] - line[0]) * 512))
        line = [sector, sector + 1] if sector is not None else None
PYTHON
    stop
    check_image disk.qcow2
    same_disk disk.qcow2 twin.raw
    same "$(bitmap_info disk.qcow2 b0)" "512 auto"
    same "$(dirty_map b0 disk.qcow2)" "$(cat expected)"
done
