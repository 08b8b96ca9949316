#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# Wrong keys and values end nbdkit at the prompt, with a message, before it becomes a
# daemon; and --help names all that there are.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

make_qcow2 disk.qcow2 64M
before=$(file_state disk.qcow2)
name_of() { head -c "$1" /dev/zero | tr '\0' n; }

refused "unknown parameter 'qcow2-nonsense'" file disk.qcow2 qcow2-nonsense=1
refused "unknown parameter 'qcow2-lok'" file disk.qcow2 qcow2-lok=on
refused "unknown parameter 'bitmaps'" file disk.qcow2 bitmaps=b0
refused "unknown parameter 'bitmap-granularty'" file disk.qcow2 bitmap-granularty=64k
refused "unknown parameter 'nonsense'" file disk.qcow2 nonsense=1
! grep -q qcow2bitmap refused.out || fail "it has nothing to do with us: $(cat refused.out)"

step "a key that is nearly ours, and ends in the plugin or a filter below: ours are told"
for key in bitmpa bitmaps bitmap_sync granularity qcow2-lok qcow-create shrink; do
    refused "if '$key' was meant for qcow2bitmap: did you mean [a-z0-9-]+=. It has these parameters:" \
        file disk.qcow2 $key=1
    grep -q "^bitmap-granularity=<SIZE>" refused.out || fail "not all are told: $(cat refused.out)"
done
refused "if 'bitmpa' was meant for qcow2bitmap: did you mean bitmap=" --filter=offset file disk.qcow2 bitmpa=1
# A plugin that takes no parameters says so in its own way.
refused "did you mean bitmap=" zero bitmpa=1
# What the plugin knows is the plugin's.
serve file disk.qcow2 cache=none
stop
! grep -q "did you mean" main.log || fail "$(cat main.log)"

step "a size is how much there is to be, not by how much more"
for key in bitmap-granularity qcow2-cache qcow2-create qcow2-resize qcow2-scratch-max qcow2-shrink; do
    for value in +10G -10G ' 10G'; do
        refused "$key=.10G: not a " file disk.qcow2 "$key=$value"
    done
    refused "$key=.10G: not a .*: it has no sign, for it is how much there is to be" file disk.qcow2 $key=+10G
done
serve -r file disk.qcow2 qcow2-create=100
stop
server_said "warning: qcow2-create=100: a disk of less than 1M; was a suffix forgotten, as in 100G"

step "values"

refused 'bitmap=: the name of a bitmap has 1 to 1023 bytes, not 0' file disk.qcow2 bitmap=
refused 'bitmap=: the name of a bitmap has 1 to 1023 bytes, not 1024' file disk.qcow2 bitmap="$(name_of 1024)"
refused 'bitmap=: the name is not valid UTF-8' file disk.qcow2 bitmap=$'\xff\xfe'
refused 'bitmap=: the name is not valid UTF-8' file disk.qcow2 bitmap=$'\xc0\xaf'

for value in 3000 0 256 4G -1 x '' 64kk; do
    refused "bitmap-granularity=$value: not a power of two from 512 to 2G" file disk.qcow2 \
        bitmap=b0 bitmap-granularity=$value
done
refused "bitmap-recover=all: the word must be keep or all-dirty" file disk.qcow2 bitmap-recover=all
refused "bitmap-remove=: the name of a bitmap is missing" file disk.qcow2 bitmap-remove=
for value in no true ''; do
    refused "bitmap-remove-all=$value: the word must be yes" file disk.qcow2 bitmap-remove-all=$value
done
refused "bitmap-sync=never: the word must be durable or on-close" file disk.qcow2 bitmap-sync=never
for value in 0 x '' -4M 99999999999999999999; do
    refused "qcow2-cache=$value: not a size" file disk.qcow2 qcow2-cache=$value
done
for value in 0 x 512K; do
    refused "qcow2-scratch-max=$value: not a size of 1M or more" file disk.qcow2 qcow2-scratch-max=$value
done
refused "qcow2-scratch=: .*/disk.qcow2: no file can be made there: Not a directory" file disk.qcow2 qcow2-scratch=disk.qcow2
refused "qcow2-scratch=: .*/nothing: no file can be made there: No such file or directory" \
    file disk.qcow2 qcow2-scratch=nothing
refused 'qcow2-discard=perhaps: the word must be unmap or keep' file disk.qcow2 qcow2-discard=perhaps
refused 'qcow2-lock=perhaps: must be on or off' file disk.qcow2 qcow2-lock=perhaps
refused "dir=: this filter serves one image; name its file by file=" file dir="$tmp"
refused "dirfd=: this filter serves one image" file dirfd=0
refused "can stand in a stack only once" --filter="$FILTER" file disk.qcow2
for filter in retry retry-request; do
    nbdkit --filter="$filter" --dump-plugin null >/dev/null 2>&1 || continue
    refused "bitmap-sync=durable: the $filter filter below hides failed flushes" \
        --filter="$filter" file disk.qcow2 bitmap-sync=durable
    serve --filter="$filter" file disk.qcow2
    stop
    server_said "^nbdkit: qcow2bitmap: warning: the $filter filter below hides failed flushes"
    serve -r --filter="$filter" file disk.qcow2
    stop
    ! grep -q hides main.log || fail "a warning for one who reads: $(cat main.log)"
done
same "$(file_state disk.qcow2)" "$before"

step "the longest name, and a name that is no ASCII, are served"
serve file disk.qcow2 bitmap="$(name_of 1023)" bitmap="Größe 🐄" bitmap="Größe 🐄"
client <<<'h.pwrite(b"x", 0)'
stop
check_image disk.qcow2
same "$(bitmap_info disk.qcow2 "$(name_of 1023)")" "65536 auto"
same "$(bitmap_info disk.qcow2 "Größe 🐄")" "65536 auto"

step "the help"
"${nbdkit_command[@]}" --filter="$FILTER" file --help >help
# All that there are.
same "$(grep -oE '^ *(bitmap|qcow2)[a-z0-9-]*=' help | tr -d ' =' | LC_ALL=C sort)" "$(tr ' ' '\n' <<<"bitmap\
 bitmap-granularity bitmap-recover bitmap-remove bitmap-remove-all bitmap-sync qcow2-cache qcow2-check qcow2-control qcow2-create qcow2-discard\
 qcow2-files qcow2-lock qcow2-resize qcow2-revert qcow2-scratch qcow2-scratch-max qcow2-shrink qcow2-snapshot")"
