#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# An image on a block device: of fixed size, used until it is full, and locked as QEMU
# locks it.

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
