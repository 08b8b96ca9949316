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
refused 'disk.qcow2: another process reads it and allows nobody to write' file disk.qcow2
stop
stop second
step "until they have gone"
serve --as writer file disk.qcow2
client writer <<<'h.pwrite(b"B" * 512, 0)'
step "and one for writing is alone"
refused 'disk.qcow2: another process has it open for writing' file disk.qcow2
refused 'disk.qcow2: another process has it open for writing' -r file disk.qcow2
stop writer
check_image disk.qcow2

step "also before it has a client"
serve file disk.qcow2
refused 'disk.qcow2: another process has it open for writing' file disk.qcow2
refused 'disk.qcow2: another process has it open for writing' -r file disk.qcow2
client <<<'h.pwrite(b"C" * 512, 0)'
stop
check_image disk.qcow2

step "somebody who has locked it against everybody"
"$PYTHON" - <<'PYTHON' &
import fcntl, struct, time
file = open("disk.qcow2", "r+b")
# An exclusive lock of the byte that says "I read".
fcntl.fcntl(file, 37, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 100, 1, 0))
open("locked", "w").close()
time.sleep(60)
PYTHON
cleanup_fn kill $!
wait_until "the lock" test -e locked
refused 'disk.qcow2: another process has locked it for itself' file disk.qcow2
kill $!
wait $! || true

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
