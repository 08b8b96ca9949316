#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# Between us and the file: log, delay, noparallel, blocksize, cache, fua, offset and
# others. What the guest has written is there, and the bitmap is exact.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

use()
{
    client <<'PYTHON'
import random
draw = random.Random(7)
twin = bytearray(8 << 20)
for i in range(40):
    length = draw.choice([1, 512, 3000, 65536, 200000])
    offset = draw.randrange(len(twin) - length)
    what = draw.random()
    if what < 0.7:
        data = draw.randbytes(length)
        h.pwrite(data, offset)
        twin[offset:offset + length] = data
    else:
        h.zero(length, offset)
        twin[offset:offset + length] = bytes(length)
h.flush()
assert h.pread(len(twin), 0) == twin
open("twin.raw", "wb").write(twin)
h.shutdown()
PYTHON
}

make_qcow2 disk.qcow2 8M
serve file disk.qcow2 bitmap=b0
use
stop
expected=$(dirty_map b0 disk.qcow2)

for filters in "log logfile=below.log" "delay rdelay=1ms wdelay=1ms" noparallel "blocksize minblock=512 maxdata=16k maxlen=16k" \
    cache "fua fuamode=emulate" nozero "readahead" "noextents" "rate rate=1G" retry retry-request limit; do
    read -r name keys <<<"$filters"
    nbdkit --filter="$name" --dump-plugin null >/dev/null 2>&1 || continue
    step "$filters"
    make_qcow2 disk.qcow2 8M
    # Room for all, where the file does not grow.
    truncate -s +10M disk.qcow2
    # shellcheck disable=SC2086
    serve --filter="$name" file disk.qcow2 bitmap=b0 $keys
    use
    settled
    stop
    check_image disk.qcow2
    same_disk disk.qcow2 twin.raw
    same "$(dirty_map b0 disk.qcow2)" "$expected"
done

step "layers that take large blocks only are refused, and the message names the cure"
make_qcow2 disk.qcow2 8M
if nbdkit --filter=blocksize-policy --dump-plugin null >/dev/null 2>&1; then
    serve --filter=blocksize-policy file disk.qcow2 blocksize-minimum=4096 blocksize-error-policy=error
    ! nbdinfo "$(uri)" >/dev/null 2>&1 || fail "served"
    stop
    server_said "takes no requests of less than 4096 bytes; put nbdkit's blocksize filter between"
    step "with the cure"
    truncate -s +10M disk.qcow2
    serve --filter=blocksize --filter=blocksize-policy file disk.qcow2 bitmap=b0 \
        blocksize-minimum=4096 blocksize-error-policy=error
    use
    stop
    check_image disk.qcow2
    same_disk disk.qcow2 twin.raw
    same "$(dirty_map b0 disk.qcow2)" "$expected"
    step "blocks of 512 bytes we can do"
    make_qcow2 disk.qcow2 8M
    truncate -s +10M disk.qcow2
    serve --filter=blocksize-policy file disk.qcow2 bitmap=b0 \
        blocksize-minimum=512 blocksize-error-policy=error
    use
    stop
    check_image disk.qcow2
    same_disk disk.qcow2 twin.raw
    same "$(dirty_map b0 disk.qcow2)" "$expected"
fi

step "offset: an image inside a bigger file"
make_qcow2 disk.qcow2 8M
truncate -s 20M disk.qcow2
cat <(head -c 77777 /dev/urandom) disk.qcow2 >big
head -c 77777 big >front
serve --filter=offset file big offset=77777 bitmap=b0
use
stop
cmp -n 77777 front big
tail -c +77778 big >disk.qcow2
check_image disk.qcow2
same_disk disk.qcow2 twin.raw
same "$(dirty_map b0 disk.qcow2)" "$expected"
