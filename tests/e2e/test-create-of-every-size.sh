#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# qcow2-create=SIZE with every kind of size, and beside what is nearly empty: QEMU
# accepts what is made, and the rest is left alone.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

# Served once: the size, zeros, and a write at the end.
client_of_new()
{
    client main "$1" <<'PYTHON'
size = int(sys.argv[1])
assert h.get_size() == size, h.get_size()
assert h.pread(512, 0) == bytes(512)
h.pwrite(b"x" * 512, size - 512)
assert h.pread(512, size - 512) == b"x" * 512
h.shutdown()
PYTHON
}

# created BYTES SIZE [ARGUMENTS...]: on a file of length 0.
created()
{
    local bytes=$1 size=$2
    shift 2
    rm -f new.qcow2
    : >new.qcow2
    serve file new.qcow2 qcow2-create="$size" "$@"
    client_of_new "$bytes"
    stop
    check_image new.qcow2
    qemu-img info --output=json new.qcow2 | "$PYTHON" -c '
import json, sys
info = json.load(sys.stdin)
assert info["virtual-size"] == int(sys.argv[1]), info
assert info["cluster-size"] >= 65536, info
assert info["format-specific"]["data"]["compat"] == "1.1", info' "$bytes"
    qemu-io -r -f qcow2 -c "read -P 0x78 $((bytes - 512)) 512" new.qcow2 | grep -q "^read 512"
    echo "created: $size, $(length_of new.qcow2) bytes"
}

step "sizes"
created 512 512
created 1073741824 1G
created 17592186044416 16T
created 70368744177664 64T
# Odd ones are made longer, to whole sectors.
created 512 1
created 1000448 1000001
created 65536 65536
created 66048 65537

step "a disk of no bytes"
: >none.qcow2
serve file none.qcow2 qcow2-create=0
client <<<'assert h.get_size() == 0'
stop
check_image none.qcow2

step "what is there is served, whatever size is asked for"
make_qcow2 other.qcow2 8M cluster_size=4k,refcount_bits=1
serve file other.qcow2 qcow2-create=2G
client <<<'assert h.get_size() == 8 << 20; h.pwrite(b"y" * 512, 0)'
stop
check_image other.qcow2

step "what is not empty and no image is refused, and left as it is"
truncate -s 10M late
printf x | dd of=late bs=1 seek=$((10 * 1024 * 1024 - 1)) conv=notrunc status=none
printf '\0\0\0x' >four
for file in late four; do
    before=$(file_state "$file")
    refused "$file: header: not a qcow2 image" file "$file" qcow2-create=1G
    same "$(file_state "$file")" "$before"
done
make_qcow2 bad.qcow2 1M
poke bad.qcow2 4 4 9
before=$(file_state bad.qcow2)
refused "the version is neither 2 nor 3" file bad.qcow2 qcow2-create=1G
same "$(file_state bad.qcow2)" "$before"

step "with -r it is ignored"
: >empty
refused "empty: header: not a qcow2 image" -r file empty qcow2-create=1G
same "$(length_of empty)" 0
before=$(file_state other.qcow2)
serve -r file other.qcow2 qcow2-create=2G
client <<<'assert h.is_read_only() and h.get_size() == 8 << 20'
stop
same "$(file_state other.qcow2)" "$before"

step "nobody came: nothing was made"
: >empty
serve file empty qcow2-create=1G
stop
same "$(length_of empty)" 0

step "in memory, where nothing can grow"
requires_plugin memory
serve memory 64M qcow2-create=1G
client_of_new 1073741824
client <<<'assert h.pread(512, (1 << 30) - 512) == b"x" * 512; h.pwrite(b"z" * (1 << 20), 0)'
stop
# Too small even for that.
serve memory 64K qcow2-create=1G
! nbdinfo "$(uri)" >/dev/null 2>&1 || fail "a client was let in"
stop
server_said "qcow2-create="
