#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# qcow2-snapshot=ID-or-NAME serves an internal snapshot and changes not one byte.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

# like_qemu ID-OR-NAME: what is served is what qemu-img reads there.
like_qemu()
{
    qemu-img convert -U -f qcow2 -l "$1" -O raw disk.qcow2 expected.raw
    nbdcopy "$(uri)" served.raw
    # qemu-img gives it the size of the active disk.
    same "$(length_of served.raw)" "$2" "size of snapshot $1"
    cmp -n "$2" served.raw expected.raw
}

served_and_unchanged()
{
    local before
    before=$(file_state disk.qcow2)
    serve file disk.qcow2 qcow2-snapshot="$1"
    client <<'PYTHON'
assert h.is_read_only()
try:
    h.pwrite(b"x", 0)
    assert False
except nbd.Error:
    pass
PYTHON
    like_qemu "$1" "$2"
    # (But of nbdkit before 1.34.)
    ! grep -v "when a client vanishes" main.log | grep -q warning || fail "it warns: $(cat main.log)"
    stop
    same "$(file_state disk.qcow2)" "$before"
}

requires nbdcopy

step "snapshots of three sizes, one named like another's ID"
qemu-img create -q -f qcow2 -o cluster_size=4k disk.qcow2 8M
qemu-img bitmap --add disk.qcow2 b0
qemu-io -f qcow2 -c "write -P 1 0 1M" -c "write -P 2 4M 3M" disk.qcow2 >/dev/null
qemu-img snapshot -c first disk.qcow2
qemu-img resize -q -f qcow2 disk.qcow2 40M
qemu-io -f qcow2 -c "write -P 3 0 64k" -c "write -P 4 30M 64k" disk.qcow2 >/dev/null
qemu-img snapshot -c 1 disk.qcow2
qemu-img resize -q -f qcow2 --shrink disk.qcow2 2M
qemu-io -f qcow2 -c "write -P 5 0 2M" disk.qcow2 >/dev/null
qemu-img snapshot -c first disk.qcow2
qemu-img resize -q -f qcow2 disk.qcow2 50M
served_and_unchanged 1 8388608
served_and_unchanged first 8388608
served_and_unchanged 2 41943040
served_and_unchanged 3 2097152

step "compressed clusters, subclusters, a backing file"
qemu-img create -q -f raw base.raw 20M
qemu-io -f raw -c "write -P 9 0 20M" base.raw >/dev/null
qemu-img create -q -f qcow2 -o extended_l2=on -b base.raw -F raw disk.qcow2 10M
qemu-io -f qcow2 -c "write -P 1 3k 2k" -c "write -c -P 2 1M 64k" -c "write -z 2M 5k" disk.qcow2 >/dev/null
qemu-img snapshot -c s disk.qcow2
qemu-io -f qcow2 -c "write -P 3 0 4M" disk.qcow2 >/dev/null
before=$(file_state disk.qcow2)
serve file disk.qcow2 qcow2-snapshot=s qcow2-files="$tmp"
like_qemu s 10485760
stop
same "$(file_state disk.qcow2)" "$before"

step "with -r, and where the file may not be written"
serve -r file disk.qcow2 qcow2-snapshot=1 qcow2-files="$tmp"
like_qemu 1 10485760
stop

step "refused at the prompt"
refused "there is no snapshot with the ID or name 'other'; the image has snapshot 's' \(ID 1\)" \
    file disk.qcow2 qcow2-snapshot=other qcow2-files="$tmp"
refused "qcow2-snapshot=: the ID or the name of a snapshot is missing" file disk.qcow2 qcow2-snapshot=
refused "qcow2-snapshot= serves a snapshot, which does not change; but bitmap= asks for a change" \
    file disk.qcow2 qcow2-snapshot=s bitmap=b qcow2-files="$tmp"
qemu-img create -q -f qcow2 plain.qcow2 1M
refused "there is no snapshot with the ID or name 's'; the image has none" file plain.qcow2 qcow2-snapshot=s
