#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# fio writes at random through its NBD engine and verifies what it reads, then and
# after a new start of the server.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

requires fio
fio --enghelp 2>/dev/null | grep -qw nbd || skip "fio has no nbd engine"

make_qcow2 disk.qcow2 256M
serve file disk.qcow2 bitmap=b0
job()
{
    fio --name="$1" --ioengine=nbd --uri="nbd+unix:///?socket=$tmp/main.sock" --iodepth=16 \
        --verify=crc32c --verify_fatal=1 --randrepeat=1 --minimal "${@:2}" >fio.out 2>&1 ||
        fail "fio $1: $(cat fio.out)"
}
step "4k blocks, unaligned to clusters"
job small --rw=randwrite --bs=4k --size=24M --do_verify=1
step "blocks of many sizes"
job mixed --rw=randwrite --bsrange=512-256k --bs_unaligned=0 --blockalign=512 --offset=64M --size=48M --do_verify=1
step "reads and writes at once"
job both --rw=randrw --bs=16k --offset=128M --size=32M
stop
check_image disk.qcow2

serve -r file disk.qcow2
job small --rw=randwrite --bs=4k --size=24M --verify_only
stop
