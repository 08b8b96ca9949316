#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# A file that may only be read is served read-only, with a warning; with a key that
# asks for a change it is refused at the prompt.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

make_qcow2 disk.qcow2 64M
qemu-io -f qcow2 -c 'write -P 0x41 1M 200000' disk.qcow2 >/dev/null
chmod 444 disk.qcow2
# No permission binds the superuser: then nobody is the one who serves.
if [ -w disk.qcow2 ]; then
    requires setpriv
    chmod 711 "$tmp"
    nobody=(setpriv --reuid=65534 --regid=65534 --clear-groups)
    "${nobody[@]}" test -r "$FILTER" || skip "the user nobody cannot read $FILTER"
    "${nobody[@]}" test -r disk.qcow2 || skip "the user nobody cannot read $tmp"
    ! "${nobody[@]}" test -w disk.qcow2 2>/dev/null || skip "the user nobody may write what it may only read"
    nbdkit_command=("${nobody[@]}" "${nbdkit_command[@]}")
fi
# Where it makes the socket.
mkdir -m 777 nobody
for name in main.sock main.pid refused.sock refused.pid; do
    ln -s "nobody/$name" "$name"
done
before=$(file_state disk.qcow2)

refused 'disk.qcow2 cannot be written: Permission denied; but bitmap= asks for a change' \
    file disk.qcow2 bitmap=b0
same "$(file_state disk.qcow2)" "$before"

step "without a key it is served, with a warning at the prompt"
rm -f nobody/* 2>/dev/null || true
as_server "${nbdkit_command[@]}" -f -U "$tmp/nobody/main.sock" -P "$tmp/nobody/main.pid" --filter="$FILTER" \
    file disk.qcow2 >main.log 2>&1 &
server_pids[main]=$!
cleanup_fn kill -9 $!
wait_until "the server" test -s nobody/main.pid
client <<'PYTHON'
assert h.is_read_only()
assert h.pread(200000, 1 << 20) == b"A" * 200000
fails(errno.EPERM, h.pwrite, b"x", 0)
h.shutdown()
PYTHON
stop
server_said 'warning: .*disk.qcow2 cannot be written: Permission denied; the disk is served read-only'
same "$(file_state disk.qcow2)" "$before"
