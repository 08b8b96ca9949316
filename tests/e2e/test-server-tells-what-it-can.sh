#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# What a client is told: the size, the preferred block size, what the server can do,
# and which exports there are.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

# told KEY FILE: from nbdinfo's account of the one export.
told()
{
    "$PYTHON" -c '
import json, sys
print(json.load(open(sys.argv[2]))["exports"][0][sys.argv[1]])' "$1" "$2"
}

for cluster in 512 65536 2097152; do
    step "clusters of $cluster bytes"
    make_qcow2 disk.qcow2 $((40 * 1048576 + 512)) cluster_size=$cluster
    serve file disk.qcow2
    nbdinfo --json --no-content "$(uri)" >info.json
    while read -r key value; do
        same "$(told "$key" info.json)" "$value" "$key"
    done <<EOT
export-size $((40 * 1048576 + 512))
block_size_minimum 1
block_size_preferred $cluster
block_size_maximum 4294967295
can_multi_conn True
can_cache True
can_fast_zero True
can_flush True
can_fua True
can_trim True
can_zero True
is_read_only False
is_rotational False
EOT
    stop
done

step "its own version: in the help, in the log at -v, and where nbdkit asks filters"
version=$(cat "$top_srcdir/VERSION")
(as_server "${nbdkit_command[@]}" --filter="$FILTER" null --help) >help.out
grep -qF "qcow2bitmap $version." help.out || fail "$(cat help.out)"
(as_server "${nbdkit_command[@]}" --filter="$FILTER" null --dump-plugin) >dump.out
if [ "$(printf '%s\n' 1.42 "$(nbdkit --version | sed 's/[^0-9]*//')" | sort -V | head -n 1)" = 1.42 ]; then
    same "$(grep '^qcow2bitmap_version=' dump.out)" "qcow2bitmap_version=$version"
fi
make_qcow2 version.qcow2 1M
serve -v file version.qcow2
server_said "qcow2bitmap $version, for nbdkit [0-9]"
stop

step "the exports"
serve file disk.qcow2
same "$(nbdinfo --list --json --no-content "$(uri)" |
    "$PYTHON" -c 'import json, sys; print([e["export-name"] for e in json.load(sys.stdin)["exports"]])')" "['']"
client <<'PYTHON'
other = nbd.NBD()
other.set_export_name("another")
try:
    other.connect_unix("main.sock")
    raise AssertionError("there is no such export")
except nbd.Error:
    pass
# That was the other's trouble, not ours. A request to cache is one that can be
# answered, of any range.
h.pwrite(b"data", 1 << 20)
h.cache(40 << 20, 0)
h.cache(1, 7)
assert h.pread(4, 1 << 20) == b"data"
h.shutdown()
PYTHON
server_said "there is no export 'another'"
stop
check_image disk.qcow2

step "a disk of size 0"
make_qcow2 disk.qcow2 0
serve file disk.qcow2
same "$(nbdinfo --size "$(uri)")" 0
stop
check_image disk.qcow2

step "a size that is no multiple of 512: rounded down"
make_qcow2 disk.qcow2 1M
# The size stands at 24.
printf '\0\0\0\0\0\x0f\xff\xff' | dd of=disk.qcow2 bs=1 seek=24 conv=notrunc status=none
serve file disk.qcow2
same "$(nbdinfo --size "$(uri)")" $((1048576 - 512))
stop
