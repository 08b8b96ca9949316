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

step "it is full when the bitmap that was made needs its first bits"
make_qcow2 small/disk.qcow2 64M
qemu-io -f qcow2 -c 'write 0 1M' small/disk.qcow2 >/dev/null
serve file small/disk.qcow2 bitmap=b0
client <<<'h.pread(512, 0); h.shutdown()'
stop
dd if=/dev/zero of=small/other bs=4096 2>/dev/null || true
serve file small/disk.qcow2 bitmap=b0
client <<'PYTHON'
h.pwrite(b"y" * 1000, 5000)
h.flush()
fails(errno.ENOSPC, h.pwrite, b"n" * 65536, 32 << 20)
h.shutdown()
PYTHON
stop
same "$(bitmap_info small/disk.qcow2 b0)" "65536 auto"
same "$(dirty_map b0 small/disk.qcow2 | head -n 1)" "0+65536"
rm small/other small/disk.qcow2

step "it is full when data need room"
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
