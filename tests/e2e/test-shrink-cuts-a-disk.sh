#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# qcow2-shrink=: cuts the disk, says so, and serves nothing.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

# shrink STATUS ARGUMENTS...: nbdkit must end with this exit status by itself.
shrink()
{
    local expected=$1 status=0
    shift
    rm -f main.sock
    (as_server timeout "$patience" "${nbdkit_command[@]}" -U "$tmp/main.sock" --filter="$FILTER" "$@") \
        >out 2>main.log </dev/null || status=$?
    [ "$status" -eq "$expected" ] ||
        fail "exit status $status, expected $expected: nbdkit $*"$'\n'"$(cat out main.log)"
}

virtual_size() { peek "$1" 24 8; }

step "a disk is cut inside a cluster, and its bitmaps with it"
make_qcow2 disk.qcow2 10M
qemu-img bitmap --add -g 512 disk.qcow2 fine
qemu-img bitmap --add -g 4M disk.qcow2 coarse
serve file disk.qcow2
client <<<'h.pwrite(b"\7" * (10 << 20), 0)'
stop
blocks=$(stat -c %b disk.qcow2)
shrink 0 file disk.qcow2 qcow2-shrink=5000001
same "$(cat out)" "the disk has 10485760 bytes, and now 5000192"
check_image disk.qcow2
same "$(virtual_size disk.qcow2)" 5000192
same "$(dirty_map fine disk.qcow2)" "0+5000192"
same "$(dirty_map coarse disk.qcow2)" "0+5000192"
[ "$(stat -c %b disk.qcow2)" -lt $((blocks * 3 / 5)) ] || fail "the space is not given back"
head -c 5000192 /dev/zero | tr '\0' '\7' >disk.raw
same_disk disk.qcow2 disk.raw

step "the same once more changes nothing, nor does a larger size"
before=$(sha256sum disk.qcow2)
shrink 0 file disk.qcow2 qcow2-shrink=5000001
same "$(cat out)" "the disk has 5000192 bytes: nothing to cut"
shrink 0 file disk.qcow2 qcow2-shrink=1T
same "$(sha256sum disk.qcow2)" "$before"

step "what was cut off does not come back, not even when QEMU lets it grow"
cp disk.qcow2 ours.qcow2
qemu-img resize -q -f qcow2 disk.qcow2 10M
truncate -s 10M disk.raw
same_disk disk.qcow2 disk.raw
serve file ours.qcow2 qcow2-resize=10M
client <<<'assert h.pread((10 << 20) - 5000192, 5000192) == bytes((10 << 20) - 5000192)'
stop
same_disk ours.qcow2 disk.raw
same "$(dirty_map fine ours.qcow2)" "0+5000192"
same "$(dirty_map fine disk.qcow2)" "0+5000192"

step "snapshots keep what they have"
make_qcow2 snapped.qcow2 4M cluster_size=4k
qemu-io -f qcow2 -c "write -P 1 0 4M" snapped.qcow2 >/dev/null
qemu-img snapshot -c full snapped.qcow2
qemu-io -f qcow2 -c "write -P 2 0 3M" snapped.qcow2 >/dev/null
shrink 0 file snapped.qcow2 qcow2-shrink=4M:1234432
check_image snapped.qcow2
qemu-io -f qcow2 -c "read -P 2 0 1234432" snapped.qcow2 | grep -q "read 1234432" || fail "the active disk"
qemu-img snapshot -a full snapped.qcow2
check_image snapped.qcow2
qemu-io -f qcow2 -c "read -P 1 0 4M" snapped.qcow2 | grep -q "read 4194304" || fail "the snapshot"

step "a compressed last cluster"
qemu-img convert -q -c -O qcow2 disk.raw packed.qcow2
shrink 0 file packed.qcow2 qcow2-shrink="$(virtual_size packed.qcow2)":100352
check_image packed.qcow2
qemu-img resize -q -f qcow2 packed.qcow2 1M
head -c 100352 disk.raw >packed.raw
truncate -s 1M packed.raw
same_disk packed.qcow2 packed.raw

step "a filter below: with -f"
make_qcow2 hidden.qcow2 2M
shrink 0 -f --filter=offset file hidden.qcow2 offset=0 qcow2-shrink=1M
same "$(virtual_size hidden.qcow2)" 1048576
check_image hidden.qcow2

