#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# Backing files and external data files are opened where qcow2-files= allows it, and
# nowhere else: at the prompt, for an image may come from anybody.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

mkdir disks bases secret
make_qcow2 bases/base.qcow2 16M
qemu-io -f qcow2 -c 'write -P 0x42 0 1M' bases/base.qcow2 >/dev/null
truncate -s 16M secret/letter
printf 'private' | dd of=secret/letter conv=notrunc status=none
overlay() { qemu-img create -q -f qcow2 -b "$1" -F "$2" ${3:+-u} disks/disk.qcow2 ${3:-}; }

step "not without the key, which is named"
overlay ../bases/base.qcow2 qcow2
before=$(file_state disks/disk.qcow2 bases/base.qcow2)
refused "bases/base.qcow2: the image names this file; qcow2-files=$tmp/disks/../bases allows it" file disks/disk.qcow2
refused "the image names this file; qcow2-files=" -r file disks/disk.qcow2
step "not from another folder"
refused "$tmp/bases/base.qcow2: the image names this file; qcow2-files=$tmp/bases allows it" \
    file disks/disk.qcow2 qcow2-files=disks qcow2-files=secret
same "$(file_state disks/disk.qcow2 bases/base.qcow2)" "$before"
step "with it; also as a daemon, which is in another folder"
"${nbdkit_command[@]}" -U "$tmp/main.sock" -P "$tmp/main.pid" --filter="$FILTER" \
    file disks/disk.qcow2 qcow2-files=bases bitmap=b0
client <<'PYTHON'
assert h.pread(65536, 0) == b"B" * 65536
h.pwrite(b"O" * 5000, 1000)
h.flush()
assert h.pread(10000, 0) == b"B" * 1000 + b"O" * 5000 + b"B" * 4000
h.shutdown()
PYTHON
pid=$(cat main.pid)
kill "$pid"
wait_until "the end of the daemon" eval "! kill -0 $pid 2>/dev/null"
check_image disks/disk.qcow2
same "$(dirty_map b0 disks/disk.qcow2)" "0+65536"
qemu-io -r -f qcow2 -c 'read -P 0x4f 1000 5000' -c 'read -P 0x42 6000 1000' disks/disk.qcow2 >io.out
! grep -q 'verification failed' io.out || fail "$(cat io.out)"

step "no way around it"
ln -s ../secret/letter bases/link
ln -s ../secret bases/folder
for name in ../bases/link ../bases/folder/letter ../bases/../secret/letter "$tmp/secret/letter"; do
    overlay "$name" raw 16M
    refused "$tmp/secret/letter: the image names this file; qcow2-files=$tmp/secret allows it" \
        file disks/disk.qcow2 qcow2-files=bases qcow2-files=disks
done
mkdir bases2
cp secret/letter bases2/
overlay ../bases2/letter raw 16M
refused "bases2/letter: the image names this file" file disks/disk.qcow2 qcow2-files=bases
for name in nbd://localhost/ json:{} fat:rw:/tmp; do
    qemu-img create -q -f qcow2 -u -b "$name" -F raw disks/disk.qcow2 16M
    refused "'${name//[{\}]/.}': the image names something that is no path of a local file" \
        file disks/disk.qcow2 qcow2-files=/
done
mkfifo bases/pipe
overlay ../bases/pipe raw 16M
refused "bases/pipe: neither a regular file nor a block device" file disks/disk.qcow2 qcow2-files=bases
overlay ../bases/nothing raw 16M
refused "bases/nothing: No such file" file disks/disk.qcow2 qcow2-files=bases

step "formats are not guessed"
overlay ../bases/base.qcow2 qcow2 16M
same "$(peek disks/disk.qcow2 112 4)" $((0xe2792aca)) "the first extension, which is the format"
poke disks/disk.qcow2 112 4 0x12345678
refused "does not say the format of its backing file '../bases/base.qcow2'; 'qemu-img rebase -u" \
    file disks/disk.qcow2 qcow2-files=bases
overlay ../bases/base.qcow2 vmdk 16M
refused "backing file '../bases/base.qcow2': format 'vmdk' is neither raw nor qcow2" \
    file disks/disk.qcow2 qcow2-files=bases
overlay ../secret/letter qcow2 16M
refused "backing file .*secret/letter: header: not a qcow2 image" file disks/disk.qcow2 qcow2-files=secret

step "a chain that is a loop, and one that is endless"
make_qcow2 bases/loop.qcow2 16M
qemu-img rebase -u -f qcow2 -b loop.qcow2 -F qcow2 bases/loop.qcow2
overlay ../bases/loop.qcow2 qcow2 16M
refused "the chain is a loop" file disks/disk.qcow2 qcow2-files=bases
refused "the chain is a loop" -r file bases/loop.qcow2 qcow2-files=bases

step "locks: the base is read, and not written meanwhile"
overlay ../bases/base.qcow2 qcow2
serve file disks/disk.qcow2 qcow2-files=bases
client <<<'h.pread(1, 0)'
qemu-img info bases/base.qcow2 >/dev/null
! qemu-io -f qcow2 -c 'write 0 512' bases/base.qcow2 >/dev/null 2>&1 || fail "the base was written"
refused 'base.qcow2: another process' file bases/base.qcow2
stop
start qemu qemu-nbd -t -e 4 -f qcow2 -k "$tmp/qemu.sock" --pid-file="$tmp/qemu.pid" bases/base.qcow2
refused 'base.qcow2: another process has it open for writing' file disks/disk.qcow2 qcow2-files=bases
kill "${server_pids[qemu]}"
forget qemu || true

step "an external data file"
qemu-img create -q -f qcow2 -o data_file="$tmp/secret/data",data_file_raw=off disks/disk.qcow2 16M
refused "secret/data: the image names this file; qcow2-files=$tmp/secret allows it" file disks/disk.qcow2
serve file disks/disk.qcow2 qcow2-files=secret bitmap=b0
client <<<'h.pwrite(b"D" * 5000, 0)'
stop
check_image disks/disk.qcow2
cmp -n 5000 secret/data <(head -c 5000 /dev/zero | tr '\0' D)
same "$(dirty_map b0 disks/disk.qcow2)" "0+65536"
chmod 444 secret/data

step "qcow2-files= that is no folder"
refused "qcow2-files=: .*No such file" file disks/disk.qcow2 qcow2-files=nowhere
refused "qcow2-files=: .*Not a directory" file disks/disk.qcow2 qcow2-files=disks/disk.qcow2
