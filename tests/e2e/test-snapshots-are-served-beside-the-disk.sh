#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# The exports snapshot/ID-or-NAME: internal snapshots are read while the disk is written,
# by several clients at a time.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

# export_uri EXPORT: as typed in a URI.
export_uri() { echo "nbd+unix:///$1?socket=$tmp/main.sock"; }

# what_is_listed: "NAME: SIZE" of each export.
what_is_listed()
{
    nbdinfo --list --json --no-content "$(uri)" | "$PYTHON" -IS -c '
import json, sys
for export in json.load(sys.stdin)["exports"]:
    print("%s: %d" % (export["export-name"], export["export-size"]))'
}

# snapshot NAME FILE: makes it, and a copy of the disk as it is now.
snapshot()
{
    qemu-img snapshot -c "$1" disk.qcow2
    qemu-img convert -f qcow2 -O raw disk.qcow2 "$2"
}

# read_beside_writers: three clients read two snapshots at random while two write the disk
# and find there what they wrote.
read_beside_writers()
{
    client main "$@" <<'PYTHON'
import random, threading

wrong = []
enough = threading.Event()


def open_export(name):
    handle = nbd.NBD()
    handle.set_export_name(name)
    handle.add_meta_context("base:allocation")
    handle.connect_unix("main.sock")
    return handle


def work(function, *args):
    def body():
        try:
            function(*args)
        except BaseException as error:
            wrong.append((function.__name__, args[0], error))
            enough.set()
    return threading.Thread(target=body)


def read(name, path):
    handle, drawn = open_export(name), random.Random(name)
    content = open(path, "rb").read()
    assert handle.get_size() == len(content) and handle.is_read_only() and handle.can_multi_conn()
    fails(errno.EPERM, handle.pwrite, b"x", 0)
    for i in range(120):
        at = drawn.randrange(len(content))
        length = min(drawn.choice([1, 4096, 100000, 1 << 20]), len(content) - at)
        assert handle.pread(length, at) == content[at:at + length], (name, at, length)
    for at, length, flags in extents(handle, 0, len(content)):
        assert not flags & 2 or not any(content[at:at + length]), (name, at, length)


def write(stripe):
    handle, drawn = connect(), random.Random(stripe)
    begin, length = stripe << 22, 1 << 22
    mine = bytearray(handle.pread(length, begin))
    while not enough.is_set():
        at = drawn.randrange(length)
        size = min(drawn.choice([512, 5000, 200000]), length - at)
        how = drawn.randrange(4)
        mine[at:at + size] = bytes(size) if how == 0 else bytes([drawn.randrange(1, 256)]) * size
        if how == 0:
            handle.zero(size, begin + at)
        else:
            handle.pwrite(mine[at:at + size], begin + at)
        assert handle.pread(length, begin) == mine, stripe


readers = [work(read, *pair) for pair in zip(sys.argv[1::2], sys.argv[2::2])]
writers = [work(write, stripe) for stripe in range(2)]
for thread in readers + writers:
    thread.start()
for thread in readers:
    thread.join()
enough.set()
for thread in writers:
    thread.join()
assert not wrong, wrong
PYTHON
}

step "snapshots of three sizes, one named like another's ID, one with a name of many kinds"
make_qcow2 disk.qcow2 16M cluster_size=4k
qemu-img bitmap --add disk.qcow2 b0
qemu-io -f qcow2 -c "write -P 1 0 1M" -c "write -P 2 4M 3M" -c "write -c -P 3 8M 64k" disk.qcow2 >/dev/null
snapshot "before upgrade/é" 1.raw
qemu-img resize -q -f qcow2 disk.qcow2 40M
qemu-io -f qcow2 -c "write -P 3 0 64k" -c "write -P 4 30M 64k" disk.qcow2 >/dev/null
snapshot 1 2.raw
qemu-img resize -q -f qcow2 --shrink disk.qcow2 12M
qemu-img snapshot -c third disk.qcow2

step "listed: by their names, where these lead to them"
serve file disk.qcow2 qcow2-control="$tmp/main.qmp"
same "$(what_is_listed)" ": 12582912
snapshot/before upgrade/é: 16777216
snapshot/2: 41943040
snapshot/third: 12582912"
nbdinfo --list --no-content "$(uri)" >list.out
says "description: the virtual disk of a qcow2 image" list.out || fail "$(cat list.out)"
says "description: snapshot '1' \(ID 2\) of 20[0-9-]+ [0-9:]+ UTC, read-only" list.out || fail "$(cat list.out)"

