#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# Bits become durable without a flush of the whole file where it is proven that
# the layer below is the file, and by a flush everywhere else. Each time the
# bitmap survives kill -9.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

# alone EXPECTED ARGUMENTS...: whether some barriers were made alone, in a run
# that touches many regions of a bitmap that has its clusters.
alone()
{
    local expected=$1
    shift
    make_qcow2 disk.qcow2 1G
    qemu-img bitmap --add -g 4k disk.qcow2 b0
    qemu-io -f qcow2 -c 'write 0 1' -c 'write 128M 1' -c 'write 512M 1' -c 'write 1023M 1' disk.qcow2 >/dev/null
    # Room for those that cannot grow.
    truncate -s +16M disk.qcow2
    serve -v "$@"
    client <<'PYTHON'
for i in range(16):
    h.pwrite(b"x" * 512, i * 64 << 20)
h.shutdown()
PYTHON
    stop
    if [ "$expected" = some ]; then
        server_said '[1-9][0-9]* small writes were made durable without a flush'
    else
        server_said ': 0 small writes were made durable without a flush'
    fi
}

step "behind the file plugin"
alone some file disk.qcow2
check_image disk.qcow2

# msync of pages that are locked in memory.
step "nbdkit --swap"
if (as_server "${nbdkit_command[@]}" --swap -U - null --run true) 2>/dev/null; then
    alone some --swap file disk.qcow2
    check_image disk.qcow2
else
    echo "not here: memory cannot be locked"
fi

step "under filters that keep the bytes elsewhere, or shift them"
alone none --filter=cow file disk.qcow2
alone none --filter=cache file disk.qcow2
(head -c 1M /dev/zero; cat disk.qcow2) >shifted.img
serve -v --filter=offset file shifted.img offset=1M
client <<'PYTHON'
for i in range(16):
    h.pwrite(b"x" * 512, (i * 64 + 32) << 20)
h.shutdown()
PYTHON
stop
server_said 'bitmaps: [1-9][0-9]* changes waited for [1-9][0-9]* barriers'
server_said ': 0 small writes were made durable without a flush'

step "a debug flag shows what was armed, and who waited"
make_qcow2 disk.qcow2 1G
serve -v -D qcow2bitmap.bitmaps=1 file disk.qcow2 bitmap=b0
client <<<'h.pwrite(b"x", 0); h.shutdown()'
stop
server_said "bitmap 'b0': armed in 1 sectors of the page for 0x0 to 0x80000000"
server_said 'bitmaps: 1 changes waited [0-9]+ us for [1-9][0-9]* barriers; armed and not changed: [1-9][0-9]* bytes'
serve -v file disk.qcow2
client <<<'h.pwrite(b"x", 512 << 20); h.shutdown()'
stop
! grep -q "armed in" "$tmp/main.log" || fail "without the flag nothing of this is said"

step "in-place bits survive kill -9"
make_qcow2 disk.qcow2 1G
qemu-img bitmap --add disk.qcow2 b0
serve file disk.qcow2
client <<'PYTHON'
for i in range(16):
    h.pwrite(b"x" * 512, i * 64 << 20)
os.kill(int(open("main.pid").read()), 9)
PYTHON
kill_server
check_image_leaks_at_worst disk.qcow2
same "$(bitmap_info disk.qcow2 b0)" "65536 auto"
for i in 0 5 15; do
    dirty_map b0 disk.qcow2 | awk -F+ -v at=$((i * 64 << 20)) \
        '$1 <= at && at < $1 + $2 { found = 1 } END { exit !found }' || fail "$i: $(dirty_map b0 disk.qcow2)"
done
