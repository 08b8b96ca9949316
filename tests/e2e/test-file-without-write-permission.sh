#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# A file that may only be read is served read-only, with a warning; with a key that
# asks for a change it is refused at the prompt. So it is for the user that the server
# takes on when it has left the prompt.

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

step "nbdkit -u: what that user may not do"
[ "$(id -u)" -eq 0 ] || exit 0
nbdkit_command=(nbdkit)
rm -f main.sock main.pid refused.sock refused.pid
chmod 600 disk.qcow2
denied="Permission denied, for user nobody \\(-u\\)"
refused "disk.qcow2: $denied" -u nobody file disk.qcow2
refused "disk.qcow2: Permission denied, for user nobody \\(-u\\) and group daemon \\(-g\\)" \
    --user=nobody -g daemon file disk.qcow2
chmod 644 disk.qcow2
refused "disk.qcow2 cannot be written: $denied; but bitmap= asks for a change" -u 65534 -u nobody \
    file disk.qcow2 bitmap=b0
refused "qcow2-scratch=.*no file can be made there: $denied" -u nobody file disk.qcow2 qcow2-scratch="$tmp"
mkdir -m 700 closed
make_qcow2 closed/base.qcow2 64M
qemu-img create -q -f qcow2 -b closed/base.qcow2 -F qcow2 overlay.qcow2
chown nobody overlay.qcow2
refused "closed/base.qcow2: $denied" -u nobody file overlay.qcow2 qcow2-files="$tmp"

step "nbdkit -u, -g: what they may"
chmod 777 "$tmp"  # for main.pid
serve -u nobody file disk.qcow2
server_said "disk.qcow2 cannot be written: $denied; the disk is served read-only"
client <<<"assert h.is_read_only()"
stop
chgrp daemon disk.qcow2
chmod 660 disk.qcow2
serve -u nobody -g daemon file disk.qcow2 bitmap=b0
client <<'PYTHON'
assert h.pread(200000, 1 << 20) == b"A" * 200000
h.pwrite(b"B" * (8 << 20), 2 << 20)  # the file grows
PYTHON
stop
check_image disk.qcow2
same "$(dirty_map b0 disk.qcow2)" "2097152+8388608"
