#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# The file is replaced under its name while it is served: neither grows, the new one
# keeps every byte, and the old one ends sound.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

. "$srcdir/e2e/fill.sh"

make_qcow2 disk.qcow2 64M
truncate -s +3M disk.qcow2
ln disk.qcow2 old.qcow2
length=$(length_of disk.qcow2)
# As long as the old one: the size alone would not tell.
make_qcow2 new.qcow2 64M
truncate -s "$length" new.qcow2

serve file disk.qcow2 bitmap=b0
client <<'PYTHON'
h.pwrite(b"x", 0)
h.shutdown()
PYTHON
same "$(length_of old.qcow2)" "$length"
mv new.qcow2 disk.qcow2
before=$(file_state disk.qcow2)
fill
stop
server_said "disk.qcow2 is another file now"
same "$(file_state disk.qcow2)" "$before"
same "$(length_of old.qcow2)" "$length"
check_image old.qcow2
same_disk old.qcow2 twin.raw

step "after it has grown once"
make_qcow2 disk.qcow2 64M
rm old.qcow2
ln disk.qcow2 old.qcow2
make_qcow2 new.qcow2 64M
serve file disk.qcow2
client <<'PYTHON'
h.pwrite(b"x" * 1000000, 0)
os.rename("new.qcow2", "disk.qcow2")
before = open("disk.qcow2", "rb").read()
for offset in range(0, 32 << 20, 1 << 20):
    try:
        h.pwrite(b"y" * (1 << 20), 32 << 20)
        h.pwrite(b"y" * (1 << 20), offset)
    except nbd.Error as error:
        assert error.errnum == errno.ENOSPC, error
        break
else:
    raise AssertionError("there was room for all of it")
h.flush()
assert open("disk.qcow2", "rb").read() == before
h.shutdown()
PYTHON
stop
check_image old.qcow2

step "between start and the first client: what has the name now is served"
make_qcow2 disk.qcow2 64M
serve file disk.qcow2
make_qcow2 new.qcow2 32M
mv new.qcow2 disk.qcow2
client <<'PYTHON'
assert h.get_size() == 32 << 20
h.pwrite(b"z" * 1000000, 0)
h.shutdown()
PYTHON
# And it is locked, as we hold it.
! qemu-img info disk.qcow2 >/dev/null 2>&1 || fail "qemu-img info was not kept away"
stop
check_image disk.qcow2
qemu-io -r -f qcow2 -c 'read -P 0x7a 0 1000000' disk.qcow2 >io.out
! grep -q 'verification failed' io.out || fail "$(cat io.out)"
