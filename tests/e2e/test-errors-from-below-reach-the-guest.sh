#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# What lies below refuses to write, for a while: the guest gets an error, no other
# request is harmed, and when the trouble has passed all goes on. The image is sound
# in the end. A flush that fails is final: who knows what was lost.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

requires_filter error

step "writes that fail: of data, and of what has to be allocated for them"
make_qcow2 disk.qcow2 64M
serve --filter=error file disk.qcow2 bitmap=b0 \
    error-pwrite=EIO error-pwrite-rate=100% error-file="$tmp/trouble"
client <<'PYTHON'
def trouble(on):
    if on:
        open("trouble", "w").close()
    else:
        os.unlink("trouble")

h.pwrite(b"a" * 100000, 0)
h.flush()
trouble(True)
fails(errno.EIO, h.pwrite, b"b" * 100000, 0)
fails(errno.EIO, h.pwrite, b"b" * 100000, 10 << 20)
fails(errno.EIO, h.zero, 1000, 100)
# In another region of the bitmap, whose cluster is there: its bits come first.
fails(errno.EIO, h.pwrite, b"b" * 100000, 40 << 20)
# What is not refused, and what was there.
assert h.pread(65536, 20 << 20) == bytes(65536)
h.pread(100000, 0)
trouble(False)
h.pwrite(b"c" * 100000, 0)
h.pwrite(b"d" * 100000, 10 << 20)
h.pwrite(b"f" * 100000, 40 << 20)
h.flush()
assert h.pread(100000, 0) == b"c" * 100000
assert h.pread(100000, 10 << 20) == b"d" * 100000
assert h.pread(100000, 40 << 20) == b"f" * 100000
h.shutdown()
PYTHON
stop
server_said 'Input/output error'
check_image disk.qcow2
same "$(bitmap_info disk.qcow2 b0)" "65536 auto"
same "$(dirty_map b0 disk.qcow2)" "0+131072"$'\n'"10485760+131072"$'\n'"41943040+131072"

step "the first write after the start fails: the bitmap cannot be marked"
make_qcow2 disk.qcow2 64M
qemu-img bitmap --add disk.qcow2 b0
serve --filter=error file disk.qcow2 error-pwrite=EIO error-pwrite-rate=100% error-file="$tmp/trouble"
client <<'PYTHON'
open("trouble", "w").close()
fails(errno.EIO, h.pwrite, b"b" * 1000, 0)
os.unlink("trouble")
assert h.pread(1000, 0) == bytes(1000)
h.pwrite(b"e" * 1000, 1 << 20)
h.shutdown()
PYTHON
stop
check_image disk.qcow2
same "$(bitmap_info disk.qcow2 b0)" "65536 auto"
# The one that failed was asked for, and counts.
same "$(dirty_map b0 disk.qcow2)" "0+65536"$'\n'"1048576+65536"

step "no room below, for a while"
make_qcow2 disk.qcow2 64M
serve --filter=error file disk.qcow2 bitmap=b0 \
    error-pwrite=ENOSPC error-pwrite-rate=100% error-file="$tmp/trouble"
client <<'PYTHON'
h.pwrite(b"a" * 100000, 0)
open("trouble", "w").close()
fails(errno.ENOSPC, h.pwrite, b"b" * 100000, 10 << 20)
os.unlink("trouble")
h.pwrite(b"b" * 100000, 10 << 20)
h.flush()
assert h.pread(100000, 10 << 20) == b"b" * 100000
h.shutdown()
PYTHON
stop
check_image disk.qcow2

step "reads that fail"
make_qcow2 disk.qcow2 64M
serve --filter=error file disk.qcow2 error-pread=EIO error-pread-rate=100% error-file="$tmp/trouble"
client <<'PYTHON'
h.pwrite(b"a" * 100000, 0)
open("trouble", "w").close()
fails(errno.EIO, h.pread, 100000, 0)
assert h.pread(512, 30 << 20) == bytes(512)
os.unlink("trouble")
assert h.pread(100000, 0) == b"a" * 100000
h.shutdown()
PYTHON
stop
check_image disk.qcow2

step "a flush that fails: every later change is refused with the cause, reads go on"
requires_plugin eval
make_qcow2 disk.qcow2 64M
truncate -s +4M disk.qcow2
file=$tmp/disk.qcow2
serve eval get_size="stat -c %s '$file'" thread_model='echo serialize_all_requests' \
    pread="dd if='$file' skip=\$4 count=\$3 iflag=skip_bytes,count_bytes status=none" \
    pwrite="dd of='$file' seek=\$4 conv=notrunc oflag=seek_bytes status=none" \
    can_flush="exit 0" flush="[ ! -e '$tmp/trouble' ] || { echo EIO trouble >&2; exit 1; }"
client <<'PYTHON'
h.pwrite(b"a" * 1000, 0)
h.flush()
open("trouble", "w").close()
h.pwrite(b"b" * 1000, 0)
fails(errno.EIO, h.flush)
os.unlink("trouble")
assert h.pread(1000, 0) == b"b" * 1000
for request in [lambda: h.pwrite(b"c", 0), lambda: h.zero(65536, 0), lambda: h.flush()]:
    fails(errno.EIO, request)
assert h.pread(1000, 0) == b"b" * 1000
h.shutdown()
PYTHON
stop_badly
server_said 'flush'
check_image_leaks_at_worst disk.qcow2
