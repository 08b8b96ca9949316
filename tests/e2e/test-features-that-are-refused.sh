#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# Images that need what we have not got, or must not do: refused by the name of the
# feature, or served for reading only.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

step "encryption"
if qemu-img create -q -f qcow2 --object secret,id=key,data=hunter2 \
    -o encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10 disk.qcow2 1M 2>/dev/null; then
    refused "disk.qcow2: the image is encrypted .crypt_method" file disk.qcow2
    refused "disk.qcow2: the image is encrypted .crypt_method" -r file disk.qcow2
fi

step "the corrupt bit: for reading"
make_qcow2 disk.qcow2 64M
qemu-io -f qcow2 -c 'write -P 0x41 0 64k' disk.qcow2 >/dev/null
poke disk.qcow2 72 8 2
before=$(sha256sum disk.qcow2)
refused "the image is marked as corrupt" file disk.qcow2 bitmap=b0
serve file disk.qcow2
client <<'PYTHON'
assert h.is_read_only()
assert h.pread(65536, 0) == b"A" * 65536
PYTHON
stop
server_said "the image is marked as corrupt"
same "$(sha256sum disk.qcow2)" "$before"

step "lazy refcounts, closed well: they are kept as a wish, and written"
make_qcow2 disk.qcow2 64M lazy_refcounts=on
serve file disk.qcow2 bitmap=b0
client <<<'h.pwrite(b"x" * 100000, 0)'
stop
check_image disk.qcow2
