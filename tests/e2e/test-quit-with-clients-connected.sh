#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# `quit` over the control socket while clients of NBD are connected, and at work: when
# it is answered the file is as a clean stop leaves it, is free for others, and stays
# so; requests that come later fail with ESHUTDOWN. nbdkit itself ends when the last
# client has gone.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

make_qcow2 disk.qcow2 64M
serve file disk.qcow2 bitmap=b0 bitmap-sync=on-close qcow2-control=main.qmp
client <<'PYTHON'
import subprocess, threading, time

other = connect()
h.pwrite(b"x" * 100000, 0)
subprocess.run(["cp", "disk.qcow2", "before.qcow2"], check=True)  # in_use

# Two are at work when it comes.
written, stopped = [], []
def work(handle, base):
    at = base
    while True:
        try:
            handle.pwrite(b"y" * 65536, at)
        except nbd.Error as error:
            stopped.append(error.errnum)
            return
        written.append(at)
        at = base + (at - base + 65536) % (16 << 20)
workers = [threading.Thread(target=work, args=(handle, base)) for handle, base in ((h, 16 << 20), (other, 32 << 20))]
for worker in workers:
    worker.start()
while len(written) < 20:
    time.sleep(0.001)
control = Qmp("main.qmp")
control.do("quit")
# Now QEMU may have it, with its locks.
check = subprocess.run(["qemu-img", "check", "-f", "qcow2", "disk.qcow2"], capture_output=True, text=True)
assert check.returncode == 0, check
subprocess.run(["cp", "disk.qcow2", "after.qcow2"], check=True)
subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -P 0x7a 60M 64k", "disk.qcow2"], check=True, stdout=subprocess.DEVNULL)
for worker in workers:
    worker.join()
assert stopped == [errno.ESHUTDOWN] * 2, stopped
for function, arguments in ((h.pwrite, (b"z", 0)), (h.pread, (1, 0)), (h.flush, ()), (h.trim, (512, 0)),
                            (h.zero, (512, 0))):
    fails(errno.ESHUTDOWN, function, *arguments)
# Everything that was acknowledged is there, and every change is in the bitmap.
open("written", "w").write("\n".join(str(at) for at in sorted(set(written))))
PYTHON
forget main || fail "nbdkit ended with $?"
[ ! -e main.qmp ] || fail "the control socket is still there"
same "$(bitmap_info before.qcow2 b0)" "65536 in-use,auto"
same "$(bitmap_info after.qcow2 b0)" "65536 auto"
check_image after.qcow2
check_image disk.qcow2
qemu-io -r -f qcow2 -c 'read -P 0x78 0 100000' disk.qcow2 >io.out
while read -r at || [ -n "$at" ]; do echo "read -P 0x79 $at 64k"; done <written | qemu-io -r -f qcow2 disk.qcow2 >>io.out
! grep -q 'verification failed' io.out || fail "$(cat io.out)"
"$PYTHON" -IS - "$(dirty_map b0 after.qcow2)" <<'PYTHON'
import sys
dirty = [tuple(map(int, line.split("+"))) for line in sys.argv[1].split()]
for at in map(int, open("written").read().split()):
    assert any(begin <= at and at + 65536 <= begin + length for begin, length in dirty), (at, dirty)
PYTHON
# And what QEMU wrote then is there.
qemu-io -r -f qcow2 -c 'read -P 0x7a 60M 64k' disk.qcow2 >io.out
! grep -q 'verification failed' io.out || fail "$(cat io.out)"

step "a client that says nothing keeps nbdkit there, and the file is as it is"
make_qcow2 disk.qcow2 64M
serve file disk.qcow2 bitmap=b0 qcow2-control=main.qmp
client <<'PYTHON'
import subprocess, time
pid = int(open("main.pid").read())
h.pwrite(b"x" * 100000, 0)
Qmp("main.qmp").do("quit")
subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", "disk.qcow2"], check=True)
time.sleep(0.3)
os.kill(pid, 0)  # it waits for us
os.kill(pid, 9)  # as a service manager would, in the end: nothing is lost
PYTHON
kill_server
check_image disk.qcow2
same "$(bitmap_info disk.qcow2 b0)" "65536 auto"
same "$(dirty_map b0 disk.qcow2)" "0+131072"
