#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# bitmap=NAME that cannot be: on version 2, on a disabled bitmap, on one that was not
# stored. The message says what helps, and what helps does. And what is said at the
# prompt of bitmaps that are made, or not tracked.

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

# prompt ARGUMENTS...: a daemon, which has a terminal until it is one.
prompt()
{
    "${nbdkit_command[@]}" -U "$tmp/prompt.sock" -P "$tmp/prompt.pid" --filter="$FILTER" "$@" >prompt.out 2>&1
    wait_until "the daemon" test -s prompt.pid
    local pid
    pid=$(cat prompt.pid)
    kill "$pid"
    wait_until "the end of the daemon" eval "! kill -0 $pid 2>/dev/null"
    rm -f prompt.pid prompt.sock
    # (Of an nbdkit before 1.34, whatever is served.)
    sed -i '/when a client vanishes/d' prompt.out
}
prompt_said() { grep -qE -- "$1" prompt.out || fail "not at the prompt: '$1', but:"$'\n'"$(cat prompt.out)"; }
prompt_silent() { [ ! -s prompt.out ] || fail "$(cat prompt.out)"; }

step "A2: made, and it is said: the disk has data, and no such bitmap"
made="warning: .*bitmap 'backup' is not there: it is made, empty, and knows nothing of what was written before"
make_qcow2 disk.qcow2 64M
prompt file disk.qcow2 bitmap=backup
prompt_silent
qemu-io -f qcow2 -c 'write 0 64k' disk.qcow2 >/dev/null
prompt file disk.qcow2 bitmap=backup
prompt_said "$made"
prompt -r file disk.qcow2
prompt_silent
serve file disk.qcow2 bitmap=backup
client <<<'h.pread(512, 0); h.shutdown()'
stop
same "$(grep -c "knows nothing of" main.log)" 1
prompt file disk.qcow2 bitmap=backup
prompt_silent
make_qcow2 overlay.qcow2 64M backing_file=disk.qcow2,backing_fmt=qcow2
prompt file overlay.qcow2 qcow2-files=. bitmap=backup
prompt_said "$made"
# Where it is only known when the first client comes.
truncate -s 4M disk.qcow2
serve --filter=offset file disk.qcow2 range=4M bitmap=other
client <<<'h.pread(512, 0); h.shutdown()'
client <<<'h.pread(512, 0); h.shutdown()'
stop
same "$(grep -c "bitmap 'other' is not there: it is made" main.log)" 1

step "A2: not tracked, and it is said: inconsistent, foreign, out of date"
qemu-io -f qcow2 -c 'write 5M 1M' -c 'sigraise 9' disk.qcow2 >qemu-io.out 2>&1 || :
prompt file disk.qcow2
prompt_said "warning: .*bitmap 'backup', granularity 64K: inconsistent .*kept as it is and not tracked"
prompt file disk.qcow2 bitmap=backup bitmap-recover=all-dirty
prompt_said "bitmap 'backup', granularity 64K: inconsistent; valid again, with all bits set, before the first"
serve file disk.qcow2
client <<<'h.pread(512, 0); h.shutdown()'
stop
same "$(grep -c "bitmap 'backup'" main.log)" 1
cp disk.qcow2 old.qcow2
poke old.qcow2 95 1 0
prompt file old.qcow2
prompt_said "warning: .*the bitmaps of the image are out of date .*'backup', 'other'; bitmap-recover=all-dirty"
prompt file old.qcow2 bitmap=backup bitmap-recover=all-dirty
prompt_said "are out of date .*: 'backup', 'other'; valid again, with all bits set, before the first"
# A type that nobody knows.
serve file disk.qcow2 bitmap-recover=all-dirty
client <<<'h.pread(512, 0); h.shutdown()'
stop
qemu-img bitmap --disable disk.qcow2 other
# Of the directory that the header names; old ones may be in the file.
name_at=$("$PYTHON" -c '
image = open("disk.qcow2", "rb").read()
extension = image.index(bytes.fromhex("23852875"), 104) + 8
size, at = (int.from_bytes(image[extension + i:extension + i + 8], "big") for i in (8, 16))
print(image.index(b"other", at, at + size))')
poke disk.qcow2 $((name_at - 24 + 16)) 1 77
prompt file disk.qcow2
prompt_said "warning: .*bitmap 'other', granularity 64K: foreign, kept as it is and not used"
