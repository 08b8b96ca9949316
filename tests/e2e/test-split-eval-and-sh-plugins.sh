#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# Plugins that take one request at a time and cannot flush: said at the start, and
# then served as well as that can be.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

truncate -s 16M empty
use()
{
    client <<'PYTHON'
others = [connect(), connect()]
for i, handle in enumerate(others):
    handle.pwrite(bytes([65 + i]) * 70000, i * 1000000)
assert h.pread(70000, 0) == b"A" * 70000
assert h.pread(70000, 1000000) == b"B" * 70000
# There is nothing to flush; whoever asks gets an answer.
assert not h.can_flush() or h.flush() is None
for handle in others:
    handle.shutdown()
h.shutdown()
PYTHON
    truncate -s 0 twin.raw
    truncate -s 16M twin.raw
    head -c 70000 /dev/zero | tr '\0' A | dd of=twin.raw conv=notrunc status=none
    head -c 70000 /dev/zero | tr '\0' B | dd of=twin.raw bs=1000000 seek=1 conv=notrunc status=none
}

step "split: reading from several pieces, writing to one"
requires_plugin split
make_qcow2 disk.qcow2 16M
qemu-io -f qcow2 -c 'write -P 0x41 0 3M' disk.qcow2 >/dev/null
head -c 1000448 disk.qcow2 >part1
tail -c +1000449 disk.qcow2 >part2
serve -r split part1 part2
client <<'PYTHON'
assert h.pread(3 << 20, 0) == b"A" * (3 << 20)
h.shutdown()
PYTHON
stop
make_qcow2 whole 16M
truncate -s +2M whole
IDLE_MS=100 serve split whole bitmap=b0
use
stop
# What it cannot promise is said.
server_said "warning: the layer below cannot flush: bitmaps are true when the disk is idle and after a clean stop only .bitmap-sync=on-close."
check_image whole
same_disk whole twin.raw
same "$(dirty_map b0 whole)" "0+131072"$'\n'"983040+131072"

step "split, and a promise that cannot be kept is refused; one that is not made needs no warning"
before=$(file_state whole)
serve split whole bitmap-sync=durable
! nbdinfo "$(uri)" >/dev/null 2>&1 || fail "served"
stop
server_said "bitmap-sync=durable: the layer below cannot flush, so nothing can be made durable; bitmap-sync=on-close keeps"
same "$(file_state whole)" "$before"
serve split whole bitmap-sync=on-close
client <<<'h.pwrite(b"x", 0); h.shutdown()'
stop
! grep -q "cannot flush" main.log || fail "said: $(cat main.log)"

step "eval, serialised, with our own thread at work too"
requires_plugin eval
make_qcow2 disk.qcow2 16M
truncate -s +2M disk.qcow2
file=$tmp/disk.qcow2
IDLE_MS=50 serve eval get_size="stat -c %s '$file'" thread_model='echo serialize_all_requests' \
    open="echo opened" close="rm -f '$tmp/at-work'" \
    pread="mkdir '$tmp/at-work' && dd if='$file' skip=\$4 count=\$3 iflag=skip_bytes,count_bytes status=none && rmdir '$tmp/at-work'" \
    pwrite="mkdir '$tmp/at-work' && dd of='$file' seek=\$4 conv=notrunc oflag=seek_bytes status=none && rmdir '$tmp/at-work'"
client <<'PYTHON'
# Two of us at once, and the idle thread: the folder at-work can be made only
# if nobody else is at it.
import threading, time
def work(handle, base):
    for i in range(8):
        handle.pwrite(b"w" * 3000, base + i * 65536)
        time.sleep(0.03)
        assert handle.pread(3000, base + i * 65536) == b"w" * 3000
threads = [threading.Thread(target=work, args=(handle, base))
           for handle, base in [(h, 0), (connect(), 4 << 20)]]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
time.sleep(0.3)
h.shutdown()
PYTHON
stop
check_image disk.qcow2
! grep -q 'File exists' main.log || fail "two at once: $(cat main.log)"

step "sh, which cannot write"
requires_plugin sh
cat >plugin.sh <<'PLUGIN'
case $1 in
    get_size) stat -c %s "$file" ;;
    pread) dd if="$file" skip="$4" count="$3" iflag=skip_bytes,count_bytes status=none ;;
    thread_model) echo serialize_all_requests ;;
    *) exit 2 ;;
esac
PLUGIN
{ echo '#!/bin/sh'; echo "file='$file'"; cat plugin.sh; } >plugin
chmod +x plugin
before=$(file_state disk.qcow2)
serve sh "$tmp/plugin"
client <<'PYTHON'
assert h.is_read_only()
assert h.pread(3000, 4 << 20) == b"w" * 3000
h.shutdown()
PYTHON
stop
same "$(file_state disk.qcow2)" "$before"

step "sh, which can"
make_qcow2 disk.qcow2 16M
truncate -s +2M disk.qcow2
cat >plugin.sh <<'PLUGIN'
case $1 in
    get_size) stat -c %s "$file" ;;
    pread) dd if="$file" skip="$4" count="$3" iflag=skip_bytes,count_bytes status=none ;;
    can_write|can_flush) exit 0 ;;
    pwrite) dd of="$file" seek="$4" conv=notrunc oflag=seek_bytes status=none ;;
    flush) sync -d "$file"; echo >>"$file.flushed" ;;
    *) exit 2 ;;
esac
PLUGIN
{ echo '#!/bin/sh'; echo "file='$file'"; cat plugin.sh; } >plugin
IDLE_MS=100 serve sh "$tmp/plugin" bitmap=b0 bitmap-sync=durable
use
stop
[ -s "$file.flushed" ] || fail "nothing was flushed"
check_image disk.qcow2
same_disk disk.qcow2 twin.raw
same "$(bitmap_info disk.qcow2 b0)" "65536 auto"
same "$(dirty_map b0 disk.qcow2)" "0+131072"$'\n'"983040+131072"
