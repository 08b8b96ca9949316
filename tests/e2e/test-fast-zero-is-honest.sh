#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# A fast zero either takes a change of the mapping alone, or is refused at once as
# not supported, and then has changed nothing.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

make_qcow2 disk.qcow2 64M
serve_plain main --filter="$FILTER" --filter=log file disk.qcow2 bitmap=b0 logfile=below.log
client <<'PYTHON'
K = 1024
FAST = nbd.CMD_FLAG_FAST_ZERO
assert h.can_fast_zero()

# Whole clusters, allocated or not; with and without their place.
h.pwrite(b"d" * (512 * K), 0)
h.zero(128 * K, 0, FAST)
h.zero(128 * K, 128 * K, FAST | nbd.CMD_FLAG_NO_HOLE)
h.zero(60 << 20, 1 << 20, FAST)
# A part of a cluster that reads as zeros already.
h.zero(1 * K, 0, FAST)
h.zero(63 * K, 600 * K, FAST)
assert h.pread(256 * K, 0) == bytes(256 * K)

# A part of a cluster with data would have to be written.
for offset, length in [(256 * K, 1), (256 * K, 63 * K), (257 * K, 128 * K), (500 * K, 64 * K)]:
    fails(errno.EOPNOTSUPP, h.zero, length, offset, FAST)
    fails(errno.EOPNOTSUPP, h.zero, length, offset, FAST | nbd.CMD_FLAG_NO_HOLE)
assert h.pread(256 * K, 256 * K) == b"d" * (256 * K)
# Without the flag it is done.
h.zero(63 * K, 257 * K)
assert h.pread(65 * K, 256 * K) == b"d" * K + bytes(63 * K) + b"d" * K
h.shutdown()
PYTHON
stop
check_image disk.qcow2

step "in version 2 there are no zero clusters: fast where place may be given back"
make_qcow2 disk.qcow2 64M compat=0.10
serve file disk.qcow2
client <<'PYTHON'
K = 1024
FAST = nbd.CMD_FLAG_FAST_ZERO
h.pwrite(b"d" * (256 * K), 0)
h.zero(64 * K, 0, FAST)
fails(errno.EOPNOTSUPP, h.zero, 64 * K, 64 * K, FAST | nbd.CMD_FLAG_NO_HOLE)
h.zero(64 * K, 64 * K, nbd.CMD_FLAG_NO_HOLE)
assert h.pread(192 * K, 0) == bytes(128 * K) + b"d" * (64 * K)
h.shutdown()
PYTHON
stop
check_image disk.qcow2

step "with extended L2 entries a part of a compressed cluster would have to be written"
head -c 256K /dev/zero | tr '\0' d > disk.raw
qemu-img convert -c -f raw -O qcow2 -o extended_l2=on disk.raw disk.qcow2
serve file disk.qcow2
client <<'PYTHON'
K = 1024
FAST = nbd.CMD_FLAG_FAST_ZERO
for offset, length in [(4 * K, 2 * K), (2 * K, 64 * K), (62 * K, 66 * K), (0, 66 * K), (62 * K, 192 * K)]:
    fails(errno.EOPNOTSUPP, h.zero, length, offset, FAST)
assert h.pread(256 * K, 0) == b"d" * (256 * K)
h.zero(128 * K, 64 * K, FAST)
h.zero(2 * K, 4 * K)
# Now it has parts.
h.zero(2 * K, 8 * K, FAST)
assert h.pread(192 * K, 0) == (b"d" * (4 * K) + bytes(2 * K) + b"d" * (2 * K) + bytes(2 * K) +
                               b"d" * (54 * K) + bytes(128 * K))
h.shutdown()
PYTHON
stop
check_image disk.qcow2
