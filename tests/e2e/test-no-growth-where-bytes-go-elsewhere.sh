#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# Ways in which a file below could look as if it might grow, while growing it would
# shift, fork or destroy the image: the file keeps its length, and what the image
# does not use keeps its bytes.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

. "$srcdir/e2e/fill.sh"
requires_filter offset

# room FILE MIB: makes the file longer, so that there is something to fill.
room() { truncate -s +"$2"M "$1"; }

# stays NBDKIT-ARGUMENTS...: served so, $file keeps its length; the guest fills
# what is there.
stays()
{
    local length
    length=$(length_of "$file")
    serve "$@"
    fill
    stop
    same "$(length_of "$file")" "$length" "the length of $file"
}

fresh() { make_qcow2 disk.qcow2 64M; room disk.qcow2 "${1:-3}"; file=disk.qcow2; }
checked() { check_image disk.qcow2; same_disk disk.qcow2 twin.raw; }

step "truncate: the size is another than the file's"
fresh
stays --filter=truncate file disk.qcow2 truncate=4M bitmap=b0
checked
dirty_covers_touched b0 disk.qcow2

step "truncate with no effect today"
fresh
stays --filter=truncate file disk.qcow2 round-down=512
checked

step "offset: the image lies inside a bigger file, up to its end or not"
for range in "" range=4M; do
    fresh
    truncate -s 4M disk.qcow2
    head -c 1M /dev/urandom >front
    head -c 70000 /dev/urandom >back
    [ -n "$range" ] || : >back
    cat front disk.qcow2 back >big
    file=big
    stays --filter=offset file big offset=1M $range
    cmp -n 1048576 front big
    cmp back <(tail -c +$((5 * 1048576 + 1)) big)
    tail -c +1048577 big >disk.qcow2
    truncate -s 4M disk.qcow2
    checked
done

step "partition: the last one of a disk"
fresh
truncate -s 4M disk.qcow2
"$PYTHON" - <<'PYTHON'
import struct
# One partition of type 83 from sector 2048 on, 8192 sectors.
table = bytearray(2048 * 512)
table[446:462] = struct.pack("<B3sB3sII", 0, b"\0\2\0", 0x83, b"\0\2\0", 2048, 8192)
table[510:512] = b"\x55\xaa"
open("big", "wb").write(table + open("disk.qcow2", "rb").read())
PYTHON
head -c 1M big >front
file=big
stays --filter=partition file big partition=1
cmp -n 1048576 front big
tail -c +1048577 big >disk.qcow2
checked

step "swab: bytes are in another order"
make_qcow2 disk.qcow2 64M
room disk.qcow2 3
"$PYTHON" -c '
data = bytearray(open("disk.qcow2", "rb").read())
data[0::2], data[1::2] = data[1::2], data[0::2]
open("swapped", "wb").write(data)'
file=swapped
stays --filter=swab file swapped swab-bits=16
"$PYTHON" -c '
data = bytearray(open("swapped", "rb").read())
data[0::2], data[1::2] = data[1::2], data[0::2]
open("disk.qcow2", "wb").write(data)'
checked

step "split: the first of several files is the image's, as far as it goes"
if nbdkit --dump-plugin split >/dev/null 2>&1; then
    fresh 2
    cp disk.qcow2 part1
    head -c 1M /dev/zero >part2
    before=$(file_state part2)
    serve -r split part1 part2
    client <<<'assert h.pread(65536, 0) == bytes(65536)'
    stop
    # In version 1.32 it writes to the wrong place in all but the first.
    file=part1
    stays split part1
    mv part1 disk.qcow2
    checked
    same "$(file_state part2)" "$before"
fi
