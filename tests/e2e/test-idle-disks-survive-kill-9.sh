#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# After some idle time, with clients still connected, the file is what a clean stop
# leaves; the next write takes that back first. So also when the last client has
# gone, without waiting.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

make_qcow2 disk.qcow2 64M
IDLE_MS=asked serve file disk.qcow2 bitmap=b0 bitmap-sync=on-close
client <<'PYTHON'
import signal, subprocess, time
server = int(open("main.pid").read())

def state():
    return subprocess.check_output(["qemu-img", "info", "-U", "disk.qcow2"], text=True)

# Bitmaps are stored, and then what was reserved is given back. (client() ends us if
# that never comes.)
def wait_for_idle():
    os.kill(server, signal.SIGUSR1)
    while "in-use" in state() or subprocess.call(["qemu-img", "check", "-U", "-q", "disk.qcow2"]):
        time.sleep(0.02)

assert "in-use" not in state()
for i in range(3):
    h.pwrite(bytes([i + 1]) * 100000, i << 20)
    assert "in-use" in state(), "round %d" % i
    wait_for_idle()
# Reading is no change.
for _ in range(20):
    assert h.pread(4096, 1 << 20) == b"\2" * 4096
    assert "in-use" not in state()
# It is asked while writes come: whether it settles between them or not, nothing is lost.
for i in range(20):
    h.pwrite(b"w", (3 << 20) + i)
    os.kill(server, signal.SIGUSR1)
    time.sleep(0.02)
wait_for_idle()
os.kill(server, 9)
PYTHON
kill_server
check_image disk.qcow2
same "$(bitmap_info disk.qcow2 b0)" "65536 auto"
same "$(dirty_map b0 disk.qcow2)" \
"0+131072
1048576+131072
2097152+131072
3145728+65536"

step "the last client has gone"
make_qcow2 disk.qcow2 64M
IDLE_MS=600000 serve file disk.qcow2 bitmap=b0
client <<'PYTHON'
other = connect()
h.pwrite(b"x" * 100000, 5 << 20)
other.shutdown()
h.shutdown()
PYTHON
settled
wait_until "the bitmap" eval '[ "$(bitmap_info disk.qcow2 b0)" = "65536 auto" ]'
kill_server
check_image disk.qcow2
same "$(dirty_map b0 disk.qcow2)" "5242880+131072"
