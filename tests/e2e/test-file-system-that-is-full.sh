#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# The file system below has no more room, though the file may grow: ENOSPC to the guest,
# and nothing is harmed; with room again all goes on.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

. "$srcdir/e2e/fill.sh"
requires_root
requires mount umount
mkdir small
mount -t tmpfs -o size=6M none small 2>/dev/null || skip "no file system can be mounted here"
cleanup_fn umount "$tmp/small"

make_qcow2 small/disk.qcow2 64M
serve file small/disk.qcow2 bitmap=b0
fill
step "room again"
client <<'PYTHON'
fails(errno.ENOSPC, h.pwrite, b"m" * (4 << 20), 0)
PYTHON
mount -o remount,size=40M small
client <<'PYTHON'
h.pwrite(b"m" * (20 << 20), 0)
h.flush()
assert h.pread(20 << 20, 0) == b"m" * (20 << 20)
with open("twin.raw", "r+b") as file:
    file.write(b"m" * (20 << 20))
with open("touched", "a") as file:
    print(0, 20 << 20, file=file)
h.shutdown()
PYTHON
stop
cp small/disk.qcow2 .
check_image disk.qcow2
same_disk disk.qcow2 twin.raw
dirty_covers_touched b0 disk.qcow2
