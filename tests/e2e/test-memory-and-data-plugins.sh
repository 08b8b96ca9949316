#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# Images in memory: loaded by nbdcopy, or by the data plugin when it starts. Of fixed
# size, so that the guest has the room that was left.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

. "$srcdir/e2e/fill.sh"

make_qcow2 disk.qcow2 64M
qemu-io -f qcow2 -c 'write -P 0x41 1M 200000' disk.qcow2 >/dev/null
truncate -s 6M disk.qcow2

step "memory: loaded through another server of the same process's store"
requires_plugin memory
# The image must be there before the first client of ours: so the plain server
# is the one that holds it.
serve_plain below memory 6M
nbdcopy disk.qcow2 "$(uri below)"
serve nbd socket="$tmp/below.sock" bitmap=b0
client <<'PYTHON'
assert h.pread(200000, 1 << 20) == b"A" * 200000
h.trim(64 << 20, 0)
h.shutdown()
PYTHON
fill
stop
nbdcopy "$(uri below)" back.qcow2
stop below
check_image back.qcow2
same_disk back.qcow2 twin.raw

step "data: from a file, with the size of the file or more"
requires_plugin data
make_qcow2 disk.qcow2 64M
qemu-io -f qcow2 -c 'write -P 0x41 1M 200000' disk.qcow2 >/dev/null
before=$(file_state disk.qcow2)
serve data data="<$tmp/disk.qcow2" size=4M
client <<'PYTHON'
assert not h.is_read_only()
assert h.pread(200000, 1 << 20) == b"A" * 200000
h.pwrite(b"B" * 200000, 10 << 20)
h.flush()
assert h.pread(200000, 10 << 20) == b"B" * 200000
try:
    for offset in range(20 << 20, 40 << 20, 1 << 20):
        h.pwrite(b"C" * (1 << 20), offset)
    raise AssertionError("there was room for all of it")
except nbd.Error as error:
    assert error.errnum == errno.ENOSPC, error
assert h.pread(200000, 10 << 20) == b"B" * 200000
h.shutdown()
PYTHON
stop
same "$(file_state disk.qcow2)" "$before"

step "what is no image there: clients are turned away with the reason"
serve data '0x51 0x46 0x49 0xfb 0 0 0 9' size=1M
! nbdinfo "$(uri)" >/dev/null 2>&1 || fail "served"
server_said 'the version is neither 2 nor 3 .it is 9'
# And are so again, by a server that goes on.
! nbdinfo "$(uri)" >/dev/null 2>&1 || fail "served"
stop
serve memory 1M
! nbdinfo "$(uri)" >/dev/null 2>&1 || fail "served"
server_said 'not a qcow2 image'
stop
