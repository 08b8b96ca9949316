#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# nbdkit -r, and a plugin that can only read: the file is not written to at all,
# whatever the keys ask for, and clients are told.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

make_qcow2 disk.qcow2 64M
qemu-img bitmap --add disk.qcow2 b0
qemu-io -f qcow2 -c 'write -P 0x41 1M 200000' disk.qcow2 >/dev/null
# Something to mend, too: clusters that leak, and bits that nobody knows.
truncate -s +1M disk.qcow2
before=$(file_state disk.qcow2)

# What a client can do.
look()
{
    client "${1:-main}" <<'PYTHON'
assert h.is_read_only()
assert h.can_multi_conn()
for request in [lambda: h.pwrite(b"x", 0), lambda: h.zero(65536, 0), lambda: h.trim(65536, 1 << 20)]:
    try:
        request()
        raise AssertionError("that was done")
    except nbd.Error as error:
        assert error.errnum in (errno.EPERM, errno.EINVAL), error
others = [connect(), connect()]
for other in others:
    assert other.pread(200000, 1 << 20) == b"A" * 200000
    assert other.pread(1000, 0) == bytes(1000)
    other.cache(1 << 20, 0)
    assert extents(other, 0, 2 << 20) == [(0, 1 << 20, 3), (1 << 20, 262144, 0),
                                          ((1 << 20) + 262144, (1 << 20) - 262144, 3)]
    other.shutdown()
h.shutdown()
PYTHON
}

step "-r"
IDLE_MS=100 serve -r file disk.qcow2
look
nbdcopy "$(uri)" back.raw
qemu-img compare -q -f raw -F qcow2 back.raw disk.qcow2
sleep 0.3
stop
same "$(file_state disk.qcow2)" "$before"

step "-r, and keys that ask for a change: ignored, and said"
serve -r file disk.qcow2 bitmap=another bitmap=b0
look
stop
server_said "bitmap= is ignored"
same "$(file_state disk.qcow2)" "$before"

step "-r and kill -9"
serve -r file disk.qcow2
client <<<'h.pread(4096, 1 << 20); os.kill(int(open("main.pid").read()), 9)'
kill_server
same "$(file_state disk.qcow2)" "$before"

step "a client asks for reading only, in a server for writing"
serve_plain main --filter=cow --filter="$FILTER" file disk.qcow2
client <<'PYTHON'
assert not h.is_read_only()
assert h.pread(200000, 1 << 20) == b"A" * 200000
h.pwrite(b"only in the overlay", 0)
h.flush()
h.shutdown()
PYTHON
stop
# cow opens us for reading.
same "$(file_state disk.qcow2)" "$before"

step "a plugin that can only read"
serve_plain below -r file disk.qcow2
serve nbd socket="$tmp/below.sock"
look
stop
server_said "served read-only"
same "$(file_state disk.qcow2)" "$before"

step "and a key that asks for a change: clients are turned away"
serve nbd socket="$tmp/below.sock" bitmap=b0
! nbdinfo "$(uri)" >/dev/null 2>&1 || fail "served, with bitmap="
stop
stop below
server_said "bitmap= asks for a change"
same "$(file_state disk.qcow2)" "$before"
