#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# A store that is full when a bitmap needs its first cluster. That cluster is taken
# before the first client writes; where not even one is left no bitmap is given up for
# data that have no room either, and what was given up is valid again, all dirty, when
# there is room. Who listens to the control socket is told of both.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

requires_filter truncate

# As QEMU makes a bitmap: without a cluster for its bits.
make_qcow2 empty.qcow2 64M
qemu-io -f qcow2 -c 'write -P 0x11 0 1M' empty.qcow2 >/dev/null
qemu-img bitmap --add empty.qcow2 b0
size=$(($(length_of empty.qcow2) / 65536 * 65536 + 65536))
truncate -s "$size" empty.qcow2
[ "$(qemu-img check -f qcow2 --output=json empty.qcow2 | "$PYTHON" -c '
import json, sys; print(json.load(sys.stdin)["image-end-offset"])')" -gt $((size - 65536)) ] || fail "it is not full"
is_valid() { [ "$(bitmap_info disk.qcow2 b0)" = "65536 auto" ]; }

step "room for one cluster: it is the bitmap's"
cp empty.qcow2 disk.qcow2
truncate -s $((size + 65536)) disk.qcow2
serve --filter=truncate file disk.qcow2 truncate=$((size + 65536))
client <<'PYTHON'
h.pwrite(b"y" * 1000, 5000)
fails(errno.ENOSPC, h.pwrite, b"n", 32 << 20)
h.pwrite(b"y" * 1000, 900000)
h.shutdown()
PYTHON
stop
check_image disk.qcow2
# As with QEMU, a write that was refused may have set its bits.
same "$(dirty_map b0 disk.qcow2 | head -n 2)" "0+65536"$'\n'"851968+65536"

step "none: what is refused costs nothing"
cp empty.qcow2 disk.qcow2
IDLE_MS=200 serve --filter=truncate file disk.qcow2 truncate="$size" qcow2-control=main.qmp
client <<'PYTHON'
control = Qmp("main.qmp")
fails(errno.ENOSPC, h.pwrite, b"n", 32 << 20)
told = control.event("BLOCK_IO_ERROR")
assert told["nospace"] and told["operation"] == "write" and told["device"] == "disk" and told["reason"], told
fails(errno.ENOSPC, h.pwrite, b"n" * 100000, 1000000)
h.shutdown()
PYTHON
server_said "warning: .*bitmap 'b0': there is no room for its last bits"
is_valid || fail "$(bitmap_info disk.qcow2 b0)"

step "what is written in place costs it, until there is room"
client <<'PYTHON'
control = Qmp("main.qmp")
h.pwrite(b"y" * 1000, 5000)
assert control.event("BITMAP_GIVEN_UP")["name"] == "b0"
assert h.pread(1000, 5000) == b"y" * 1000
h.shutdown()
PYTHON
server_said "warning: .*bitmap 'b0' is given up: no room to keep it true"
same "$(bitmap_info disk.qcow2 b0)" "65536 in-use,auto"
client <<'PYTHON'
h.trim(65536, 65536)
h.flush()
PYTHON
wait_until "the bitmap to be valid again" is_valid
client <<<'h.pwrite(b"z", 0); h.shutdown()'
stop
server_said "warning: .*bitmap 'b0' had been given up for lack of room, and is valid again with all bits set"
check_image disk.qcow2
same "$(dirty_map b0 disk.qcow2)" "0+67108864"

step "given up when it stops: a service starts again, and with room it is valid"
cp empty.qcow2 disk.qcow2
serve --filter=truncate file disk.qcow2 truncate="$size" bitmap=b0
client <<<'h.pwrite(b"y", 0); h.shutdown()'
stop
check_image disk.qcow2
for attempt in 1 2; do
    serve --filter=truncate file disk.qcow2 truncate="$size" bitmap=b0
    client <<<'h.pwrite(b"y", 100000); h.shutdown()'
    stop
    server_said "bitmap 'b0', granularity 64K: given up for lack of room .in_use., not tracked; valid again"
    same "$(bitmap_info disk.qcow2 b0)" "65536 in-use,auto"
    check_image disk.qcow2
done
serve file disk.qcow2 bitmap=b0
client <<<'h.pwrite(b"y", 0); h.shutdown()'
stop
server_said "bitmap 'b0' had been given up for lack of room, and is valid again with all bits set"
check_image disk.qcow2
same "$(dirty_map b0 disk.qcow2)" "0+67108864"
