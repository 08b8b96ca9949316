#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# bitmap=NAME that cannot be: on version 2, on a disabled bitmap, on one that was not
# stored. The message says what helps, and what helps does.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

step "version 2"
make_qcow2 disk.qcow2 64M compat=0.10
before=$(file_state disk.qcow2)
refused "disk.qcow2: bitmap='b0': version 2 images cannot keep bitmaps; 'qemu-img amend -o compat=1.1'" \
    file disk.qcow2 bitmap=b0
same "$(file_state disk.qcow2)" "$before"
qemu-img amend -f qcow2 -o compat=1.1 disk.qcow2
serve file disk.qcow2 bitmap=b0
client <<<'h.pwrite(b"x", 0)'
stop
check_image disk.qcow2

step "disabled"
make_qcow2 disk.qcow2 64M
qemu-img bitmap --add --disable disk.qcow2 frozen
before=$(file_state disk.qcow2)
refused "disk.qcow2: bitmap='frozen': it is disabled, .* 'qemu-img bitmap --enable' enables it" \
    file disk.qcow2 bitmap=frozen
same "$(file_state disk.qcow2)" "$before"
qemu-img bitmap --enable disk.qcow2 frozen
serve file disk.qcow2 bitmap=frozen
client <<<'h.pwrite(b"x", 0)'
stop
check_image disk.qcow2
same "$(dirty_map frozen disk.qcow2)" "0+65536"

step "not stored when the image was last used"
serve file disk.qcow2 bitmap-sync=on-close
client <<'PYTHON'
h.pwrite(b"x", 7 << 20)
os.kill(int(open("main.pid").read()), 9)
PYTHON
kill_server
before=$(file_state disk.qcow2)
same "$(bitmap_info disk.qcow2 frozen)" "65536 in-use,auto"
refused "disk.qcow2: bitmap='frozen': it is inconsistent .in_use.* 'qemu-img bitmap --remove'" \
    file disk.qcow2 bitmap=frozen
same "$(file_state disk.qcow2)" "$before"
step "without the key it is carried along"
serve file disk.qcow2
client <<<'h.pwrite(b"y", 1 << 20)'
stop
same "$(bitmap_info disk.qcow2 frozen)" "65536 in-use,auto"
step "what helps"
qemu-img bitmap --remove disk.qcow2 frozen
serve file disk.qcow2 bitmap=frozen
client <<<'h.pwrite(b"z", 2 << 20)'
stop
same "$(dirty_map frozen disk.qcow2)" "2097152+65536"

step "more granules than a bitmap may have"
make_qcow2 disk.qcow2 63T cluster_size=2M
refused "disk.qcow2: bitmap='b0': " file disk.qcow2 bitmap=b0 bitmap-granularity=512

step "another granularity than asked for is kept, and said, once"
make_qcow2 disk.qcow2 64M
qemu-img bitmap --add -g 4096 disk.qcow2 b0
qemu-img bitmap --add -g 128k disk.qcow2 b1
kept="warning: .*bitmap 'b0' keeps its granularity of 4096 bytes; bitmap-granularity=131072 is for"
serve file disk.qcow2 bitmap=b0 bitmap=b1 bitmap-granularity=128k
# At the prompt, before anybody comes.
server_said "$kept"
client <<<'h.pwrite(b"z", 2 << 20)'
stop
same "$(grep -c "keeps its granularity" main.log)" 1
step "where it is only known when the first client comes"
length=$(length_of disk.qcow2)
serve --filter=offset file disk.qcow2 range="$length" bitmap=b0 bitmap-granularity=128k
client <<<'h.pread(512, 0); h.shutdown()'
client <<<'h.pread(512, 0); h.shutdown()'
stop
server_said "$kept"
same "$(grep -c "keeps its granularity" main.log)" 1
step "nothing to say"
serve file disk.qcow2 bitmap=b1 bitmap-granularity=128k
client <<<'h.pread(512, 0); h.shutdown()'
stop
! grep -q "keeps its granularity" main.log || fail "$(cat main.log)"
same "$(bitmap_info disk.qcow2 b0)" "4096 auto"
same "$(dirty_map b0 disk.qcow2)" "2097152+4096"
