#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# qcow2-discard=: unmap gives space back, to the image and to the file system; keep
# gives none, so that a write never lacks it where the disk was written before.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

kib() { du -k "$1" | cut -f 1; }

# full FILE: 16 MiB of data, all clusters in a row.
full()
{
    rm -f "$1"
    make_qcow2 "$1" 64M "${2:-compat=1.1}"
    qemu-io -f qcow2 -c 'write -P 0x41 0 16M' "$1" >/dev/null
    sync "$1"
}

# clusters FILE: how many of the guest's clusters have a cluster in the file.
clusters()
{
    qemu-img map -f qcow2 --output=json "$1" | "$PYTHON" -c '
import json, sys
print(sum(e["length"] for e in json.load(sys.stdin) if "offset" in e) // 65536)'
}

# What is let go of in the middle: trimmed, and zeroed where a hole is allowed.
let_go()
{
    client <<'PYTHON'
h.trim(4 << 20, 2 << 20)
h.zero(6 << 20, 6 << 20)
# Not whole clusters: nothing of these can go.
h.trim(1000, (13 << 20) + 500)
h.flush()
assert h.pread(2 << 20, 0) == b"A" * (2 << 20)
assert h.pread(10 << 20, 2 << 20) == bytes(10 << 20)
assert h.pread(1 << 20, 12 << 20) == b"A" * (1 << 20)
h.shutdown()
PYTHON
}

# Punching is not for every file system.
truncate -s 1M punched && dd if=/dev/urandom of=punched bs=64k count=16 conv=notrunc status=none
fallocate -p -o 0 -l 1M punched 2>/dev/null && [ "$(kib punched)" -lt 512 ] && punches=yes || punches=

step "unmap: clusters are free again, and the file has holes"
for option in "" qcow2-discard=unmap; do
    full disk.qcow2
    before=$(kib disk.qcow2)
    length=$(length_of disk.qcow2)
    same "$(clusters disk.qcow2)" 256
    serve file disk.qcow2 $option
    let_go
    stop
    check_image disk.qcow2
    same "$(clusters disk.qcow2)" 96
    if [ -n "$punches" ]; then
        after=$(kib disk.qcow2)
        [ $((before - after)) -gt 9000 ] || fail "$before KiB before, $after KiB after"
    fi

    # What is free is used before the file grows.
    serve file disk.qcow2 $option
    client <<<'h.pwrite(b"B" * (9 << 20), 32 << 20); assert h.pread(9 << 20, 32 << 20) == b"B" * (9 << 20)'
    stop
    check_image disk.qcow2
    [ "$(length_of disk.qcow2)" -le $((length + (1 << 20))) ] ||
        fail "$length bytes before, $(length_of disk.qcow2) after"
done

step "keep: every cluster stays, and reads as zeros"
full disk.qcow2
before=$(kib disk.qcow2)
cp disk.qcow2 was.qcow2
serve file disk.qcow2 qcow2-discard=keep
let_go
stop
check_image disk.qcow2
same "$(clusters disk.qcow2)" 256
[ "$(kib disk.qcow2)" -ge $((before - 64)) ] || fail "$before KiB before, $(kib disk.qcow2) KiB after"
same "$(length_of disk.qcow2)" "$(length_of was.qcow2)"
# They are where they were: the disk is not more fragmented than before.
offsets()
{
    qemu-img map -f qcow2 --output=json "$1" | "$PYTHON" -c '
import json, sys
print(sorted({e["offset"] - e["start"] for e in json.load(sys.stdin) if "offset" in e}))'
}
same "$(offsets disk.qcow2)" "$(offsets was.qcow2)"
serve file disk.qcow2 qcow2-discard=keep
client <<'PYTHON'
h.pwrite(b"C" * (8 << 20), 4 << 20)
assert h.pread(8 << 20, 4 << 20) == b"C" * (8 << 20)
PYTHON
stop
check_image disk.qcow2
same "$(length_of disk.qcow2)" "$(length_of was.qcow2)"
same "$(offsets disk.qcow2)" "$(offsets was.qcow2)"

step "keep, version 2, which has no zero clusters: zeros all the same"
full disk.qcow2 compat=0.10
serve file disk.qcow2 qcow2-discard=keep
client <<'PYTHON'
h.zero(4 << 20, 8 << 20)
assert h.pread(4 << 20, 8 << 20) == bytes(4 << 20)
assert h.pread(4 << 20, 4 << 20) == b"A" * (4 << 20)
PYTHON
stop
check_image disk.qcow2
same "$(clusters disk.qcow2)" 256

step "no hole where the client wants none"
full disk.qcow2
serve file disk.qcow2
client <<'PYTHON'
h.zero(4 << 20, 8 << 20, nbd.CMD_FLAG_NO_HOLE)
assert h.pread(4 << 20, 8 << 20) == bytes(4 << 20)
PYTHON
stop
check_image disk.qcow2
same "$(clusters disk.qcow2)" 256

step "an external data file: holes, with the raw bit and without, and none with keep"
# data_file RAW: 16 MiB of data in a disk of 1 GiB.
data_file()
{
    rm -f disk.qcow2 data
    qemu-img create -q -f qcow2 -o "data_file=$tmp/data,data_file_raw=$1" disk.qcow2 1G
    qemu-io -f qcow2 -c 'write -P 0x41 0 16M' disk.qcow2 >/dev/null
    sync data
}
for raw in on off; do
    data_file $raw
    before=$(kib data)
    serve file disk.qcow2 qcow2-files="$tmp"
    let_go
    # As much as there is, and most of it was never written.
    client main "$punches" <<'PYTHON'
h.trim(512 << 20, 100 << 20)
h.zero(300 << 20, 700 << 20)
h.flush()
def status(offset, length):
    found = []
    h.block_status(length, offset, lambda _, at, entries, error: found.extend(entries) or 0)
    return found
if sys.argv[1]:
    assert status(2 << 20, 10 << 20)[1] & nbd.STATE_ZERO, status(2 << 20, 10 << 20)
# It can be used again at once, also a part of a cluster.
h.pwrite(b"B" * 1000, (2 << 20) + 1000)
assert h.pread(4000, 2 << 20) == bytes(1000) + b"B" * 1000 + bytes(2000)
h.flush()
PYTHON
    stop
    check_image disk.qcow2
    sync data
    if [ -n "$punches" ]; then
        after=$(kib data)
        [ $((before - after)) -gt 9000 ] || fail "raw=$raw: $before KiB before, $after KiB after"
    fi
    [ "$raw" = off ] || same_disk disk.qcow2 data

    # Neither trim nor zero gives room back, or takes more.
    data_file $raw
    before=$(kib data)
    serve file disk.qcow2 qcow2-files="$tmp" qcow2-discard=keep
    let_go
    client <<<'h.trim(512 << 20, 100 << 20); h.zero(1 << 20, 13 << 20, nbd.CMD_FLAG_NO_HOLE); h.flush()'
    stop
    sync data
    after=$(kib data)
    [ "$after" -ge $((before - 64)) ] && [ "$after" -le $((before + 64)) ] ||
        fail "raw=$raw, keep: $before KiB before, $after KiB after"
done

step "a bitmap sees both"
for option in unmap keep; do
    full disk.qcow2
    serve file disk.qcow2 bitmap=b0 qcow2-discard=$option
    client <<'PYTHON'
h.trim(1 << 20, 4 << 20)
h.zero(1 << 20, 8 << 20)
PYTHON
    stop
    check_image disk.qcow2
    same "$(dirty_map b0 disk.qcow2)" $'4194304+1048576\n8388608+1048576'
done
