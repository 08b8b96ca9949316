#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# What is overwritten while a backup runs goes to files that nobody sees, and that leave
# nothing (F5). Where there is no room for it the backup is broken, and says why; the guest
# does not notice (F2), and nothing of the broken backup can be read (F3).

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

begin='
import os
tmp = os.environ["tmp"]
def server(): return Qmp(tmp + "/main.qmp")
def backup(name):
    other = nbd.NBD()
    other.connect_uri(uri.replace("///", "///backup/%s" % name))
    return other
'
export tmp
mkdir scratch
make_qcow2 disk.qcow2 64M
qemu-io -f qcow2 -c 'write -P 1 0 8M' disk.qcow2 >/dev/null

step "it has no name, while it is used and after a kill"
serve file disk.qcow2 bitmap=b0 qcow2-control=main.qmp qcow2-scratch=scratch
client <<PYTHON
$begin
q = server()
q.do("backup-begin", {"id": "mon", "bitmap": "b0", "mode": "full"})
h.pwrite(b"\2" * (2 << 20), 1 << 20)
mon = backup("mon")
assert mon.pread(8 << 20, 0) == b"\1" * (8 << 20)
assert q.do("query-backups")[0]["scratch-bytes"] == 2 << 20
assert os.listdir("$tmp/scratch") == []
PYTHON
kill_server
same "$(ls scratch)" ""

step "it has a limit"
serve file disk.qcow2 bitmap=b0 qcow2-control=main.qmp qcow2-scratch=scratch qcow2-scratch-max=1M
client <<PYTHON
$begin
q = server()
q.do("backup-begin", {"id": "tue", "bitmap": "b0", "mode": "full"})
tue = backup("tue")
h.pwrite(b"\3" * (1 << 20), 0)
assert tue.pread(4096, 0) == b"\1" * 4096
h.pwrite(b"\4" * 4096, 5 << 20)
assert h.pread(4096, 5 << 20) == b"\4" * 4096
told = q.event("BACKUP_BROKEN")
assert told["id"] == "tue" and "its limit for scratch, 1048576 bytes, is reached" in told["reason"], told
for offset in 0, 5 << 20, 7 << 20:
    fails(errno.EIO, tue.pread, 4096, offset)
assert q.do("query-backups")[0]["state"] == "broken"
q.do("backup-end", {"id": "tue", "success": False})
PYTHON
stop
server_said "backup 'tue' is broken: what is overwritten could not be kept: its limit for scratch"

step "it is on a file system that is full"
requires_root
requires mount umount
mkdir small
mount -t tmpfs -o size=1M none small 2>/dev/null || skip "no file system can be mounted here"
cleanup_fn umount "$tmp/small"
serve file disk.qcow2 bitmap=b0 qcow2-control=main.qmp qcow2-scratch=small qcow2-scratch-max=1G
client <<PYTHON
$begin
q = server()
q.do("backup-begin", {"id": "wed", "bitmap": "b0", "mode": "full"})
h.pwrite(b"\5" * (4 << 20), 0)
told = q.event("BACKUP_BROKEN")
assert "No space left on device; qcow2-scratch=DIR names another folder" in told["reason"], told
assert h.pread(4 << 20, 0) == b"\5" * (4 << 20)
PYTHON
stop
check_image disk.qcow2

step "it takes the room of the image: backups go first"
mount -o remount,size=24M small
cp --sparse=always disk.qcow2 small/disk.qcow2
serve file small/disk.qcow2 bitmap=b0 qcow2-control=main.qmp qcow2-scratch=small qcow2-scratch-max=1G
client <<PYTHON
$begin
q = server()
q.do("backup-begin", {"id": "thu", "bitmap": "b0", "mode": "full"})
h.pwrite(b"\6" * (6 << 20), 0)
assert q.do("query-backups")[0]["state"] == "active"
at = 8 << 20
while q.do("query-backups")[0]["state"] == "active":
    h.pwrite(b"\7" * (256 << 10), at)  # never fails
    at += 256 << 10
assert at < 24 << 20, at
for _ in range(16):
    h.pwrite(b"\7" * (256 << 10), at)  # what it had taken
    at += 256 << 10
h.flush()
told = q.event("BACKUP_BROKEN")
assert told["reason"] == "the room that it takes is needed for a change of the disk", told
assert h.pread(at - (8 << 20), 8 << 20) == b"\7" * (at - (8 << 20))
q.do("backup-end", {"id": "thu", "success": False})
PYTHON
stop
check_image small/disk.qcow2
