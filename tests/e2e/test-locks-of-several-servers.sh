#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# Two servers of one file: two for reading are fine, and two with overlays on one base;
# one for writing is alone.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

make_qcow2 disk.qcow2 64M
qemu-io -f qcow2 -c 'write -P 0x41 0 1M' disk.qcow2 >/dev/null

step "two for reading"
serve -r file disk.qcow2
serve --as second -r file disk.qcow2
for name in main second; do
    client $name <<<'assert h.pread(512, 0) == b"A" * 512; assert h.is_read_only()'
done
step "and then none for writing"
serve --as writer file disk.qcow2
! nbdinfo "$(uri writer)" >/dev/null 2>&1 || fail "served for writing"
server_said 'disk.qcow2: another process reads it and allows nobody to write' writer
stop
stop second
step "until they have gone"
client writer <<<'h.pwrite(b"B" * 512, 0)'
step "and one for writing is alone"
refused 'disk.qcow2: another process has it open for writing' file disk.qcow2
refused 'disk.qcow2: another process has it open for writing' -r file disk.qcow2
stop writer
check_image disk.qcow2

step "two that were started, and the first client decides"
serve file disk.qcow2
serve --as second file disk.qcow2
! nbdinfo "$(uri)" >/dev/null 2>&1 || fail "both may be readers as yet, and none a writer"
stop second
client <<<'h.pwrite(b"C" * 512, 0)'
stop
check_image disk.qcow2

if nbdkit --filter=cow --dump-plugin null >/dev/null 2>&1; then
    step "two overlays on one base"
    truncate -s +1M disk.qcow2
    before=$(file_state disk.qcow2)
    serve --filter=cow file disk.qcow2
    serve --as second --filter=cow file disk.qcow2
    for name in main second; do
        client $name $name <<'PYTHON'
mine = sys.argv[1].encode() * 100
h.pwrite(mine, 0)
h.flush()
assert h.pread(len(mine), 0) == mine
h.shutdown()
PYTHON
    done
    qemu-img info disk.qcow2 >/dev/null
    client <<<'assert h.pread(4, 0) == b"main"'
    stop
    stop second
    same "$(file_state disk.qcow2)" "$before"
fi
