#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# Files that are no qcow2 image, or no file.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

refused "nothing.qcow2.*No such file" file nothing.qcow2
refused "no-folder/disk.qcow2.*No such file" file no-folder/disk.qcow2
mkdir folder
# Of a folder nbdkit itself may speak first.
refused "$tmp/folder" file folder
mkfifo pipe
refused "pipe" file pipe
refused "/dev/null" file /dev/null

: >empty
refused "$tmp/empty: header: not a qcow2 image: the magic bytes 'QFI.xfb' are missing; where there is nothing \
but zeros qcow2-create=SIZE makes an image\$" file empty
echo "hello" >text
refused "$tmp/text: header: not a qcow2 image" file text
refused "$tmp/text: header: not a qcow2 image" -r file text
refused "$tmp/text: header: not a qcow2 image" file text bitmap=b0
truncate -s 1G zeros
refused "$tmp/zeros: header: not a qcow2 image.*qcow2-create=SIZE.*; if it is a raw disk" file zeros
qemu-img create -q -f qed disk.qed 64M 2>/dev/null &&
    refused "header: not a qcow2 image" file disk.qed
qemu-img create -q -f qcow disk.qcow 64M
refused "header: the version is neither 2 nor 3 .it is 1, the older format qcow" file disk.qcow

step "what is to be typed can be typed as it stands, whatever the file's name"
name=$'it\'s raw; $(touch ran) & `touch ran`.img'
printf 'data%.0s' {1..1024} >"$name"
refused "if it is a raw disk, this makes an image of it: qemu-img convert" file "$name"
bash -c "$(sed -n 's/.*makes an image of it: //p' refused.out)"
[ ! -e ran ] || fail "the name was run"
serve file "$name.qcow2"
client <<<'assert h.pread(4096, 0) == b"data" * 1024'
stop

step "a file that cannot even be read"
make_qcow2 disk.qcow2 64M
chmod 000 disk.qcow2
if [ ! -r disk.qcow2 ]; then
    refused "disk.qcow2.*Permission denied" file disk.qcow2
fi
chmod 644 disk.qcow2

step "two files: the plugin would take the last one, and we would lock none"
make_qcow2 other.qcow2 64M
# (The plugin of newer nbdkit is faster than we are.)
plugins="parameter can only appear once"
refused "file=: given twice, .*/disk.qcow2 and .*/other.qcow2.*one image|$plugins" file disk.qcow2 \
    file=other.qcow2
refused "file=: given twice|$plugins" file file=disk.qcow2 file=disk.qcow2