step "what cannot be"
before=$(sha256sum snapped.qcow2)
shrink 1 file snapped.qcow2 qcow2-shrink=0
server_said "qcow2-shrink=0: not a size of 1 byte or more"
shrink 1 -r file snapped.qcow2 qcow2-shrink=1M
server_said "qcow2-shrink=1M asks for a change, but the server is read-only"
shrink 1 file snapped.qcow2 qcow2-shrink=1M qcow2-check=all
server_said "one maintenance key at a time"
shrink 1 file snapped.qcow2 qcow2-snapshot=full qcow2-shrink=1M
server_said "qcow2-snapshot= serves a snapshot, which does not change; but qcow2-shrink=1M asks for a change"
make_qcow2 old.qcow2 1M compat=0.10
qemu-img snapshot -c s old.qcow2
shrink 1 file old.qcow2 qcow2-shrink=1M:512K
server_said "old.qcow2: qcow2-shrink=1M:512K: a version 2 image with snapshots cannot be resized"
same "$(sha256sum snapped.qcow2)" "$before"

step "next to nothing is left, for a suffix was forgotten: it asks"
make_qcow2 large.qcow2 200M
qemu-io -f qcow2 -c "write -P 4 0 3M" -c "write -P 4 150M 64k" large.qcow2 >/dev/null
untouched=$(sha256sum large.qcow2)
cp large.qcow2 untold.qcow2
for size in 5 5k 1023K 1M 2047K; do
    shrink 1 file large.qcow2 qcow2-shrink=$size
    server_said "qcow2-shrink=$size: the disk has 200M, and [0-9]+[KM]? would be left; was a suffix"
done
server_said "say from which size to which: qcow2-shrink=200M:2047K\$"
# From another size than it has.
shrink 1 file large.qcow2 qcow2-shrink=100M:5
server_said "qcow2-shrink=100M:5: the disk has 200M, not 100M; nothing was cut"
shrink 1 file large.qcow2 qcow2-shrink=100M:50M
same "$(sha256sum large.qcow2)" "$untouched"
shrink 0 file large.qcow2 qcow2-shrink=2M
same "$(virtual_size large.qcow2)" $((2 << 20))
# What goes is told, and before it goes: also where nothing can be written then.
goes="^nbdkit: qcow2bitmap: warning: qcow2-shrink=2M: the disk has 209715200 bytes; the last 207618048 are \
cut off, and with them 1114112 bytes of data\$"
server_said "$goes"
requires_filter error
shrink 1 -f --filter=error --filter=offset file untold.qcow2 offset=0 error-pwrite=EIO error-pwrite-rate=100% \
    qcow2-shrink=2M
server_said "$goes"
same "$(virtual_size untold.qcow2)" $((200 << 20))
# As the message has it.
shrink 1 file large.qcow2 qcow2-shrink=5
eval "shrink 0 file large.qcow2 $(grep -o 'qcow2-shrink=2M:512$' main.log)"
same "$(virtual_size large.qcow2)" 512
# Done twice, the second time does nothing.
shrink 0 file large.qcow2 qcow2-shrink=2M:512
same "$(cat out)" "the disk has 512 bytes: nothing to cut"

step "other keys that stand beside it do nothing, and it says so"
shrink 0 file snapped.qcow2 bitmap=b0 bitmap-recover=all-dirty qcow2-resize=8M qcow2-shrink=16M
server_said "qcow2-shrink=16M: nothing is served; ignored: bitmap=, bitmap-recover=, qcow2-resize="
same "$(sha256sum snapped.qcow2)" "$before"
shrink 0 file snapped.qcow2 qcow2-snapshot=full qcow2-check=report
server_said "qcow2-check=report: nothing is served; ignored: qcow2-snapshot="
same "$(sha256sum snapped.qcow2)" "$before"

step "a store that is full and cannot grow: refused, and nothing has changed"
make_qcow2 full.qcow2 2M
qemu-io -f qcow2 -c "write -P 3 0 2M" full.qcow2 >/dev/null
cp full.qcow2 full.before
shrink 1 -f --filter=offset file full.qcow2 offset=0 qcow2-shrink=2M:1000000
server_said "qcow2-shrink=2M:1000000: .*cannot grow"
cmp full.qcow2 full.before
