#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# qcow2-create=SIZE makes an image where nothing is, and only there.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

use()
{
    client <<'PYTHON'
assert h.get_size() == 100 << 20
assert extents(h, 0, 100 << 20) == [(0, 100 << 20, 3)]
h.pwrite(b"made" * 50000, 70 << 20)
h.flush()
assert h.pread(200000, 70 << 20) == b"made" * 50000
h.shutdown()
PYTHON
    truncate -s 0 twin.raw
    truncate -s 100M twin.raw
    "$PYTHON" -c 'import sys; sys.stdout.write("made" * 50000)' |
        dd of=twin.raw bs=1M seek=70 conv=notrunc status=none
}

step "an empty file"
: >disk.qcow2
serve file disk.qcow2 qcow2-create=100M bitmap=b0
use
stop
check_image disk.qcow2
same_disk disk.qcow2 twin.raw
same "$(dirty_map b0 disk.qcow2)" "73400320+262144"
[ "$(length_of disk.qcow2)" -lt 2000000 ] || fail "it is large: $(length_of disk.qcow2)"

step "one that is there already is left as it is, whatever its size"
before=$(file_state disk.qcow2)
serve file disk.qcow2 qcow2-create=5G
client <<<'assert h.get_size() == 100 << 20; assert h.pread(4, 70 << 20) == b"made"'
stop
same "$(file_state disk.qcow2)" "$before"

step "zeros: of a fixed size, and of a file"
truncate -s 8M zeros
serve --filter=truncate file zeros truncate=8M qcow2-create=100M
use
stop
same "$(length_of zeros)" 8388608
check_image zeros
same_disk zeros twin.raw
rm zeros
truncate -s 1M zeros
serve file zeros qcow2-create=100M
use
stop
check_image zeros
same_disk zeros twin.raw
serve memory 8M qcow2-create=100M bitmap=b0
use
stop

step "a killed server, before and after"
: >disk.qcow2
serve file disk.qcow2 qcow2-create=100M
kill_server
same "$(length_of disk.qcow2)" 0
serve file disk.qcow2 qcow2-create=100M
client <<<'h.pread(1, 0); os.kill(int(open("main.pid").read()), 9)'
kill_server
check_image_leaks_at_worst disk.qcow2
serve file disk.qcow2 qcow2-create=100M
use
stop
check_image disk.qcow2
same_disk disk.qcow2 twin.raw

step "killed before the header was written"
: >disk.qcow2
serve file disk.qcow2 qcow2-create=100M
client <<<'h.pread(1, 0); os.kill(int(open("main.pid").read()), 9)'
kill_server
dd if=/dev/zero of=disk.qcow2 bs=512 count=1 conv=notrunc status=none
cp disk.qcow2 begun.qcow2
refused "header: not a qcow2 image" file begun.qcow2
serve file disk.qcow2 qcow2-create=100M
use
stop
check_image disk.qcow2
same_disk disk.qcow2 twin.raw
# Not if a single byte there is not ours.
printf x | dd of=begun.qcow2 bs=1 seek=70000 conv=notrunc status=none
before=$(file_state begun.qcow2)
refused "header: not a qcow2 image" file begun.qcow2 qcow2-create=100M
same "$(file_state begun.qcow2)" "$before"

step "holes of a file are not read"
rm zeros
truncate -s 2T zeros 2>/dev/null || truncate -s 1G zeros
serve file zeros qcow2-create=100M
use
stop
check_image zeros
rm zeros

step "what is there and no image is no place for one"
echo "a letter" >letter
before=$(file_state letter)
refused "letter: header: not a qcow2 image" file letter qcow2-create=100M
same "$(file_state letter)" "$before"
: >disk.qcow2
refused "header: not a qcow2 image" -r file disk.qcow2 qcow2-create=100M
for size in x -5 '' 99999999999999999999 6E; do
    refused "qcow2-create=$size: |qcow2-create=: no image" file disk.qcow2 qcow2-create=$size
done
same "$(length_of disk.qcow2)" 0

step "no room for it"
truncate -s 128K small
serve --filter=truncate file small truncate=128K qcow2-create=100M
! nbdinfo "$(uri)" >/dev/null 2>&1 || fail "served"
server_said 'qcow2-create=: .*the layer below ends at 0x20000'
stop
cmp small <(head -c 128K /dev/zero)

step "an empty file that becomes no image stays empty, and later becomes one"
if [ "$(id -u)" -eq 0 ] && mkdir full && mount -t tmpfs -o size=128K none full 2>/dev/null; then
    cleanup_fn umount "$tmp/full"
    : >full/disk.qcow2
    serve file full/disk.qcow2 qcow2-create=100M
    for _ in 1 2; do
        ! nbdinfo "$(uri)" >/dev/null 2>&1 || fail "served"
        same "$(length_of full/disk.qcow2)" 0
    done
    server_said 'qcow2-create=: .*No space left'
    mount -o remount,size=40M full
    use
    stop
    cp full/disk.qcow2 .
    check_image disk.qcow2
    same_disk disk.qcow2 twin.raw
fi
