#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# A store that ends after so many clusters, for each number: the end is met in the
# middle of every kind of allocation, and each time nothing is harmed.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

. "$srcdir/e2e/fill.sh"
requires_filter truncate

# Small clusters, so that L2 tables, refcount blocks and the refcount table are
# needed often. The requests are of several clusters, and not aligned.
for geometry in "512 16 14" "512 1 8" "4096 64 7"; do
    read -r cluster width steps <<<"$geometry"
    make_qcow2 fresh.qcow2 8M cluster_size="$cluster",refcount_bits="$width"
    qemu-img bitmap --add fresh.qcow2 b0
    length=$(length_of fresh.qcow2)
    for room in $(seq 1 "$steps"); do
        step "clusters of $cluster bytes, refcounts of $width bits, room for $room"
        cp fresh.qcow2 disk.qcow2
        size=$((length / cluster * cluster + room * room * cluster))
        truncate -s $size disk.qcow2
        # The filter stands for all that has a fixed size.
        serve --filter=truncate file disk.qcow2 truncate=$size
        client <<'PYTHON'
cluster = h.get_block_size(nbd.SIZE_PREFERRED)
size = h.get_size()
twin = {}
full = False
i = 0
# Far apart: an L2 table for each. Three clusters and a bit.
length = 3 * cluster + 1024
while not full:
    offset = (i * 1300007) % (size - length) // 512 * 512
    data = bytes([1 + i % 255]) * length
    try:
        h.pwrite(data, offset)
    except nbd.Error as error:
        assert error.errnum == errno.ENOSPC, error
        full = True
        found = h.pread(length, offset)
        for s in range(length // 512):
            old = twin.get(offset // 512 + s, bytes(512))
            sector = found[s * 512:s * 512 + 512]
            assert sector in (old, data[:512])
            data = data[:s * 512] + sector + data[s * 512 + 512:]
    for s in range(length // 512):
        twin[offset // 512 + s] = data[s * 512:s * 512 + 512]
    i += 1
h.flush()
h.trim(size, 0)
h.flush()
if i > 1:
    # The place that was first has all the tables that it needs.
    h.pwrite(b"r" * 512, 0)
    assert h.pread(1024, 0) == b"r" * 512 + bytes(512)
assert h.pread(size - 512, 512) == bytes(size - 512)
h.shutdown()
PYTHON
        stop
        check_image disk.qcow2
        # If there is not even room for its last cluster, a bitmap stays marked.
        if [ "$room" -ge 3 ]; then
            same "$(bitmap_info disk.qcow2 b0 | cut -d' ' -f2)" auto
        fi
    done
done
