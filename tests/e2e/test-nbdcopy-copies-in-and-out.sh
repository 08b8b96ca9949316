#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# nbdcopy, with several connections and requests at once, to a disk and from it.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

requires nbdcopy
truncate -s 48M plain.raw
client_bytes() { "$PYTHON" -c 'import random, sys; sys.stdout.buffer.write(random.Random(int(sys.argv[1])).randbytes(int(sys.argv[2])))' "$@"; }
# Data, holes and odd places.
client_bytes 1 9000001 | dd of=plain.raw bs=1M conv=notrunc status=none
client_bytes 2 3000000 | dd of=plain.raw bs=64k seek=305 conv=notrunc status=none
client_bytes 3 4097 | dd of=plain.raw bs=1 seek=$((48 * 1048576 - 4097)) conv=notrunc status=none

for cluster in 512 65536; do
    step "clusters of $cluster bytes"
    make_qcow2 disk.qcow2 48M cluster_size=$cluster
    serve file disk.qcow2 bitmap=b0
    nbdcopy --connections=4 --requests=16 plain.raw "$(uri)"
    nbdcopy --connections=4 --requests=16 "$(uri)" back.raw
    cmp plain.raw back.raw
    # Over what is there, with zeros that must be zeros.
    nbdcopy --destination-is-zero=no --allocated --connections=2 plain.raw "$(uri)" 2>/dev/null ||
        nbdcopy --allocated --connections=2 plain.raw "$(uri)"
    stop
    check_image disk.qcow2
    same_disk disk.qcow2 plain.raw
done

step "from one of ours to another"
make_qcow2 second.qcow2 48M
serve -r file disk.qcow2
serve --as second file second.qcow2
nbdcopy "$(uri)" "$(uri second)"
stop
stop second
check_image second.qcow2
same_disk second.qcow2 plain.raw
