#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# While we serve a disk for writing, QEMU's programs refuse the file; while we serve it
# for reading, they may read it and not write.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

qemu_is_kept_off()
{
    local message status=0
    message=$("$@" 2>&1 >/dev/null) || status=$?
    [ $status -ne 0 ] || fail "not kept off: $*"
    grep -q 'lock' <<<"$message" || fail "$*: $message"
    echo "kept off: $message"
}

make_qcow2 disk.qcow2 64M

step "for writing, from the first client on"
serve file disk.qcow2
client <<<'h.pwrite(b"x", 0)'
qemu_is_kept_off qemu-img info disk.qcow2
qemu_is_kept_off qemu-img check disk.qcow2
qemu_is_kept_off qemu-io -f qcow2 -c 'write 0 512' disk.qcow2
qemu_is_kept_off qemu-io -r -f qcow2 -c 'read 0 512' disk.qcow2
qemu_is_kept_off qemu-img bitmap --add disk.qcow2 b1
# It is not the socket that keeps them off, and not the client.
qemu-img info -U disk.qcow2 >/dev/null
stop
qemu-img info disk.qcow2 >/dev/null
check_image disk.qcow2

step "before the first client: no writer may come between"
serve file disk.qcow2
qemu_is_kept_off qemu-io -f qcow2 -c 'write 0 512' disk.qcow2
stop

step "for reading"
serve -r file disk.qcow2
client <<<'h.pread(512, 0)'
qemu-img info disk.qcow2 >/dev/null
qemu-io -r -f qcow2 -c 'read 0 512' disk.qcow2 >/dev/null
qemu_is_kept_off qemu-io -f qcow2 -c 'write 0 512' disk.qcow2
qemu_is_kept_off qemu-img bitmap --add disk.qcow2 b1
stop

step "after kill -9 the kernel has taken them away"
serve file disk.qcow2
client <<<'h.pwrite(b"x", 0)'
kill_server
qemu-io -f qcow2 -c 'write 0 512' disk.qcow2 >/dev/null

step "qcow2-lock=off: at one's own risk"
serve file disk.qcow2 qcow2-lock=off
client <<<'h.pread(512, 0)'
qemu-img info disk.qcow2 >/dev/null
stop
