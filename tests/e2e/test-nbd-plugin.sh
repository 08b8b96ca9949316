#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# Over the nbd plugin and another nbdkit: a store of fixed size, which may go away
# under us.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

. "$srcdir/e2e/fill.sh"
requires_plugin nbd

step "until it is full"
make_qcow2 disk.qcow2 64M
truncate -s +4M disk.qcow2
length=$(length_of disk.qcow2)
serve_plain below file disk.qcow2
serve nbd socket="$tmp/below.sock" bitmap=b0
fill
stop
stop below
same "$(length_of disk.qcow2)" "$length"
check_image disk.qcow2
same_disk disk.qcow2 twin.raw
dirty_covers_touched b0 disk.qcow2

step "the other server dies: errors, no more, and what was flushed is there"
make_qcow2 disk.qcow2 64M
truncate -s +4M disk.qcow2
serve_plain below file disk.qcow2
serve nbd socket="$tmp/below.sock" bitmap=b0
client <<'PYTHON'
h.pwrite(b"f" * 100000, 0)
h.flush()
os.kill(int(open("below.pid").read()), 9)
for request in [lambda: h.pwrite(b"x" * 512, 0), lambda: h.pread(512, 0), h.flush]:
    try:
        request()
        raise AssertionError("that was done")
    except nbd.Error as error:
        assert error.errnum in (errno.EIO, errno.ESHUTDOWN), error
h.shutdown()
PYTHON
is_running || fail "the server has gone too"
stop_badly
kill_server below
check_image_leaks_at_worst disk.qcow2
serve -r file disk.qcow2
client <<<'assert h.pread(100000, 0) == b"f" * 100000'
stop

step "an image on another of our disks"
make_qcow2 outer.qcow2 256M
make_qcow2 inner.qcow2 128M
truncate -s 64M inner.qcow2
serve --as outer file outer.qcow2 bitmap=outer
nbdcopy inner.qcow2 "$(uri outer)"
serve nbd socket="$tmp/outer.sock" bitmap=inner
client <<'PYTHON'
h.pwrite(b"nested" * 50000, 77 << 20)
h.flush()
assert h.pread(300000, 77 << 20) == b"nested" * 50000
h.shutdown()
PYTHON
stop
nbdcopy "$(uri outer)" inner.qcow2
stop outer
check_image outer.qcow2
check_image inner.qcow2
same "$(dirty_map inner inner.qcow2)" "$((77 * 1048576))+327680"
