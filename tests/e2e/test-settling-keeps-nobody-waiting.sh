#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# Bringing an idle disk to what a clean stop leaves: readers wait neither for the long
# flush nor for a write that is under way, and a new client not for the flush that the
# last one has left behind.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh
. "$srcdir/e2e/slow_layer.sh"

new_image()
{
    make_qcow2 disk.qcow2 16M preallocation=metadata
    truncate -s 20M disk.qcow2
}

step "a reader and the flush"
new_image
IDLE_MS=200 serve_slow disk.qcow2 bitmap=b0
slow_client <<'PYTHON'
slow = Slow()
h.pread(512, 0)
h.pwrite(b"x" * SLOW, 1 << 20)
slow.wait()
for _ in range(20):
    assert h.pread(512, 1 << 20) == b"x" * 512
assert slow.came(), "the flush was not held back"
slow.release()
h.shutdown()
PYTHON
stop
check_image disk.qcow2

step "a new client and the flush that the last one has left"
new_image
serve_slow disk.qcow2 bitmap=b0
slow_client <<<'h.pread(512, 0); h.pwrite(b"x" * SLOW, 1 << 20); h.shutdown()'
wait_until "the flush" test -e held
slow_client <<'PYTHON'
assert h.pread(512, 1 << 20) == b"x" * 512
assert Slow().came(), "the flush was not held back"
Slow().release()
h.shutdown()
PYTHON
settled
stop
check_image disk.qcow2

# For a second: the disk is idle in the eyes of who counts, many times.
step "a reader and a write that takes long"
new_image
IDLE_MS=100 serve_slow disk.qcow2
slow_client <<'PYTHON'
import threading
slow = Slow()
other = connect()
h.pread(512, 0)
writer = threading.Thread(target=lambda: other.pwrite(b"hold".ljust(512, b"w"), 5 << 20))
writer.start()
slow.wait()
end = time.monotonic() + 1
while time.monotonic() < end:
    h.pread(512, 0)
    time.sleep(0.02)
assert slow.came() and writer.is_alive(), "the write was not held back"
slow.release()
writer.join()
assert other.pread(512, 5 << 20) == b"hold".ljust(512, b"w")
other.shutdown()
h.shutdown()
PYTHON
settled
stop
check_image disk.qcow2
