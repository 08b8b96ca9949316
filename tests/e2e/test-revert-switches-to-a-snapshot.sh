#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# qcow2-revert=: switches to an internal snapshot, says so, and serves nothing.
# All bits of enabled bitmaps are set; QEMU, which refuses to do that, accepts
# what comes of it.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

# revert STATUS ARGUMENTS...: nbdkit must end with this exit status by itself.
revert()
{
    local expected=$1 status=0
    shift
    rm -f main.sock
    timeout "$patience" "${nbdkit_command[@]}" -U "$tmp/main.sock" --filter="$FILTER" "$@" \
        >out 2>main.log </dev/null || status=$?
    [ "$status" -eq "$expected" ] ||
        fail "exit status $status, expected $expected: nbdkit $*"$'\n'"$(cat out main.log)"
}

virtual_size() { peek "$1" 24 8; }

# reads FILE PATTERN OFFSET LENGTH
reads()
{
    local said
    said=$(qemu-io -r -U -f qcow2 -c "read -P $2 $3 $4" "$1")
    ! grep -q 'failed\|rror' <<<"$said" || fail "$1: $said"
}

snapshot_is() { qemu-img convert -U -f qcow2 -l "snapshot.id=$2" -O raw "$1" found.raw && cmp -n "$(length_of "$3")" found.raw "$3"; }

step "a disk with bitmaps, which QEMU does not switch"
make_qcow2 disk.qcow2 10M cluster_size=4k
qemu-io -f qcow2 -c "write -P 1 0 3M" -c "write -P 2 8M 1M" disk.qcow2 >/dev/null
qemu-img convert -f qcow2 -O raw disk.qcow2 first.raw
qemu-img snapshot -c first disk.qcow2
qemu-img bitmap --add -g 4k disk.qcow2 on
qemu-img bitmap --add -g 1M disk.qcow2 coarse
qemu-img bitmap --add --disable -g 64k disk.qcow2 off
qemu-io -f qcow2 -c "write -P 3 1M 4M" -c "write -z 8M 64k" disk.qcow2 >/dev/null
! qemu-img snapshot -a first disk.qcow2 2>qemu.err || fail "QEMU does switch"
grep -q "Device has active dirty bitmaps" qemu.err || fail "QEMU says: $(cat qemu.err)"
blocks=$(stat -c %b disk.qcow2)
revert 0 file disk.qcow2 qcow2-revert=first
grep -q "^the disk is now what snapshot 'first' (ID 1) is$" out || fail "it prints: $(cat out)"
check_image disk.qcow2
same_disk disk.qcow2 first.raw
snapshot_is disk.qcow2 1 first.raw
same "$(dirty_map on disk.qcow2)" "0+10485760"
same "$(dirty_map coarse disk.qcow2)" "0+10485760"
same "$(dirty_map off disk.qcow2)" ""
same "$(bitmap_info disk.qcow2 on) $(bitmap_info disk.qcow2 off)" "4096 auto 65536 "
[ "$(stat -c %b disk.qcow2)" -lt $((blocks - 2 * 2048)) ] || fail "the space is not given back"

step "twice is once"
revert 0 file disk.qcow2 qcow2-revert=1
check_image disk.qcow2
same_disk disk.qcow2 first.raw
same "$(dirty_map on disk.qcow2)" "0+10485760"

step "we and QEMU go on from there"
serve file disk.qcow2
client <<<'h.pwrite(b"\5" * 100000, 2000000)'
stop
check_image disk.qcow2
snapshot_is disk.qcow2 1 first.raw
qemu-img bitmap --clear disk.qcow2 on
qemu-io -f qcow2 -c "write -P 6 5M 4k" disk.qcow2 >/dev/null
same "$(dirty_map on disk.qcow2)" "5242880+4096"
qemu-img snapshot -c second disk.qcow2
qemu-img snapshot -d first disk.qcow2
check_image disk.qcow2
reads disk.qcow2 5 2000384 99000
reads disk.qcow2 6 5M 4k

