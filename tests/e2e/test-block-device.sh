#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# An image on a block device: used until it is full, or somebody has made the device
# larger, and locked as QEMU locks it.

# In memory, if possible: a flush of such a device may take a second.
[ ! -w /dev/shm ] || export TMPDIR=/dev/shm
. "${srcdir:-$(dirname "$0")/..}"/functions.sh

. "$srcdir/e2e/fill.sh"
requires_root
requires losetup

make_qcow2 disk.qcow2 64M
truncate -s 5M disk.qcow2
device=$(losetup -f --show "$tmp/disk.qcow2" 2>/dev/null) || skip "no loop device can be set up here"
cleanup_fn losetup -d "$device"
[ -b "$device" ] || skip "$device is not there"
qemu-io -f qcow2 -c 'write -P 0x41 0 64k' "$device" >/dev/null 2>&1 || skip "QEMU cannot use $device"

serve file "$device" bitmap=b0
! qemu-img info "$device" >/dev/null 2>&1 || fail "qemu-img info was not kept away"
fill
stop
qemu-img check -q -f qcow2 "$device"
same_disk "$device" twin.raw
dirty_covers_touched b0 "$device"
sync "$device"
check_image disk.qcow2
same "$(length_of disk.qcow2)" 5242880

step "it is made larger while it is served, as thin-provisioned storage is when it is nearly full"
serve file "$device" bitmap=b0
DEVICE=$device client <<'PYTHON'
import subprocess
size = h.get_size()
def fill(byte):
    for offset in range(0, size, 65536):
        try:
            h.pwrite(byte * 65536, offset)
        except nbd.Error as error:
            assert error.errnum == errno.ENOSPC, error
            return offset
full = fill(b"1")
for more in 9, 12:
    # What is new holds anything.
    with open("disk.qcow2", "ab") as file:
        file.write(b"\xee" * ((more << 20) - file.tell()))
    subprocess.run(["losetup", "-c", os.environ["DEVICE"]], check=True)
    now = fill(b"2")
    assert now > full + (2 << 20), (full, now)
    full = now
assert h.pread(1000, size - 1000) == bytes(1000)
fails(errno.ENOSPC, h.pwrite, b"4" * (8 << 20), size - (16 << 20))
for offset in range(0, full, 65536):
    assert h.pread(65536, offset) == b"2" * 65536, offset
h.flush()
h.shutdown()
PYTHON
stop
qemu-img check -q -f qcow2 "$device"
sync "$device"
same "$(length_of disk.qcow2)" $((12 << 20))
same "$(bitmap_info disk.qcow2 b0)" "65536 auto"

step "full: what there is no room for is refused at the prompt, and not one byte is changed"
before=$(sha256sum "$device")
refused "$device: bitmap= asks for a change, and there is no room for it: .*make the device larger" \
    file "$device" bitmap=b0 bitmap=new
refused "$device: qcow2-resize= asks for a change, and there is no room for it: " file "$device" qcow2-resize=5T
sync "$device"
same "$(sha256sum "$device")" "$before"

step "for reading, not one byte"
sync "$device"
before=$(sha256sum "$device")
serve -r file "$device" bitmap=b1
client <<<'assert h.is_read_only(); h.pread(65536, 0)'
stop
same "$(sha256sum "$device")" "$before"

step "what is no image"
dd if=/dev/zero of="$device" bs=1M count=1 status=none conv=fsync
refused "$device: header: not a qcow2 image" file "$device"
