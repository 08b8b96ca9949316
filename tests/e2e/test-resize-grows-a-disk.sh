#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# qcow2-resize=: the disk has at least this size, whatever was behind its end.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

# virtual_size FILE
virtual_size() { peek "$1" 24 8; }

step "a disk grows before the first client is let in, and its bitmaps with it"
make_qcow2 disk.qcow2 1000000
qemu-img bitmap --add -g 512 disk.qcow2 fine
qemu-img bitmap --add --disable disk.qcow2 frozen
serve file disk.qcow2 qcow2-resize=3000001
client <<'PYTHON'
assert h.get_size() == 3000320
assert h.pread(3000320 - 999936, 999936) == bytes(3000320 - 999936)
h.pwrite(b"x" * 512, 3000320 - 512)
PYTHON
stop
check_image disk.qcow2
same "$(virtual_size disk.qcow2)" 3000320
same "$(dirty_map fine disk.qcow2)" "2999808+512"
same "$(dirty_map frozen disk.qcow2)" ""

step "the same once more changes nothing"
before=$(sha256sum disk.qcow2)
serve file disk.qcow2 qcow2-resize=3000001
client <<<'assert h.get_size() == 3000320'
stop
same "$(sha256sum disk.qcow2)" "$before"

step "a larger one is left as it is, and that is said"
serve -v file disk.qcow2 qcow2-resize=1M
client <<<'assert h.get_size() == 3000320'
stop
server_said "the disk has 3000320 bytes; qcow2-resize=1048576 leaves a larger one as it is"
# At the prompt, too: perhaps a suffix was forgotten. Not where it is just what it has.
server_said "^nbdkit: qcow2bitmap: warning: $tmp/disk.qcow2: the disk has 3000320 bytes already, and stays so; \
qcow2-resize=1048576 is less"
serve file disk.qcow2 qcow2-resize=3000001
stop
! grep -q "is less" main.log || fail "$(cat main.log)"
same "$(sha256sum disk.qcow2)" "$before"

step "what QEMU has left behind the end does not show"
make_qcow2 stale.qcow2 1M
qemu-io -f qcow2 -c "write -P 7 0 1M" stale.qcow2 >/dev/null
qemu-img resize -q --shrink -f qcow2 stale.qcow2 100352
cp stale.qcow2 by_qemu.qcow2
serve file stale.qcow2 qcow2-resize=1M
client <<'PYTHON'
assert h.pread(1 << 20, 0) == b"\7" * 100352 + bytes((1 << 20) - 100352)
PYTHON
stop
check_image stale.qcow2
# And it was there.
qemu-img resize -q -f qcow2 by_qemu.qcow2 1M
qemu-io -f qcow2 -c "read -P 7 100352 30720" by_qemu.qcow2 | grep -q "read 30720" || fail "QEMU has become better"

step "with a bitmap that is to be made for the larger disk"
make_qcow2 none.qcow2 0
serve file none.qcow2 qcow2-resize=10M bitmap=new
client <<<'h.pwrite(b"x", (10 << 20) - 1)'
stop
check_image none.qcow2
same "$(dirty_map new none.qcow2)" "10420224+65536"

step "an image that is made grows at once"
: >made.qcow2
serve file made.qcow2 qcow2-create=1M qcow2-resize=2M
client <<<'assert h.get_size() == 2 << 20'
stop
check_image made.qcow2

step "what cannot be is told at the prompt, and nothing has changed"
make_qcow2 small.qcow2 1M cluster_size=512
qemu-img bitmap --add -g 512 small.qcow2 fine
before=$(sha256sum small.qcow2)
refused "qcow2-resize=: with clusters of 512 bytes a disk has at most 137438953472 bytes" \
    file small.qcow2 qcow2-resize=129G
make_qcow2 big.qcow2 1G
qemu-img bitmap --add -g 512 big.qcow2 fine
refused "bitmap 'fine': a bitmap of granularity 512 would be larger than 512 MiB on this disk" \
    file big.qcow2 qcow2-resize=4T
refused "bitmap='other': a bitmap of granularity 512 would be larger than 512 MiB on this disk" \
    file small.qcow2 bitmap=other bitmap-granularity=512 qcow2-resize=4T
same "$(sha256sum small.qcow2)" "$before"
refused "qcow2-resize=lots: not a size" file small.qcow2 qcow2-resize=lots
refused "qcow2-resize=4E: no image can have a disk" file small.qcow2 qcow2-resize=4E
make_qcow2 old.qcow2 1M compat=0.10
qemu-img snapshot -c s old.qcow2
refused "a version 2 image with snapshots cannot be resized; 'qemu-img amend -o compat=1.1'" \
    file old.qcow2 qcow2-resize=2M
if [ "$(id -u)" -ne 0 ]; then
    chmod a-w small.qcow2
    refused "qcow2-resize= asks for a change" file small.qcow2 qcow2-resize=2M
fi

step "with -r it is ignored"
serve -r file big.qcow2 qcow2-resize=2G
client <<<'assert h.get_size() == 1 << 30'
stop
server_said "qcow2-resize= is ignored"

step "no room: the client is turned away, the image is as it was"
make_qcow2 tight.qcow2 1G cluster_size=4k
before=$(sha256sum tight.qcow2)
serve --filter=offset file tight.qcow2 range="$(length_of tight.qcow2)" qcow2-resize=1T
! nbdinfo "$(uri)" >/dev/null 2>&1 || fail "a client was let in"
stop
server_said "qcow2-resize="
qemu-img check -q -f qcow2 tight.qcow2
same "$(virtual_size tight.qcow2)" $((1 << 30))
