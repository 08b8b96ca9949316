#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# A file grows from nothing to 6 GB, in the end by steps of 1 GiB, on the file system of
# the temporary folder. Clusters of 2M that a guest touches at one place each: the file
# stays sparse. What was not used is cut off.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

make_qcow2 disk.qcow2 8G cluster_size=2M
serve file disk.qcow2 bitmap=b0
client <<'PYTHON'
count, step = 3000, 2 << 20
lengths = [os.stat("disk.qcow2").st_size]
def mark(i):
    return b"%015d\n" % i * 32
for i in range(count):
    h.pwrite(mark(i), i * step + 512 * (i % 4096))
    length = os.stat("disk.qcow2").st_size
    if length != lengths[-1]:
        lengths.append(length)
steps = [new - old for old, new in zip(lengths, lengths[1:])]
print("steps of growth, in MiB:", [n >> 20 for n in steps])
assert max(steps) == 1 << 30 and steps.count(1 << 30) >= 2, steps
h.flush()
for i in range(count):
    place = i * step + 512 * (i % 4096)
    assert h.pread(512, place) == mark(i), i
    assert h.pread(512, i * step + 512 * ((i + 7) % 4096)) == bytes(512), i
h.shutdown()
PYTHON
stop
length=$(length_of disk.qcow2)
[ "$length" -gt 6000000000 ] || fail "the file has $length bytes"
[ "$length" -lt 6400000000 ] || fail "the file was not cut: $length bytes"
[ "$(stat -c %b disk.qcow2)" -lt 400000 ] || fail "it is not sparse: $(stat -c %b disk.qcow2) blocks"
check_image disk.qcow2
same "$(dirty_map b0 disk.qcow2 | wc -l)" 3000