step "another size of the disk: a resize, too"
make_qcow2 sizes.qcow2 8M cluster_size=512
qemu-img bitmap --add -g 512 sizes.qcow2 on
qemu-img bitmap --add --disable -g 512 sizes.qcow2 off
qemu-io -f qcow2 -c "write -P 1 0 8M" sizes.qcow2 >/dev/null
qemu-img snapshot -c small sizes.qcow2
qemu-img resize -q -f qcow2 sizes.qcow2 30M
qemu-io -f qcow2 -c "write -P 2 20M 10M" sizes.qcow2 >/dev/null
qemu-img snapshot -c large sizes.qcow2
revert 0 file sizes.qcow2 qcow2-revert=small
grep -q "with 8388608 bytes; it had 31457280" out || fail "it prints: $(cat out)"
check_image sizes.qcow2
same "$(virtual_size sizes.qcow2)" 8388608
reads sizes.qcow2 1 0 8M
same "$(dirty_map on sizes.qcow2)" "0+8388608"
same "$(dirty_map off sizes.qcow2)" ""
revert 0 file sizes.qcow2 qcow2-revert=large
check_image sizes.qcow2
same "$(virtual_size sizes.qcow2)" 31457280
reads sizes.qcow2 2 20M 10M
reads sizes.qcow2 0 8M 12M
same "$(dirty_map on sizes.qcow2)" "0+31457280"
same "$(dirty_map off sizes.qcow2)" ""

step "an inconsistent bitmap stays so"
qemu-img bitmap --add sizes.qcow2 broken
"$PYTHON" - <<'PYTHON'
import struct
with open("sizes.qcow2", "r+b") as f:
    data = f.read()
    at = data.rindex(b"broken") - 24 + 12
    f.seek(at)
    f.write(struct.pack(">I", 3))
PYTHON
same "$(bitmap_info sizes.qcow2 broken)" "4096 in-use,auto"
revert 0 file sizes.qcow2 qcow2-revert=small
check_image sizes.qcow2
same "$(bitmap_info sizes.qcow2 broken)" "4096 in-use,auto"
same "$(dirty_map on sizes.qcow2)" "0+8388608"

step "compressed clusters, subclusters, a backing file"
qemu-img create -q -f raw base.raw 4M
qemu-io -f raw -c "write -P 9 0 4M" base.raw >/dev/null
qemu-img create -q -f qcow2 -o extended_l2=on -b base.raw -F raw over.qcow2 4M
qemu-io -f qcow2 -c "write -P 1 3k 2k" -c "write -c -P 2 1M 64k" -c "write -c -P 3 1088k 64k" \
    -c "write -z 2M 6k" over.qcow2 >/dev/null
qemu-img convert -f qcow2 -O raw over.qcow2 over.raw
qemu-img snapshot -c s over.qcow2
qemu-img bitmap --add over.qcow2 b
qemu-io -f qcow2 -c "write -P 5 0 1M" -c "write -P 6 1100k 3k" over.qcow2 >/dev/null
revert 0 file over.qcow2 qcow2-revert=s qcow2-files="$tmp"
check_image over.qcow2
same_disk over.qcow2 over.raw
same "$(dirty_map b over.qcow2)" "0+4194304"

step "no room: in place"
make_qcow2 full.qcow2 8M cluster_size=4k,refcount_bits=64
qemu-io -f qcow2 -c "write -P 1 0 8M" full.qcow2 >/dev/null
qemu-img snapshot -c s full.qcow2
qemu-io -f qcow2 -c "write -P 2 0 8M" full.qcow2 >/dev/null
qemu-img bitmap --add full.qcow2 b
size=$(( ($(length_of full.qcow2) + 4095) / 4096 * 4096 + 5 * 4096 ))
truncate -s $size full.qcow2
revert 0 -f -v --filter=truncate file full.qcow2 truncate=$size qcow2-revert=s
server_said "in place: "
same "$(length_of full.qcow2)" $size
check_image full.qcow2
reads full.qcow2 1 0 8M
same "$(dirty_map b full.qcow2)" "0+8388608"

step "what cannot be"
before=$(sha256sum disk.qcow2)
revert 1 file disk.qcow2 qcow2-revert=third
server_said "qcow2-revert=third: there is no snapshot with the ID or name 'third'; the image has snapshot 'second' \(ID 2\)"
revert 1 file disk.qcow2 qcow2-revert=
server_said "qcow2-revert=: the ID or the name of a snapshot is missing"
revert 1 -r file disk.qcow2 qcow2-revert=second
server_said "qcow2-revert=second asks for a change, but the server is read-only"
revert 1 file disk.qcow2 qcow2-revert=second qcow2-shrink=1M
server_said "one maintenance key at a time"
same "$(sha256sum disk.qcow2)" "$before"
