#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# Each field of the header, and of the bitmaps extension, with values that cannot be:
# refused at the prompt by an error that names it, with little memory, or served
# read-only where that is safe.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

little_memory
make_qcow2 good.qcow2 64M
qemu-io -f qcow2 -c 'write -P 0x41 0 1M' good.qcow2 >/dev/null
qemu-img bitmap --add good.qcow2 b0

reading=
# What happens to it: "refused" at the prompt, with -r too; or "read-only",
# served so with a warning, and refused if a key asks for a change.
while read -r verdict offset size value pattern; do
    cp good.qcow2 bad.qcow2
    poke bad.qcow2 "$offset" "$size" "$value"
    before=$(file_state bad.qcow2)
    if [ "$verdict" = refused ]; then
        # Every other one with -r.
        [ "$reading" != -r ] && reading=-r || reading=
        refused "bad.qcow2: .*$pattern" $reading file bad.qcow2
    else
        refused "$pattern.*|bitmap=" file bad.qcow2 bitmap=b1
        serve file bad.qcow2
        client <<<'assert h.is_read_only(); assert h.pread(1 << 20, 0) == b"A" * (1 << 20)'
        stop
        server_said "warning: .*bad.qcow2: the disk is served read-only: .*$pattern"
    fi
    same "$(file_state bad.qcow2)" "$before"
done <<'EOT'
refused 4 4 0 the version is neither 2 nor 3 .it is 0
refused 4 4 0xffffffff the version is neither 2 nor 3 .it is 4294967295
refused 20 4 8 cluster_bits is out of range .9 to 21.
refused 20 4 22 cluster_bits is out of range .9 to 21.
refused 20 4 64 cluster_bits is out of range .9 to 21.
refused 20 4 0xffffffff cluster_bits is out of range .9 to 21.
refused 24 8 0xffffffffffffffff the disk is larger than an L1 table of 32 MiB reaches
refused 24 8 0x7ffffffffffffe00 the disk is larger than an L1 table of 32 MiB reaches
refused 32 4 1 the image is encrypted
refused 32 4 2 the image is encrypted
refused 32 4 77 the image is encrypted
refused 36 4 0xffffffff the L1 table is larger than 32 MiB .4294967295 entries
refused 36 4 0x400000 the L1 table runs past the end of the file
refused 40 8 0x10000000000 L1 table at 0x10000000000
refused 40 8 0xffffffffffff0000 the L1 table runs past the end of the file .it is at 0xffffffffffff0000
refused 40 8 0x30001 the L1 table is not cluster aligned
refused 40 8 0 the L1 table lies over the header
read-only 48 8 0x10000000000 the refcount table runs past the end of the file .*0x10000000000
refused 48 8 0xffffffffffff0000 the refcount table runs past the end of the file .it is at 0xffffffffffff0000
refused 48 8 0x10200 the refcount table is not cluster aligned
refused 48 8 0 the refcount table lies over the header
refused 56 4 0 the refcount table has no cluster
refused 56 4 0xffffffff the refcount table is larger than 8 MiB
read-only 56 4 128 the refcount table runs past the end of the file
refused 60 4 0xffffffff the image has more than 65536 snapshots
refused 60 4 1 the snapshot table lies over the header
read-only 60 12 0x000000010000010000000000 the snapshot table runs past the end of the file .*0x10000000000
read-only 60 12 0x000100000000000000030000 snapshot
refused 96 4 7 refcount_order is out of range .0 to 6.
refused 96 4 0xffffffff refcount_order is out of range .0 to 6.
refused 100 4 0 header_length is out of range
refused 100 4 103 header_length is out of range
refused 100 4 0xffffffff header_length is out of range
refused 100 4 0x10008 header_length is out of range
refused 100 4 108 header_length is out of range: a multiple of 8 from 104 to the cluster size .it is 108
refused 8 12 0x000000000000020000000400 the name of the backing file is longer than 1023 bytes
refused 8 8 0xffffffffffffffff backing file
refused 72 8 0x20 incompatible feature bit 5
refused 72 8 0x8000000000000000 incompatible feature bit 63
refused 72 8 8 compression type field and feature bit contradict each other
refused 104 1 7 the compression type is not known
refused 112 8 0x00000001ffffffff a header extension runs past the end
EOT

