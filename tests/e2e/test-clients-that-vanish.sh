#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# Clients that come and go, at the same time and without a word, leave nothing
# behind: no descriptor, and no request that was not done. (What makes the file
# grow leaves a descriptor for each step, until the next flush, or until the disk
# is idle and is brought to what a clean stop leaves.)

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

make_qcow2 disk.qcow2 64M
IDLE_MS=200 serve file disk.qcow2 bitmap=b0
client <<'PYTHON'
import socket, struct, time

pid = int(open("main.pid").read())
def descriptors():
    return len(os.listdir("/proc/%d/fd" % pid))
def all_gone(before):
    deadline = time.monotonic() + PATIENCE
    while descriptors() > before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert descriptors() <= before, "%d descriptors, before %d" % (descriptors(), before)

h.pwrite(b"here", 0)
before = descriptors()
# The file grows by many steps, and nobody flushes.
for i in range(40):
    h.pwrite(b"g" * 1000000, (20 + i) << 20)
all_gone(before)
for round in range(12):
    others = [connect() for i in range(4)]
    for other in others:
        # The line is cut in the middle of a request: a write of 8 MB (its magic
        # number, flags, type, cookie, place, length), and a part of its bytes.
        # (Not after whole ones: when their answers cannot be sent, nbdkit 1.32
        # itself stops, with any plugin.)
        os.write(other.aio_get_fd(), struct.pack(">IHHQQI", 0x25609513, 0, 1, 1, round * 1000000, 8000000) +
                 b"v" * 100000)
        del other
    del others
# Somebody who never gets as far as a request.
for i in range(4):
    line = socket.socket(socket.AF_UNIX)
    line.connect("main.sock")
    line.recv(8)
    line.close()
assert h.pread(4, 0) == b"here"
all_gone(before)
h.shutdown()
PYTHON
is_running || fail "the server has gone"
stop
check_image disk.qcow2

# nbdkit itself ends when the answers to several whole requests cannot be sent, before 1.34.
minor=$(nbdkit --dump-config | sed -n 's/^version_minor=//p')
warning="^nbdkit: qcow2bitmap: warning: nbdkit [0-9.]+ ends all of the server when a client vanishes"
if [ "$minor" -ge 34 ]; then
    ! grep -qE "$warning" main.log || fail "nbdkit 1.$minor is warned of"
    ways=("")
else
    server_said "$warning"
    ways=("-t 1" "--filter=noparallel")
fi
for way in "${ways[@]}"; do
    step "clients that vanish with many requests under way${way:+, with $way}"
    # shellcheck disable=SC2086
    serve $way file disk.qcow2 bitmap=b0
    ! grep -qE "$warning" main.log || fail "warned in spite of $way"
    for round in 1 2 3; do
        client <<'PYTHON'
buffers = [nbd.Buffer(1 << 20) for i in range(60)]
for buffer in buffers:
    h.aio_pread(buffer, 0)
while h.aio_get_direction() & nbd.AIO_DIRECTION_WRITE and h.poll(0) > 0:
    pass
os._exit(0)
PYTHON
    done
    client <<<'assert h.pread(4, 0) == b"here"; h.shutdown()'
    stop
done
check_image disk.qcow2
