#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# nbdkit waits for its clients when it is told to end, and tells nobody; then somebody
# kills it. What has been written is stored soon after the last write: the file is
# as a clean stop leaves it.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

make_qcow2 disk.qcow2 64M
IDLE_MS=300 serve file disk.qcow2 bitmap=b0 bitmap-sync=on-close
client <<'PYTHON'
import signal, subprocess, time

pid = int(open("main.pid").read())
h.pwrite(b"x" * 100000, 0)
h.pwrite(b"y" * 100000, 20 << 20)
os.kill(pid, signal.SIGTERM)
# Not in use: durably stored; and then what was reserved is given back. As QEMU sees it.
# (client() ends us if that never comes.)
while ("in-use" in subprocess.check_output(["qemu-img", "info", "-U", "disk.qcow2"], text=True) or
       subprocess.call(["qemu-img", "check", "-U", "-q", "disk.qcow2"])):
    time.sleep(0.05)
os.kill(pid, 0)  # it is still there, and waits for us
os.kill(pid, 9)
PYTHON
kill_server
check_image disk.qcow2
same "$(bitmap_info disk.qcow2 b0)" "65536 auto"
same "$(dirty_map b0 disk.qcow2)" "0+131072"$'\n'"20971520+131072"
qemu-io -r -f qcow2 -c 'read -P 0x78 0 100000' -c 'read -P 0x79 20M 100000' disk.qcow2 >io.out
! grep -q 'verification failed' io.out || fail "$(cat io.out)"

step "the client goes in time: a clean stop"
make_qcow2 disk.qcow2 64M
serve file disk.qcow2 bitmap=b0
client <<'PYTHON'
import signal, time
h.pwrite(b"x" * 100000, 0)
os.kill(int(open("main.pid").read()), signal.SIGTERM)
time.sleep(0.3)
h.shutdown()
PYTHON
forget main || fail "nbdkit ended with $?"
check_image disk.qcow2
same "$(dirty_map b0 disk.qcow2)" "0+131072"

step "SIGINT is the same as SIGTERM"
serve file disk.qcow2
client <<<'h.pwrite(b"z", 1 << 20); h.shutdown()'
kill -INT "${server_pids[main]}"
forget main || fail "nbdkit ended with $?"
check_image disk.qcow2
same "$(dirty_map b0 disk.qcow2)" "0+131072"$'\n'"1048576+65536"

step "--run"
make_qcow2 disk.qcow2 64M
"${nbdkit_command[@]}" -U - --filter="$FILTER" file disk.qcow2 bitmap=b0 \
    --run 'qemu-io -f raw -c "write 1M 64k" "$nbd" >/dev/null'
check_image disk.qcow2
same "$(dirty_map b0 disk.qcow2)" "1048576+65536"
