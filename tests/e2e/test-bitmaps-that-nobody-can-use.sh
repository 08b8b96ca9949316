#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# A bitmap directory that is broken, a bitmap that nobody can use: neither takes the
# disk for ever. The server says the way out, and it leads out: bitmap-remove-all=yes,
# bitmap-remove=NAME.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

# maintain STATUS PATTERN ARGUMENTS...: its exit code, and what it prints.
maintain()
{
    local expected=$1 pattern=$2 status=0
    shift 2
    (as_server "${nbdkit_command[@]}" -U - --filter="$FILTER" "$@") >maintain.out 2>maintain.err || status=$?
    same "$status" "$expected" "exit code of $*: $(cat maintain.out maintain.err)"
    grep -qE -- "$pattern" maintain.out maintain.err || fail "not said: $pattern"$'\n'"$(cat maintain.out maintain.err)"
}

# The offset of the directory: the last field of the extension, which QEMU puts in
# the first sector.
directory_of() { "$PYTHON" -c '
import sys
header = open(sys.argv[1], "rb").read(65536)
at = header.index(bytes.fromhex("23852875"))
print(int.from_bytes(header[at + 24:at + 32], "big"))' "$1"; }

make_qcow2 sound.qcow2 64M
qemu-img bitmap --add sound.qcow2 b0
qemu-img bitmap --add --disable sound.qcow2 b1
qemu-io -f qcow2 -c 'write -P 0x11 5M 1M' sound.qcow2 >qemu-io.out
qemu-img convert -f qcow2 -O raw sound.qcow2 twin.raw

step "a directory of zeros: read-only, and the way out is said"
cp sound.qcow2 disk.qcow2
dd if=/dev/zero of=disk.qcow2 bs=1 seek="$(directory_of disk.qcow2)" count=64 conv=notrunc status=none
! qemu-img info disk.qcow2 >/dev/null 2>&1 || skip "this QEMU opens it"
before=$(file_state disk.qcow2)
serve file disk.qcow2
client <<<'assert h.is_read_only(); assert h.pread(512, 5 << 20) == b"\x11" * 512'
stop
server_said "served read-only: .*directory at 0x[0-9a-f]*.*; bitmap-remove-all=yes removes the bitmaps"
refused "bitmap-recover=all-dirty asks for a change: .*bitmap-remove-all=yes" file disk.qcow2 bitmap-recover=all-dirty
refused "bitmap= asks for a change: .*bitmap-remove-all=yes" file disk.qcow2 bitmap=b0
maintain 2 "^bitmap-remove=NAME removes a bitmap that nobody can use, bitmap-remove-all=yes all of them" \
    file disk.qcow2 qcow2-check=report
same "$(file_state disk.qcow2)" "$before"
maintain 2 "^bitmap-remove=NAME removes a bitmap that nobody can use, bitmap-remove-all=yes all of them" \
    file disk.qcow2 qcow2-check=all
maintain 1 "bitmap-remove-all=yes asks for a change, but the server is read-only" -r file disk.qcow2 bitmap-remove-all=yes
maintain 1 "bitmap directory at 0x" file disk.qcow2 bitmap-remove=b0
maintain 0 "removed: bitmaps whose directory could not be read" file disk.qcow2 bitmap-remove-all=yes
maintain 0 "the image has no bitmaps" file disk.qcow2 bitmap-remove-all=yes
maintain 0 "0 corruptions" file disk.qcow2 qcow2-check=leaks
check_image disk.qcow2
same_disk disk.qcow2 twin.raw
serve file disk.qcow2 bitmap=b0
client <<<'h.pwrite(b"x", 0)'
stop
check_image disk.qcow2
same "$(dirty_map b0 disk.qcow2)" "0+65536"

step "one bitmap of a type that nobody knows, enabled"
cp sound.qcow2 disk.qcow2
poke disk.qcow2 $(($(directory_of disk.qcow2) + 16)) 1 77
serve file disk.qcow2
client <<<'assert h.is_read_only()'
stop
server_said "served read-only: bitmap 'b0': the type of a bitmap is not known .*; bitmap-remove=NAME removes one bitmap"
maintain 1 "there is no bitmap 'x'" file disk.qcow2 bitmap-remove=x
maintain 0 "removed: bitmap 'b0', granularity 64K: foreign, kept as it is and not used: the type" file disk.qcow2 bitmap-remove=b0
same "$(bitmap_info disk.qcow2 b1)" "65536 "
maintain 0 "" file disk.qcow2 qcow2-check=leaks
check_image disk.qcow2
serve file disk.qcow2 bitmap=b0
client <<<'h.pwrite(b"x", 0)'
stop
same "$(dirty_map b0 disk.qcow2)" "0+65536"

step "what is sound: what is lost is said, and nothing leaks"
cp sound.qcow2 disk.qcow2
maintain 0 "removed: bitmap 'b0', granularity 64K: enabled, tracked; dirty: 16 granules, 1048576 bytes" \
    file disk.qcow2 bitmap-remove=b0
check_image disk.qcow2
cp sound.qcow2 disk.qcow2
maintain 0 "removed: bitmap 'b1', granularity 64K: disabled" file disk.qcow2 bitmap-remove-all=yes
check_image disk.qcow2
same "$(bitmap_info disk.qcow2 b0)" ""

step "out of date"
cp sound.qcow2 disk.qcow2
poke disk.qcow2 95 1 0
maintain 1 "bitmap 'b0': the bitmaps of the image are out of date" file disk.qcow2 bitmap-remove=b0
maintain 0 "removed: the bitmaps of the image are out of date .*'b0', 'b1'" file disk.qcow2 bitmap-remove-all=yes
maintain 0 "" file disk.qcow2 qcow2-check=leaks
check_image disk.qcow2

step "an extension of another length"
cp sound.qcow2 disk.qcow2
extension=$(grep -abo $'\x23\x85\x28\x75' disk.qcow2 | head -n 1 | cut -d: -f1)
poke disk.qcow2 $((extension + 4)) 4 16
serve file disk.qcow2
client <<<'assert h.is_read_only()'
stop
server_said "the bitmaps extension is not 24 bytes long .16 bytes.; bitmap-remove-all=yes"
maintain 0 "removed:" file disk.qcow2 bitmap-remove-all=yes
maintain 0 "" file disk.qcow2 qcow2-check=leaks
check_image disk.qcow2
same_disk disk.qcow2 twin.raw
