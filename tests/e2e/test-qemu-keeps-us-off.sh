#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# What QEMU has open for writing we refuse, at the prompt; what it reads we read too,
# and write not.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

make_qcow2 disk.qcow2 64M
before=$(sha256sum disk.qcow2)
hold() { start qemu qemu-nbd -t -e 4 -f qcow2 -k "$tmp/qemu.sock" --pid-file="$tmp/qemu.pid" "$@"; }
let_go() { kill "${server_pids[qemu]}"; forget qemu || true; }

step "QEMU has it for writing"
hold disk.qcow2
refused 'disk.qcow2: another process has it open for writing' file disk.qcow2
refused 'disk.qcow2: another process has it open for writing' -r file disk.qcow2
refused 'disk.qcow2: another process has it open for writing' file disk.qcow2 bitmap=b0
step "qcow2-lock=off: at one's own risk"
serve -r file disk.qcow2 qcow2-lock=off
client <<<'assert h.pread(512, 0) == bytes(512)'
stop
let_go
serve file disk.qcow2
client <<<'assert h.pread(512, 0) == bytes(512)'
stop

step "QEMU reads it: so may we"
hold -r disk.qcow2
serve -r file disk.qcow2
client <<<'assert h.pread(512, 0) == bytes(512)'
stop
step "but not write"
refused 'disk.qcow2: another process reads it and allows nobody to write' file disk.qcow2
step "where it is not known at the prompt that the file is written, clients are told"
serve --filter=offset file disk.qcow2 offset=0
! nbdinfo "$(uri)" >/dev/null 2>&1 || fail "served for writing"
server_said 'disk.qcow2: another process reads it and allows nobody to write'
stop
step "until it has gone"
let_go
serve file disk.qcow2
client <<<'h.pwrite(b"now", 0)'
stop
check_image disk.qcow2

