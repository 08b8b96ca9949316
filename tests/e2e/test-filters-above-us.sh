#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# Between us and the client: log, stats, blocksize, partition, exitlast, readahead,
# noparallel, cow; and some of them at once.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

# A disk with data that tells where it is, and how it is used through filters.
"$PYTHON" -c '
import sys
for i in range(0, 4 << 20, 16):
    sys.stdout.buffer.write(b"%015d\n" % i)' >four
use()
{
    client <<'PYTHON'
data = open("four", "rb").read()
h.pwrite(data, 1 << 20)
assert h.pread(len(data), 1 << 20) == data
assert h.pread(100, (1 << 20) + 77) == data[77:177]
h.pwrite(b"odd", 12345)
if h.can_zero():
    h.zero(65536, 2 << 20)
else:  # cow cannot
    h.pwrite(bytes(65536), 2 << 20)
h.trim(65536, 3 << 20)
h.flush()
assert h.pread(3, 12345) == b"odd"
h.shutdown()
PYTHON
    # The same by hand.
    rm -f twin.raw
    truncate -s 64M twin.raw
    dd if=four of=twin.raw bs=1M seek=1 conv=notrunc status=none
    printf odd | dd of=twin.raw bs=1 seek=12345 conv=notrunc status=none
    dd if=/dev/zero of=twin.raw bs=65536 count=1 seek=32 conv=notrunc status=none
    dd if=/dev/zero of=twin.raw bs=65536 count=1 seek=48 conv=notrunc status=none
}

for filters in "log logfile=above.log" "stats statsfile=stats.txt" "blocksize maxdata=32k maxlen=1M" \
    "blocksize minblock=64k" readahead noparallel "log,stats,noparallel,readahead logfile=above.log statsfile=stats.txt" \
    "delay wdelay=2ms" "fua fuamode=force"; do
    read -r names keys <<<"$filters"
    step "$filters"
    arguments=()
    for name in ${names//,/ }; do
        nbdkit --filter="$name" --dump-plugin null >/dev/null 2>&1 || continue 2
        arguments+=("--filter=$name")
    done
    make_qcow2 disk.qcow2 64M
    # shellcheck disable=SC2086
    serve_plain main "${arguments[@]}" --filter="$FILTER" file disk.qcow2 bitmap=b0 $keys
    use
    stop
    check_image disk.qcow2
    same_disk disk.qcow2 twin.raw
    map=$(dirty_map b0 disk.qcow2)
    same "$map" "0+65536"$'\n'"1048576+4194304"
done
[ -s above.log ] || fail "no log"

step "cow: what the guest writes stays above, and the image keeps every byte"
make_qcow2 disk.qcow2 64M
qemu-img bitmap --add disk.qcow2 b0
before=$(file_state disk.qcow2)
serve_plain main --filter=cow --filter="$FILTER" file disk.qcow2
use
stop
same "$(file_state disk.qcow2)" "$before"

step "partition"
make_qcow2 disk.qcow2 64M
serve file disk.qcow2 bitmap=b0
client <<'PYTHON'
import struct
h.pwrite(struct.pack("<B3sB3sII", 0, b"\0\2\0", 0x83, b"\0\2\0", 2048, 32768), 446)
h.pwrite(b"\x55\xaa", 510)
h.shutdown()
PYTHON
stop
serve_plain main --filter=partition --filter="$FILTER" file disk.qcow2 partition=1
client <<'PYTHON'
assert h.get_size() == 16 << 20
h.pwrite(open("four", "rb").read(), 0)
h.flush()
h.shutdown()
PYTHON
stop
check_image disk.qcow2
qemu-img convert -f qcow2 -O raw disk.qcow2 now.raw
cmp -n 4194304 four <(tail -c +1048577 now.raw)
same "$(dirty_map b0 disk.qcow2)" "0+65536"$'\n'"1048576+4194304"

step "exitlast: the server ends with its last client"
make_qcow2 disk.qcow2 64M
serve_plain main --filter=exitlast --filter="$FILTER" file disk.qcow2 bitmap=b0
use
wait_until "the end of the server" eval '! is_running'
forget main
check_image disk.qcow2
same_disk disk.qcow2 twin.raw
same "$(dirty_map b0 disk.qcow2)" "0+65536"$'\n'"1048576+4194304"