step "a feature that the image itself has a name for"
cp good.qcow2 bad.qcow2
poke bad.qcow2 72 8 0x40
# A feature name table in front of all: type, length, kind, bit, name.
"$PYTHON" - <<'PYTHON'
import struct
with open("bad.qcow2", "r+b") as file:
    file.seek(112)
    file.write(struct.pack(">IIBB46s", 0x6803f857, 48, 0, 6, b"time travel") + bytes(8))
PYTHON
refused "the image needs a feature that is not known .*time travel" file bad.qcow2

step "the bitmaps extension, directory and table: the disk is read, and no more"
extension=$("$PYTHON" -c '
image = open("good.qcow2", "rb").read(65536)
at = 112
while int.from_bytes(image[at:at + 4], "big") != 0x23852875:
    at += 8 + (int.from_bytes(image[at + 4:at + 8], "big") + 7) // 8 * 8
print(at)')
cp good.qcow2 bad.qcow2
poke bad.qcow2 $((extension + 4)) 4 23
refused "bad.qcow2: .*the bitmaps extension is not 24 bytes long|bitmap=" file bad.qcow2 bitmap=b1
serve file bad.qcow2
client <<<'assert h.is_read_only(); assert h.pread(1 << 20, 0) == b"A" * (1 << 20)'
stop
server_said "bad.qcow2: the disk is served read-only: .*the bitmaps extension is not 24 bytes long"
directory=$(peek good.qcow2 $((extension + 24)) 8)
while read -r base offset size value pattern; do
    cp good.qcow2 bad.qcow2
    poke bad.qcow2 $((base + offset)) "$size" "$value"
    before=$(file_state bad.qcow2)
    refused "$pattern|bitmap=" file bad.qcow2 bitmap=b1
    serve file bad.qcow2
    client <<<'assert h.is_read_only(); assert h.pread(1 << 20, 0) == b"A" * (1 << 20)'
    stop
    server_said "warning: .*bad.qcow2: the disk is served read-only: .*$pattern"
    same "$(file_state bad.qcow2)" "$before"
done <<EOT
$extension 8 4 0 nb_bitmaps is 0 or too large
$extension 8 4 0xffffffff nb_bitmaps is 0 or too large .it is 4294967295
$extension 12 4 1 the reserved field of the bitmaps extension is not 0
$extension 16 8 0 bitmap_directory_size is out of range
$extension 16 8 0x7fffffffffffffff bitmap_directory_size is out of range
$extension 24 8 0x10000000000 the bitmap directory runs past the end of the file .bitmap directory at 0x10000000000
$extension 24 8 0xffffffffffff0000 the bitmap directory runs past the end of the file
$extension 24 8 $((directory + 8)) the bitmap directory is not cluster aligned
$extension 24 8 0 the bitmap directory lies over the header
$directory 0 8 0x10000000000 the table of a bitmap runs past the end of the file .*0x10000000000
$directory 0 8 1 the table of a bitmap is not cluster aligned
$directory 8 4 0xffffffff the table of a bitmap does not have the size the disk needs
$directory 8 4 0 table
$directory 12 4 0xf2 the flags of a bitmap have reserved bits set
$directory 16 1 9 the type of a bitmap is not known
$directory 17 1 8 the granularity of a bitmap is not 512 to 2G
$directory 17 1 255 the granularity of a bitmap is not 512 to 2G
$directory 18 2 0 the bitmap directory is longer than its entries
$directory 18 2 0xffff a bitmap directory entry runs past the directory|the name of a bitmap is empty or longer
$directory 20 4 0xfffffff8 a bitmap directory entry runs past the directory
EOT

step "an L1 table that is too small for the disk"
cp good.qcow2 bad.qcow2
poke bad.qcow2 24 8 $((1 << 40))
serve file bad.qcow2
client <<'PYTHON'
assert h.get_size() == 1 << 40
assert h.pread(1 << 20, 0) == b"A" * (1 << 20)
assert h.pread(4096, (1 << 40) - 4096) == bytes(4096)
h.shutdown()
PYTHON
stop
