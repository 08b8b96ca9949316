#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# The limit filter below us counts what we open there, and growing opens it a second
# time. So the file does not grow; a full image is ENOSPC and no other error, and all
# else works.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

requires_filter limit
make_qcow2 disk.qcow2 256M
truncate -s +3M disk.qcow2
length=$(length_of disk.qcow2)
serve --filter=limit file disk.qcow2 limit=1 bitmap=b0
client <<'PYTHON'
twin = bytearray(256 << 20)
for offset in range(0, len(twin), 1 << 20):
    try:
        h.pwrite(b"x" * 200000, offset)
    except nbd.Error as error:
        assert error.errnum == errno.ENOSPC, error
        break
    twin[offset:offset + 200000] = b"x" * 200000
else:
    raise AssertionError("never full")
h.trim(1 << 20, offset)
h.pwrite(b"y" * 200000, 0)
twin[:200000] = b"y" * 200000
h.flush()
assert h.pread(8 << 20, 0) == twin[:8 << 20]
with open("twin.raw", "wb") as file:
    file.truncate(256 << 20)
    file.write(twin[:64 << 20])
h.shutdown()
PYTHON
stop
[ "$(length_of disk.qcow2)" -le "$length" ] || fail "the file has grown"
check_image disk.qcow2
same_disk disk.qcow2 twin.raw
