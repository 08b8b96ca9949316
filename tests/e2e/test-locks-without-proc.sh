#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# Where /proc does not tell how the layer below holds the file, it is locked all the
# same: for writing, unless the server only reads or has an overlay.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

requires_root
requires unshare
hidden=(unshare -m bash -c 'mount -t tmpfs none /proc && exec "$@"' -)
"${hidden[@]}" true 2>/dev/null || skip "/proc cannot be hidden"
nbdkit_command=("${hidden[@]}" "${nbdkit_command[@]}")

# is kept-off|let-in COMMAND...
is()
{
    local expected=$1 found=let-in
    shift
    "$@" >command.out 2>&1 || found=failed
    [ "$found" = let-in ] || ! grep -q lock command.out || found=kept-off
    same "$found" "$expected" "$*"
}
reader_is() { is "$1" qemu-io -r -f qcow2 -c 'read 0 512' disk.qcow2; }
writer_is() { is "$1" qemu-io -f qcow2 -c 'write 0 512' disk.qcow2; }

make_qcow2 disk.qcow2 64M
# It does not grow.
truncate -s +10M disk.qcow2
step "for writing"
serve file disk.qcow2 bitmap=b0
client <<<'h.pwrite(b"x" * 512, 0); h.shutdown()'
reader_is kept-off
writer_is kept-off
settled
stop
check_image disk.qcow2

step "for writing, a file that came in the place of another before the first client"
make_qcow2 first.qcow2 64M
mv disk.qcow2 second.qcow2
mv first.qcow2 disk.qcow2
serve file disk.qcow2
mv second.qcow2 disk.qcow2
client <<<'assert h.pread(512, 0) == b"x" * 512; h.shutdown()'
reader_is kept-off
writer_is kept-off
stop

step "for reading"
serve -r file disk.qcow2
client <<<'assert h.pread(512, 0) == b"x" * 512; h.shutdown()'
reader_is let-in
writer_is kept-off
stop

step "an overlay"
serve --filter=cow file disk.qcow2
client <<<'h.pwrite(b"y" * 512, 0); h.shutdown()'
reader_is let-in
writer_is kept-off
stop
