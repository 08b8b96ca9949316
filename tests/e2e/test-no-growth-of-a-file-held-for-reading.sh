#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# The layer holds the file for reading only, though we could write it: the disk is
# read-only, and not one byte is written.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

make_qcow2 disk.qcow2 64M
qemu-img bitmap --add disk.qcow2 b0
before=$(file_state disk.qcow2)

# A client of the server finds a disk that it can only read.
client_only_reads()
{
    client <<'PYTHON'
assert h.is_read_only()
fails(errno.EPERM, h.pwrite, b"x", 0)
assert h.pread(1000, 0) == bytes(1000)
h.shutdown()
PYTHON
}

step "a plugin that serves the file and says that it cannot write it"
requires_plugin eval
serve eval get_size="stat -c %s '$tmp/disk.qcow2'" \
    pread="dd if='$tmp/disk.qcow2' skip=\$4 count=\$3 iflag=skip_bytes,count_bytes status=none"
client_only_reads
stop
same "$(file_state disk.qcow2)" "$before"

step "a descriptor that is open for reading"
if nbdkit file --help | grep -q '^ *fd='; then
    exec 9<disk.qcow2
    serve file fd=9
    client <<<'assert h.is_read_only()'
    stop
    exec 9<&-
    same "$(file_state disk.qcow2)" "$before"
fi

step "a descriptor for reading, of a file that the plugin may not open for writing"
if [ "$(id -u)" -eq 0 ] && setpriv --reuid=65534 --regid=65534 --clear-groups test -r "$FILTER" 2>/dev/null; then
    chmod 444 disk.qcow2
    chmod 777 .
    nbdkit_command=(setpriv --reuid=65534 --regid=65534 --clear-groups "${nbdkit_command[@]}")
    before=$(file_state disk.qcow2)
    exec 9<disk.qcow2
    refused "cannot be written: Permission denied; but bitmap= asks for a change" file /proc/self/fd/9 bitmap=b1
    serve file /proc/self/fd/9
    server_said "cannot be written: Permission denied; the disk is served read-only"
    client_only_reads
    stop
    exec 9<&-
    same "$(file_state disk.qcow2)" "$before"
fi
