#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# nbdkit waits for the connection for which an image is being opened. However long that would
# take (here a repair, over a layer that takes 0.1 s for each read), the server ends when it
# is told to, and the image is none the worse. How long is counted in reads.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh
requires_plugin eval

make_qcow2 dirty.qcow2 64M lazy_refcounts=on,cluster_size=4k
commands=()
for ((i = 0; i < 30; i++)); do
    commands+=(-c "write -P 0x41 $((i * 2))M 4k")
done
qemu-io -f qcow2 "${commands[@]}" -c flush -c abort dirty.qcow2 >/dev/null 2>&1 || true
[ "$(($(peek dirty.qcow2 72 8) & 1))" -eq 1 ] || fail "the image is not dirty"

# serve_slowly SECONDS ARGUMENTS...: so many for each read.
serve_slowly()
{
    local seconds=$1
    shift
    cp dirty.qcow2 disk.qcow2
    : >reads
    serve eval get_size="stat -c %s '$tmp/disk.qcow2'" can_flush='exit 0' flush='exit 0' thread_model='echo parallel' \
        pread="echo >>'$tmp/reads'; sleep $seconds
               dd if='$tmp/disk.qcow2' skip=\$4 count=\$3 iflag=skip_bytes,count_bytes status=none" \
        pwrite="dd of='$tmp/disk.qcow2' seek=\$4 conv=notrunc oflag=seek_bytes status=none" "$@"
}
reads() { wc -l <reads; }
has_read() { [ "$(reads)" -ge "$1" ]; }

# ends_soon: a second is ten reads.
ends_soon()
{
    wait_until "something to be read" has_read 3
    before=$(reads)
    kill -TERM "${server_pids[main]}"
    status=0
    forget main || status=$?
    [ "$(reads)" -le $((before + 20)) ] || fail "$before reads, and $(reads) when it ended"
}

step "how many reads it takes"
serve_slowly 0
nbdinfo --size "$(uri)" >/dev/null
stop
needed=$(reads)
[ "$needed" -ge 80 ] || fail "only $needed reads"

step "a client waits to be let in"
serve_slowly 0.1
nbdinfo --size "$(uri)" >client.log 2>&1 &
client=$!
cleanup_fn kill "$client"
ends_soon
! wait "$client" || fail "the client was let in"
[ "$(reads)" -lt $((needed / 2)) ] || fail "$(reads) of $needed reads"
server_said "the server is about to end"
cp disk.qcow2 left.qcow2
serve file left.qcow2
client <<'PYTHON'
for i in range(30):
    assert h.pread(4096, i * (2 << 20)) == b"A" * 4096
PYTHON
stop
check_image left.qcow2

step "a maintenance key over a layer"
serve_slowly 0.1 qcow2-check=all
ends_soon
[ "$status" -ne 0 ] || fail "the exit status is that of a check that was done"
cp disk.qcow2 left.qcow2
nbdkit --filter="$FILTER" -f -U - file left.qcow2 qcow2-check=all >/dev/null
check_image left.qcow2
