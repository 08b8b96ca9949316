#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# Bringing an idle disk to what a clean stop leaves: readers wait neither for the long
# flush nor for a write that is under way, and a new client not for the flush that the
# last one has left behind.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

requires_plugin eval
requires_filter delay
file=$tmp/disk.qcow2

# A flush after a large write takes two seconds, as one on a slow disk would.
serve_slow_flushes()
{
    serve eval get_size="stat -c %s '$file'" can_flush='exit 0' thread_model='echo parallel' \
        flush="if rm '$tmp/much' 2>/dev/null; then touch '$tmp/slow'; sleep 2; fi" \
        pread="dd if='$file' skip=\$4 count=\$3 iflag=skip_bytes,count_bytes status=none" \
        pwrite="[ \$3 -lt 500000 ] || touch '$tmp/much'
                dd of='$file' seek=\$4 conv=notrunc oflag=seek_bytes status=none" "$@"
}

new_image()
{
    rm -f much slow
    make_qcow2 disk.qcow2 16M preallocation=metadata
    truncate -s 20M disk.qcow2
}

step "a reader and the flush"
new_image
IDLE_MS=200 serve_slow_flushes bitmap=b0
client <<'PYTHON'
import time
h.pread(512, 0)
h.pwrite(b"x" * 1000000, 1 << 20)
worst = 0
end = time.monotonic() + 4
while time.monotonic() < end:
    began = time.monotonic()
    assert h.pread(512, 1 << 20) == b"x" * 512
    worst = max(worst, time.monotonic() - began)
    time.sleep(0.02)
assert os.path.exists("slow"), "the disk was not flushed"
print("the slowest read took %.2f s" % worst)
assert worst < 1.3, "a read took %.2f s" % worst
h.shutdown()
PYTHON
stop
check_image disk.qcow2

step "a new client and the flush that the last one has left"
new_image
serve_slow_flushes bitmap=b0
client <<<'h.pread(512, 0); h.pwrite(b"x" * 1000000, 1 << 20); h.shutdown()'
wait_until "the flush" test -e slow
client <<'PYTHON'
assert h.pread(512, 1 << 20) == b"x" * 512
h.shutdown()
open("after", "w").close()
PYTHON
[ "$(stat -c %.Y after | tr -d .)" -lt "$(($(stat -c %.Y slow | tr -d .) + 1300000000))" ] ||
    fail "the new client had to wait for the flush"
settled
stop
check_image disk.qcow2

step "a reader and a write that takes long"
make_qcow2 disk.qcow2 16M preallocation=metadata
IDLE_MS=200 serve --filter=delay file disk.qcow2 wdelay=3
client <<'PYTHON'
import threading, time
other = connect()
h.pread(512, 0)
writer = threading.Thread(target=lambda: other.pwrite(b"w" * 512, 5 << 20))
writer.start()
worst = 0
end = time.monotonic() + 2
while time.monotonic() < end:
    began = time.monotonic()
    h.pread(512, 0)
    worst = max(worst, time.monotonic() - began)
    time.sleep(0.02)
print("the slowest read took %.2f s" % worst)
assert worst < 1, "a read took %.2f s" % worst
assert writer.is_alive(), "the write was not slow"
writer.join()
assert other.pread(512, 5 << 20) == b"w" * 512
other.shutdown()
h.shutdown()
PYTHON
settled
stop
