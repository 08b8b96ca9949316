#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# Under us the cow filter: the guest writes what fits, and the file below keeps every
# byte and its length, also when it could be written.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

. "$srcdir/e2e/fill.sh"
requires_filter cow

make_qcow2 disk.qcow2 64M
qemu-img bitmap --add disk.qcow2 b0
qemu-io -f qcow2 -c 'write -P 0x11 0 1M' disk.qcow2 >/dev/null
truncate -s +2M disk.qcow2
before=$(file_state disk.qcow2)
serve --filter=cow file disk.qcow2 bitmap=another
fill
# What the guest has seen, and what it would see after it has come again.
nbdcopy "$(uri)" now.raw
stop
same "$(file_state disk.qcow2)" "$before"
qemu-img compare -q -f raw -F raw now.raw twin.raw
qemu-io -r -f qcow2 -c 'read -P 0x11 0 1M' disk.qcow2 >io.out
! grep -q 'verification failed' io.out || fail "$(cat io.out)"

step "without room for a bitmap: what keeps the file from growing is said, and what helps"
make_qcow2 new.qcow2 64M
serve -t 1 --filter=cow file new.qcow2 bitmap=b0
! nbdinfo "$(uri)" >/dev/null 2>&1 || fail "a client was let in"
stop
server_said "cannot grow: the cow filter below keeps it at its size; room behind the image is used, and can be made \
before nbdkit starts: truncate -s .1G $tmp/new.qcow2\$"
bash -c "$(sed -n 's/.*before nbdkit starts: //p' main.log | head -n 1)"
serve --filter=cow file new.qcow2 bitmap=b0
client <<<'h.pwrite(b"x" * 1000000, 0)'
stop

step "with room in it nothing of this shows"
serve --filter=cow file disk.qcow2
client <<'PYTHON'
h.pwrite(b"x" * 1000000, 0)
h.flush()
assert h.pread(1000000, 0) == b"x" * 1000000
h.shutdown()
PYTHON
stop
same "$(file_state disk.qcow2)" "$before"
