#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# Where all that stands between us and the file hands on bytes as they are, it grows:
# by name and by descriptor, under log, delay, noparallel and others.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

grows()
{
    # The same file, not another of its name. Whole blocks: the blocksize filter
    # hides what is none.
    make_qcow2 new.qcow2 256M
    truncate -s %64K new.qcow2
    cat new.qcow2 >disk.qcow2
    serve "$@"
    client <<'PYTHON'
import random
pieces = [(random.Random(i).randbytes(3000000), i * 5000000) for i in range(4)]
for data, offset in pieces:
    h.pwrite(data, offset)
for data, offset in pieces:
    assert h.pread(len(data), offset) == data
h.flush()
h.shutdown()
PYTHON
    settled
    stop
    [ "$(length_of disk.qcow2)" -gt 12000000 ] || fail "the file has not grown"
    check_image disk.qcow2
}

step "a name"
grows file disk.qcow2
step "a name by way of a link, and from another folder"
mkdir elsewhere
ln -s ../disk.qcow2 elsewhere/link
grows file file=elsewhere/link
step "a descriptor"
make_qcow2 disk.qcow2 256M
exec 9<>disk.qcow2
grows file /proc/self/fd/9
# The file plugin has it from nbdkit 1.34 on.
! nbdkit file --help | grep -q '^ *fd=' || grows file fd=9
exec 9>&-

step "a descriptor for reading: the plugin opens the file anew, for writing"
make_qcow2 disk.qcow2 256M
exec 9<disk.qcow2
grows file /proc/self/fd/9
exec 9<&-

for filter in "log logfile=below.log" "delay wdelay=1ms" noparallel "error error-rate=0%" \
    "blocksize minblock=512 maxlen=64k" "rate rate=10G" "fua fuamode=emulate" \
    "stats statsfile=stats.txt" readahead; do
    # shellcheck disable=SC2086
    set -- $filter
    nbdkit --filter="$1" --dump-plugin null >/dev/null 2>&1 || continue
    step "under $filter"
    grows --filter="$1" file disk.qcow2 "${@:2}"
done

step "the limit for files of a process: ENOSPC, and no deadly signal"
. "$srcdir/e2e/fill.sh"
make_qcow2 disk.qcow2 64M
# Blocks of 1024 bytes.
nbdkit_command=(bash -c 'ulimit -f 4096; exec "$@"' - "${nbdkit_command[@]}")
serve file disk.qcow2 bitmap=b0
fill
stop
[ "$(length_of disk.qcow2)" -gt 3000000 ] || fail "the file has not grown"
server_said "cannot grow to [0-9]+ bytes: $tmp/disk.qcow2: the limit of this process for files .ulimit -f.: File too large\$"
check_image disk.qcow2
same_disk disk.qcow2 twin.raw
dirty_covers_touched b0 disk.qcow2
