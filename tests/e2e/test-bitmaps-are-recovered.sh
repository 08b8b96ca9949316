#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# A crash of QEMU marks all bitmaps in_use. The server says so, which and what helps;
# bitmap-recover=all-dirty makes them valid again, all dirty, once. So with bitmaps
# that are out of date.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

# As QEMU leaves it when it is killed: every bitmap marked, enabled or not.
crash_of_qemu()
{
    qemu-io -f qcow2 -c 'write 5M 1M' -c 'sigraise 9' disk.qcow2 >qemu-io.out 2>&1 || :
}

make_qcow2 disk.qcow2 100M
qemu-img bitmap --add disk.qcow2 b0
qemu-img bitmap --add --disable -g 512 disk.qcow2 frozen
crash_of_qemu
same "$(bitmap_info disk.qcow2 b0)" "65536 in-use,auto"
same "$(bitmap_info disk.qcow2 frozen)" "512 in-use"

step "without the key: a warning for each, and nothing is changed"
serve file disk.qcow2
client <<<'h.pwrite(b"x", 0)'
stop
for name in b0 frozen; do
    server_said "bitmap '$name', granularity .*: inconsistent .*bitmap-recover=all-dirty .*'qemu-img bitmap --remove'"
done
same "$(bitmap_info disk.qcow2 b0)" "65536 in-use,auto"
refused "bitmap='b0': it is inconsistent .*bitmap-recover=all-dirty" file disk.qcow2 bitmap=b0

step "read-only: the key is ignored, and the file is not changed"
before=$(file_state disk.qcow2)
serve -r file disk.qcow2 bitmap-recover=all-dirty
client <<<'h.pread(512, 0)'
stop
same "$(file_state disk.qcow2)" "$before"

step "with the key: valid, all dirty, tracked from now on"
serve file disk.qcow2 bitmap-recover=all-dirty bitmap=b0
client <<<'h.pwrite(b"y", 0)'
stop
check_image disk.qcow2
same "$(bitmap_info disk.qcow2 b0)" "65536 auto"
same "$(bitmap_info disk.qcow2 frozen)" "512 "
same "$(dirty_map b0 disk.qcow2)" "0+104857600"
same "$(dirty_map frozen disk.qcow2)" "0+104857600"

step "what was recovered or made is said, and what it is then"
cp disk.qcow2 said.qcow2
qemu-img bitmap --disable said.qcow2 b0
qemu-io -f qcow2 -c 'write 5M 1M' -c 'sigraise 9' said.qcow2 >qemu-io.out 2>&1 || :
serve -v file said.qcow2 bitmap-recover=all-dirty bitmap=new
client <<<'h.pread(512, 0)'
stop
server_said "bitmap 'b0' was inconsistent, and is valid again with all bits set"
server_said "bitmap 'new' was made"
server_said "bitmap 'b0', granularity 64K: disabled, kept as it is; dirty: 1600 granules, 104857600 bytes"
server_said "bitmap 'new', granularity 64K: enabled, tracked; dirty: 0 granules, 0 bytes"
! grep -q "inconsistent (in_use" main.log || fail "it is not inconsistent any more: $(cat main.log)"

step "the same command line again does it no second time"
qemu-img bitmap --clear disk.qcow2 b0
serve file disk.qcow2 bitmap-recover=all-dirty bitmap=b0
client <<<'h.pwrite(b"z", 1 << 20)'
stop
check_image disk.qcow2
same "$(dirty_map b0 disk.qcow2)" "1048576+65536"

step "with -v a line for each bitmap says what is there"
serve -v file disk.qcow2
client <<<'h.pread(512, 0)'
stop
server_said "bitmap 'b0', granularity 64K: enabled, tracked; dirty: 1 granule, 65536 bytes"
server_said "bitmap 'frozen', granularity 512: disabled, kept as it is; dirty: 204800 granules, 104857600 bytes"

step "out of date is not empty: another program wrote, and cleared autoclear bit 0"
poke disk.qcow2 95 1 0
before=$(file_state disk.qcow2)
refused "bitmap='b0': the bitmaps of the image are out of date .autoclear bit 0 is clear: .*bitmap-recover=all-dirty .*bitmap-remove-all=yes" \
    file disk.qcow2 bitmap=b0
same "$(file_state disk.qcow2)" "$before"
# Read-only nobody asks for a change: it is said, and stays.
serve -r file disk.qcow2 bitmap=b0 bitmap-recover=all-dirty
client <<<'h.pread(512, 0)'
stop
server_said "the bitmaps of the image are out of date"
same "$(file_state disk.qcow2)" "$before"
serve file disk.qcow2
client <<<'h.pwrite(b"n", 40 << 20)'
stop
server_said "the bitmaps of the image are out of date .*not tracked: 'b0', 'frozen'; bitmap-recover=all-dirty"
serve file disk.qcow2 bitmap=b0 bitmap-recover=all-dirty
client <<<'h.pread(512, 0)'
stop
same "$(bitmap_info disk.qcow2 b0)" "65536 auto"
same "$(dirty_map b0 disk.qcow2)" "0+104857600"
same "$(dirty_map frozen disk.qcow2)" "0+104857600"
# What the old extension named may have been the guest's: it leaks.
check_image_leaks_at_worst disk.qcow2
