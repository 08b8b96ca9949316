#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# Lazy refcounts: an image that was not closed cleanly is repaired before the first
# client that may write is let in, and is never written to while it is dirty. For
# reading it is served as it is.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

# is_dirty FILE
is_dirty() { [ "$(($(peek "$1" 72 8) & 1))" -eq 1 ]; }

# make_dirty FILE [OPTIONS]: QEMU ends in the middle; 10 clusters have no refcount.
make_dirty()
{
    rm -f "$1"
    make_qcow2 "$1" 64M "lazy_refcounts=on${2:+,$2}"
    qemu-io -f qcow2 -c 'write -P 0x41 0 640k' -c flush -c abort "$1" >/dev/null 2>&1 || true
    is_dirty "$1" || fail "$1 is not dirty"
    ! qemu-img check -q -f qcow2 "$1" 2>/dev/null || fail "$1 has nothing that could be repaired"
}

content='assert h.pread(640 << 10, 0) == b"A" * (640 << 10)'

step "repaired when the first client comes, and told at the prompt before"
for options in "" refcount_bits=1 cluster_size=4k,refcount_bits=64 extended_l2=on,cluster_size=64k; do
    make_dirty disk.qcow2 "$options"
    serve file disk.qcow2 bitmap=b0
    server_said "disk.qcow2: .*not closed cleanly .dirty bit.; its refcounts are repaired"
    is_dirty disk.qcow2 || fail "repaired before anybody came"
    client <<PYTHON
$content
assert not h.is_read_only()
h.pwrite(b"B" * 65536, 20 << 20)
h.flush()
PYTHON
    ! is_dirty disk.qcow2 || fail "written to and still dirty"
    stop
    server_said "its refcounts have been repaired"
    check_image disk.qcow2
    same "$(dirty_map b0 disk.qcow2)" "20971520+65536"
done

step "a nbd server of QEMU, killed"
make_qcow2 disk.qcow2 64M lazy_refcounts=on
start other qemu-nbd -t -f qcow2 -k "$tmp/other.sock" --pid-file="$tmp/other.pid" disk.qcow2
client other <<'PYTHON'
for i in range(100):
    h.pwrite(b"%4d" % i * 1024, i * 300000)
h.flush()
PYTHON
kill_server other
is_dirty disk.qcow2
serve file disk.qcow2
client <<'PYTHON'
for i in range(100):
    assert h.pread(4096, i * 300000) == b"%4d" % i * 1024
h.pwrite(b"x" * 10000000, 50000000)
PYTHON
stop
check_image disk.qcow2

step "for reading: served as it is, not a byte is changed"
make_dirty disk.qcow2
before=$(file_state disk.qcow2)
serve -r file disk.qcow2
client <<PYTHON
assert h.is_read_only()
$content
PYTHON
stop
same "$(file_state disk.qcow2)" "$before"

step "over other plugins"
requires_plugin memory
make_dirty disk.qcow2
serve_plain below file disk.qcow2
serve nbd socket="$tmp/below.sock"
client <<PYTHON
$content
h.pwrite(b"C" * 65536, 0)
PYTHON
stop
server_said "its refcounts have been repaired"
stop below
check_image disk.qcow2

step "what is refused is not repaired"
make_qcow2 base.qcow2 64M
make_dirty disk.qcow2 backing_file="$tmp/base.qcow2",backing_fmt=qcow2
before=$(file_state disk.qcow2)
serve_plain below file disk.qcow2
serve nbd socket="$tmp/below.sock"
! client <<<'pass' 2>/dev/null || fail "let in"
server_said "qcow2-files=$tmp"
stop
stop below
same "$(file_state disk.qcow2)" "$before"
rm base.qcow2

step "below cow: repaired above, the file stays"
make_dirty disk.qcow2
before=$(file_state disk.qcow2)
serve --filter=cow file disk.qcow2
client <<PYTHON
$content
PYTHON
stop
same "$(file_state disk.qcow2)" "$before"

step "a repair that meets an error: that client is turned away, the next one tries again"
requires_filter error
serve --filter=error file disk.qcow2 error-pwrite=EIO error-pwrite-rate=100% error-file="$tmp/broken"
touch broken
! client <<<'pass' 2>/dev/null || fail "let in"
server_said "repairing the refcounts"
is_dirty disk.qcow2 || fail "not dirty any more"
rm broken
client <<PYTHON
$content
h.pwrite(b"D", 0)
PYTHON
stop
check_image disk.qcow2

step "killed in the middle of a repair, again and again"
requires_filter delay
make_dirty disk.qcow2
# A fresh copy each time, and the last one as it was left.
cp disk.qcow2 fresh.qcow2
still_dirty=0
for ms in 50 120 190 260 330; do
    cp fresh.qcow2 disk.qcow2
    for again in 1 2; do
        serve --filter=delay file disk.qcow2 wdelay=40ms
        client <<<'pass' 2>/dev/null &
        asking=$!
        sleep "0.$(printf %03d "$ms")"
        kill_server
        wait "$asking" 2>/dev/null || true
        ! is_dirty disk.qcow2 || still_dirty=$((still_dirty + 1))
    done
    is_dirty disk.qcow2 || check_image_leaks_at_worst disk.qcow2
    serve file disk.qcow2
    client <<PYTHON
$content
h.pwrite(b"E" * 100000, 30000000)
PYTHON
    stop
    check_image_leaks_at_worst disk.qcow2
done
echo "dirty after $still_dirty of 10 kills"
[ "$still_dirty" -gt 0 ] || fail "no repair was interrupted"

step "dirty and corrupt: a person has to look"
make_dirty disk.qcow2
poke disk.qcow2 72 8 3
before=$(file_state disk.qcow2)
serve file disk.qcow2
client <<PYTHON
assert h.is_read_only()
$content
PYTHON
stop
server_said "the disk is served read-only: .*'qemu-img check -r all'"
same "$(file_state disk.qcow2)" "$before"
