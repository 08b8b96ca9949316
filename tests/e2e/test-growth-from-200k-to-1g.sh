#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# A fresh image of 200 KB grows under the writes of its guest to more than 1 GB; the
# same number of descriptors is open at the end; and QEMU reads it.

# In memory, if possible: a file system that tells its device of each of 17000
# freed pieces takes a minute to remove the file.
[ ! -w /dev/shm ] || export TMPDIR=/dev/shm
. "${srcdir:-$(dirname "$0")/..}"/functions.sh

make_qcow2 disk.qcow2 4G
[ "$(length_of disk.qcow2)" -lt 250000 ] || fail "not a small image"
serve file disk.qcow2 bitmap=b0
client <<'PYTHON'
pid = int(open("main.pid").read())
def descriptors():
    return len(os.listdir("/proc/%d/fd" % pid))

h.pwrite(b"first", 0)
clients = [h, connect(), connect()]
before = descriptors()
# 4 KiB in each 64 KiB: new clusters read as zeros, and the file stays sparse.
count = 17000
def done(error):
    assert error.value == 0, os.strerror(error.value)
    return 1
for i in range(1, count):
    handle = clients[i % 3]
    data = bytearray((b"%015d\n" % i) * 256)
    handle.aio_pwrite(nbd.Buffer.from_bytearray(data), i * 65536 + 4096 * (i % 16), done)
    while handle.aio_in_flight() >= 8:
        handle.poll(-1)
for handle in clients:
    while handle.aio_in_flight():
        handle.poll(-1)
h.flush()
assert descriptors() <= before + 1, "%d descriptors, before %d" % (descriptors(), before)
for i in list(range(1, count, 97)) + [count - 1]:
    found = h.pread(65536, i * 65536)
    place = 4096 * (i % 16)
    assert found == bytes(place) + (b"%015d\n" % i) * 256 + bytes(65536 - 4096 - place), i
for handle in clients:
    handle.shutdown()
PYTHON
stop
length=$(length_of disk.qcow2)
echo "the file has $length bytes now, $(stat -c %b disk.qcow2) blocks"
[ "$length" -gt 1073741824 ] || fail "it has not grown"
[ "$(stat -c %b disk.qcow2)" -lt 400000 ] || fail "it is not sparse"
check_image disk.qcow2
same "$(dirty_map b0 disk.qcow2)" "0+$((17000 * 65536))"
qemu-io -r -f qcow2 -c 'read -P 0 65540 4092' -c 'read -v 1114046464 16' disk.qcow2 >io.out
! grep -q 'verification failed' io.out || fail "$(cat io.out)"

step "and comes back when all of it is given up"
serve file disk.qcow2
client <<'PYTHON'
for offset in range(0, 2 << 30, 1 << 29):
    h.trim(1 << 29, offset)
h.flush()
h.pwrite(b"again", 0)
h.shutdown()
PYTHON
stop
check_image disk.qcow2