step "read while the disk is written"
read_beside_writers snapshot/1 1.raw snapshot/2 2.raw "snapshot/before upgrade/é" 1.raw
nbdcopy "$(export_uri snapshot/1)" copy.raw
cmp copy.raw 1.raw
qemu-img compare -q -f raw -F raw "$(export_uri "snapshot/before%20upgrade/%C3%A9")" 1.raw

step "one that is read stays; others come meanwhile"
client <<'PYTHON'
sys.path.insert(0, os.path.join(os.environ["srcdir"], "e2e"))
from qmp import Qmp, Refused
import time

qmp = Qmp("main.qmp")


def open_export(name):
    handle = nbd.NBD()
    handle.set_export_name(name)
    handle.connect_unix("main.sock")
    return handle


def refused(command, arguments, reason):
    try:
        qmp.do(command, arguments)
    except Refused as refusal:
        assert reason in str(refusal), refusal
        return
    raise AssertionError(command)


third = open_export("snapshot/third")
content = third.pread(12 << 20, 0)
delete = ("blockdev-snapshot-delete-internal-sync", {"device": "disk", "name": "third"})
refused(*delete, "snapshot 'third' (ID 3) is being served to 1 client; let")
refused("snapshot-revert", {"id-or-name": "third"}, "is being served to 1 client")
another = open_export("snapshot/3")
refused(*delete, "is being served to 2 clients")
qmp.do("blockdev-snapshot-internal-sync", {"device": "disk", "name": "fourth"})
h.pwrite(bytes([7]) * (12 << 20), 0)
assert third.pread(12 << 20, 0) == content
fourth = open_export("snapshot/fourth")
assert fourth.pread(1 << 20, 0) != bytes([7]) * (1 << 20)
for handle in third, another, fourth:
    handle.shutdown()
for name in "third", "fourth":  # when the server has seen them go
    for attempt in range(1000):
        try:
            qmp.do("blockdev-snapshot-delete-internal-sync", {"device": "disk", "name": name})
            break
        except Refused as refusal:
            assert "is being served" in str(refusal), refusal
            time.sleep(0.01)
    else:
        raise AssertionError(name)
PYTHON
same "$(what_is_listed)" ": 12582912
snapshot/before upgrade/é: 16777216
snapshot/2: 41943040"

step "there is none of that name"
for name in another snapshot snapshot/ snapshot/other snapshot/1/; do
    ! nbdinfo --size "$(export_uri $name)" 2>/dev/null || fail "there is no export '$name'"
done
server_said "error: there is no export 'another'; there are '', 'snapshot/before upgrade/é', 'snapshot/2'"
server_said "error: export 'snapshot/other': there is no snapshot with the ID or name 'other'; the image has snapshot 'before"
stop
check_image disk.qcow2

step "a server for reading alone, and one that serves a snapshot already"
before=$(file_state disk.qcow2)
serve -r file disk.qcow2
nbdcopy "$(export_uri snapshot/2)" copy.raw
cmp copy.raw 2.raw
stop
serve file disk.qcow2 qcow2-snapshot=2
nbdcopy "$(export_uri snapshot/1)" copy.raw
cmp copy.raw 1.raw
nbdcopy "$(uri)" copy.raw
cmp copy.raw 2.raw
stop
same "$(file_state disk.qcow2)" "$before"

step "a backing file, which is opened once; subclusters"
qemu-img create -q -f raw base.raw 20M
qemu-io -f raw -c "write -P 9 0 20M" base.raw >/dev/null
make_qcow2 disk.qcow2 10M "extended_l2=on,backing_file=base.raw,backing_fmt=raw"
qemu-io -f qcow2 -c "write -P 1 3k 2k" -c "write -c -P 2 1M 64k" -c "write -z 2M 5k" disk.qcow2 >/dev/null
snapshot s s.raw
qemu-io -f qcow2 -c "write -P 3 0 4M" disk.qcow2 >/dev/null
serve file disk.qcow2 qcow2-files="$tmp"
client <<<"h.pwrite(b'x', 0)"
mv base.raw moved.raw
read_beside_writers snapshot/s s.raw snapshot/1 s.raw
stop
mv moved.raw base.raw
check_image disk.qcow2

step "names that nobody should see"
make_qcow2 disk.qcow2 1M
for name in $'\e[2Jgone' $'\xff\xfe' 3; do
    qemu-img snapshot -c "$name" disk.qcow2
done
serve file disk.qcow2
same "$(what_is_listed)" ": 1048576
snapshot/1: 1048576
snapshot/2: 1048576
snapshot/3: 1048576"
stop
