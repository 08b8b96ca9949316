#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# base:allocation: what is not allocated is hole and zero; a zero cluster that
# keeps its place is zero; the rest is data. Equal neighbours are one extent.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

make_qcow2 disk.qcow2 64M cluster_size=64k
serve file disk.qcow2
client <<'PYTHON'
K = 1024
DATA, HOLE, ZERO = 0, nbd.STATE_HOLE, nbd.STATE_ZERO
NOTHING = HOLE | ZERO
size = h.get_size()

assert extents(h, 0, size) == [(0, size, NOTHING)]
h.pwrite(b"d" * (256 * K), 64 * K)
h.pwrite(b"d", 1024 * K + 5)
assert extents(h, 0, size) == [
    (0, 64 * K, NOTHING), (64 * K, 256 * K, DATA), (320 * K, 704 * K, NOTHING),
    (1024 * K, 64 * K, DATA), (1088 * K, size - 1088 * K, NOTHING)]

# Zeros that keep their place, and zeros that give it back; a trim.
h.zero(64 * K, 64 * K, nbd.CMD_FLAG_NO_HOLE)
h.zero(64 * K, 128 * K)
h.trim(64 * K, 192 * K)
assert extents(h, 0, 384 * K) == [
    (0, 64 * K, NOTHING), (64 * K, 64 * K, ZERO), (128 * K, 128 * K, NOTHING),
    (256 * K, 64 * K, DATA), (320 * K, 64 * K, NOTHING)]
assert h.pread(192 * K, 64 * K) == bytes(192 * K)

# Of a part, of a byte, and one at a time.
assert extents(h, 100 * K, 200 * K) == [
    (100 * K, 28 * K, ZERO), (128 * K, 128 * K, NOTHING), (256 * K, 44 * K, DATA)]
assert extents(h, 127 * K + 1023, 1) == [(127 * K + 1023, 1, ZERO)]
assert extents(h, 60 * K, size - 60 * K, one=True) == [(60 * K, 4 * K, NOTHING)]
# Zeros written in small pieces are data: block status does not read.
h.zero(100, 1024 * K)
assert extents(h, 1024 * K, 64 * K) == [(1024 * K, 64 * K, DATA)]
h.shutdown()
PYTHON
stop
check_image disk.qcow2

step "QEMU sees the same"
# start, length, zero, data of each.
same "$(qemu-img map -f qcow2 --output=json disk.qcow2 | "$PYTHON" -c '
import json, sys
joined = []
for e in json.load(sys.stdin):
    # A data cluster of which the file has only a part reads as zeros there.
    kind = "data" if e["data"] else "zero" if e["zero"] else "?"
    if joined and joined[-1][2] == kind:
        joined[-1][1] += e["length"]
    else:
        joined.append([e["start"], e["length"], kind])
for start, length, kind in joined:
    print(start // 1024, length // 1024, kind)')" \
"0 256 zero
256 64 data
320 704 zero
1024 64 data
1088 64448 zero"

step "of a disk with many extents"
make_qcow2 disk.qcow2 64M cluster_size=512
serve file disk.qcow2
client <<'PYTHON'
count = 40000
for i in range(0, count, 2):
    h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(b"x" * 512)), i * 512)
    while h.aio_in_flight() > 64:
        h.poll(-1)
while h.aio_in_flight():
    h.poll(-1)
found = extents(h, 0, count * 512)
assert found == [(i * 512, 512, 3 if i % 2 else 0) for i in range(count)]
h.shutdown()
PYTHON
stop
check_image disk.qcow2
