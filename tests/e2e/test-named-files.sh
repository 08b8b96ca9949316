#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# qcow2-files=DIR: which files an image may name. The names may come from anybody,
# so what lies outside is never opened, whatever leads there.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

mkdir -p allowed/sub outside
printf 'A%.0s' {1..65536} >allowed/base.raw
cp allowed/base.raw allowed/sub/base.raw
printf 'S%.0s' {1..65536} >outside/secret.raw

# overlay NAME [FORMAT] [FILE]: an image that names this backing file, which need
# not be there.
overlay()
{
    remove "${3:-allowed/disk.qcow2}"
    qemu-img create -q -f qcow2 -u -b "$1" -F "${2:-raw}" "${3:-allowed/disk.qcow2}" 64K
}

# served LETTER ARGUMENTS...: the first cluster is all this letter, and a write of
# half of it keeps the rest.
served()
{
    local letter=$1
    shift
    serve "$@"
    client main "$letter" <<'PYTHON'
letter = sys.argv[1].encode()
assert h.pread(65536, 0) == letter * 65536
h.pwrite(b"n" * 1000, 1000)
assert h.pread(65536, 0) == letter * 1000 + b"n" * 1000 + letter * 63536
h.shutdown()
PYTHON
    stop
    echo "served: $*"
}

allow=(qcow2-files="$tmp/allowed")
disk=allowed/disk.qcow2

step "without the parameter: the file, and what would help"
overlay base.raw
refused "$tmp/allowed/base.raw: .*qcow2-files=$tmp/allowed" file $disk
refused "$tmp/allowed/base.raw: .*qcow2-files=$tmp/allowed" -r file $disk
overlay "$tmp/outside/secret.raw"
refused "$tmp/outside/secret.raw: .*qcow2-files=$tmp/outside" file $disk
# Whether it is there is not told.
overlay "$tmp/outside/nothing.raw"
refused "$tmp/outside/nothing.raw: .*qcow2-files=$tmp/outside" file $disk

step "below the folder: by a relative name, an absolute one, one with .."
overlay base.raw
served A file $disk "${allow[@]}"
overlay "$tmp/allowed/sub/base.raw"
served A file $disk "${allow[@]}"
overlay sub/../base.raw
served A file $disk "${allow[@]}"
overlay ../base.raw raw allowed/sub/disk.qcow2
served A file allowed/sub/disk.qcow2 "${allow[@]}"
# From another working folder, too.
(cd outside && overlay base.raw raw ../allowed/disk.qcow2)
cd outside
served A file ../allowed/disk.qcow2 "${allow[@]}"
cd ..

step "names that lead out"
for name in ../outside/secret.raw sub/../../outside/secret.raw "$tmp/outside/secret.raw" \
    "$tmp/allowed/../outside/secret.raw" "$tmp/allowed/./sub/../../outside/../outside/secret.raw"; do
    overlay "$name"
    refused "$tmp/outside/secret.raw: .*qcow2-files=" file $disk "${allow[@]}"
    refused "$tmp/outside/secret.raw: .*qcow2-files=" -r file $disk "${allow[@]}"
done
# Whether it is there is not told here either.
for name in ../outside/nothing.raw "$tmp/outside/nothing.raw"; do
    overlay "$name"
    refused "$tmp/outside/nothing.raw: .*qcow2-files=$tmp/outside" file $disk "${allow[@]}"
done
# What only begins as the folder's name does.
mkdir allowed-not
cp outside/secret.raw allowed-not
overlay "$tmp/allowed-not/secret.raw"
refused "$tmp/allowed-not/secret.raw: .*qcow2-files=" file $disk "${allow[@]}"
# The folder itself, and one below it.
overlay "$tmp/allowed/sub"
refused "neither a regular file nor a block device" file $disk "${allow[@]}"
overlay "$tmp/allowed"
refused "$tmp/allowed: " file $disk "${allow[@]}"
overlay missing.raw
refused "$tmp/allowed/missing.raw: No such file" file $disk "${allow[@]}"

step "symbolic links"
ln -s ../outside/secret.raw allowed/out.raw
ln -s "$tmp/outside" allowed/out
ln -s sub/base.raw allowed/in.raw
ln -s sub allowed/in
ln -s out.raw allowed/twice.raw
ln -s round.raw allowed/round.raw
for name in out.raw out/secret.raw twice.raw sub/../out/secret.raw in/../../outside/secret.raw; do
    overlay "$name"
    refused "$tmp/outside/secret.raw: .*qcow2-files=" file $disk "${allow[@]}"
done
for name in in.raw in/base.raw "$tmp/allowed/in/base.raw"; do
    overlay "$name"
    served A file $disk "${allow[@]}"
done
overlay round.raw
refused "$tmp/allowed/round.raw: Too many levels of symbolic links" file $disk "${allow[@]}"
# The folder may be given by a link, and relative to where we are.
ln -s allowed link
overlay base.raw
served A file $disk qcow2-files="$tmp/link"
overlay base.raw
served A file $disk qcow2-files=allowed
# The image is reached through a link: names are relative to the name it was given.
overlay base.raw raw outside/disk.qcow2
ln -s ../outside/disk.qcow2 allowed/linked.qcow2
qemu-img info --backing-chain allowed/linked.qcow2 >/dev/null
served A file allowed/linked.qcow2 "${allow[@]}"

step "a base that is reached by a link: names in it are relative to the link, as with QEMU"
mkdir allowed/of-link allowed/of-file
printf 'L%.0s' {1..65536} >allowed/of-link/base.raw
printf 'F%.0s' {1..65536} >allowed/of-file/base.raw
overlay base.raw raw allowed/of-file/middle.qcow2
ln -s ../of-file/middle.qcow2 allowed/of-link/middle.qcow2
overlay middle.qcow2 qcow2 allowed/of-link/disk.qcow2
qemu-io -r -f qcow2 -c 'read -P 0x4c 0 64k' allowed/of-link/disk.qcow2 >read.out
! grep -q "verification failed" read.out || fail "QEMU reads something else: $(cat read.out)"
served L file allowed/of-link/disk.qcow2 "${allow[@]}"
# Two levels down the same rule holds for what leads out.
ln -sf ../../outside/secret.raw allowed/of-link/base.raw
overlay middle.qcow2 qcow2 allowed/of-link/disk.qcow2
refused "$tmp/outside/secret.raw: .*qcow2-files=" file allowed/of-link/disk.qcow2 "${allow[@]}"
overlay ../../outside/secret.raw raw allowed/of-file/middle.qcow2
refused "$tmp/outside/secret.raw: .*qcow2-files=" file allowed/of-link/disk.qcow2 "${allow[@]}"

step "a folder that is a link out every other moment: never what lies outside"
# A part of the resolved path changes, between the check of it and the opening too.
mkdir allowed/turning
cp allowed/base.raw allowed/turning
cp outside/secret.raw outside/base.raw
ln -s ../outside allowed/turned
overlay turning/base.raw
cat >exchange.py <<'PYTHON'
import ctypes, os, sys, time
AT_FDCWD, RENAME_EXCHANGE = -100, 2
exchange = ctypes.CDLL(None, use_errno=True).renameat2
names = [os.fsencode(name) for name in sys.argv[1:3]]
while True:
    if exchange(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE) != 0:
        sys.exit(os.strerror(ctypes.get_errno()))
    if len(sys.argv) > 3:
        break
    time.sleep(0.0003)  # long enough to be served now and then
PYTHON
if ! "$PYTHON" exchange.py allowed/turning allowed/turned once; then
    echo "this file system cannot exchange two names: left out"
else
    "$PYTHON" exchange.py allowed/turning allowed/turned once
    "$PYTHON" exchange.py allowed/turning allowed/turned &
    swapper=$!
    cleanup_fn kill -9 "$swapper"
    was_served=0 was_refused=0
    for ((i = 0; i < 60 || (i < 600 && was_served * was_refused == 0); ++i)); do
        # Refused at the prompt, or when the client comes; or served.
        (as_server timeout "$patience" "${nbdkit_command[@]}" -r -f -U - --filter="$FILTER" file $disk "${allow[@]}" \
            --run 'qemu-io -r -f raw -c "read -P 0x41 0 64k" "$uri"') >swapped.out 2>&1 || true
        ! grep -q "Pattern verification failed" swapped.out || fail "what lies outside was served"
        if grep -q "^read 65536/65536" swapped.out; then
            was_served=$((was_served + 1))
        elif grep -qE "turning/base.raw|outside/base.raw" swapped.out; then
            was_refused=$((was_refused + 1))
        else
            fail "neither served nor refused: $(cat swapped.out)"
        fi
    done
    kill "$swapper"
    wait "$swapper" 2>/dev/null || true
    echo "served $was_served times, refused $was_refused times"
    [ "$was_served" -gt 0 ] && [ "$was_refused" -gt 0 ] || fail "the folder was not swapped often enough"
fi

step "what is more than a path"
for name in nbd:localhost:10809 nbd://localhost/disk nbd+unix:///?socket=/tmp/x \
    https://localhost/base.raw file:base.raw 'json:{"driver":"file","filename":"base.raw"}'; do
    rm -f $disk
    make_qcow2 $disk 64K
    "$PYTHON" - "$disk" "$name" <<'PYTHON'
# qemu-img would look at it. So: a backing format extension, and the name.
import struct, sys
with open(sys.argv[1], "r+b") as file:
    name = sys.argv[2].encode()
    file.seek(112)
    file.write(struct.pack(">II8s8x", 0xe2792aca, 3, b"raw"))
    file.seek(1024)
    file.write(name)
    file.seek(8)
    file.write(struct.pack(">QI", 1024, len(name)))
PYTHON
    refused "'${name//[\{\}+?]/.}': .*not supported" file $disk "${allow[@]}"
    refused "'${name//[\{\}+?]/.}': .*not supported" file $disk qcow2-files=/
done
# A colon behind a slash is only a letter.
cp allowed/base.raw "allowed/a:b"
overlay "$tmp/allowed/a:b"
served A file $disk "${allow[@]}"
overlay "./a:b"
served A file $disk "${allow[@]}"

step "no format: refused, with the cure"
overlay base.raw
qemu-img rebase -q -u -f qcow2 -b base.raw $disk 2>/dev/null || true
at=$("$PYTHON" -c 'print(open("allowed/disk.qcow2", "rb").read(65536).find(b"\xe2\x79\x2a\xca"))')
# (QEMU insists on one: a type that nobody knows takes its place.)
[ "$at" -eq -1 ] || poke $disk "$at" 4 0x12345678
refused "does not say the format of its backing file 'base.raw'; this sets it .-F raw if it is raw.: qemu-img \
rebase -u -f qcow2 -b base.raw -F qcow2 $tmp/$disk\$" file $disk "${allow[@]}"
# What is said can be typed. This is wrong, and the way back is said, too.
bash -c "$(sed -n 's/.* raw): //p' refused.out)"
refused "backing file $tmp/allowed/base.raw: header: not a qcow2 image.* if it is: qemu-img rebase -u -f qcow2 -b \
base.raw -F raw $tmp/$disk\$" file $disk "${allow[@]}"
bash -c "$(sed -n 's/.* if it is: //p' refused.out)"
served A file $disk "${allow[@]}"
# With "file:" in front, which is no path: one command sets both.
for name in file:../base.raw file:a:b; do
    overlay "$name" raw allowed/sub/disk.qcow2
    refused "'$name': the image names something that is no path .*; this sets the path alone" \
        file allowed/sub/disk.qcow2 "${allow[@]}"
    at=$("$PYTHON" -c 'print(open("allowed/sub/disk.qcow2", "rb").read(65536).find(b"\xe2\x79\x2a\xca"))')
    poke allowed/sub/disk.qcow2 "$at" 4 0x12345678
    refused "'$name': the image names something that is no path .*; this sets the path alone" \
        file allowed/sub/disk.qcow2 "${allow[@]}"
    bash -c "$(sed -n 's/.* raw): //p' refused.out | sed 's/-F qcow2/-F raw/')"
    cp allowed/base.raw allowed/sub/a:b
    served A file allowed/sub/disk.qcow2 "${allow[@]}"
done
overlay nbd:localhost:1
refused "not supported; if the same is a local file, too, this sets its path: qemu-img rebase -u -f qcow2 -b PATH -F \
FORMAT $tmp/$disk" file $disk "${allow[@]}"
overlay base.raw vmdk
refused "backing file 'base.raw': format 'vmdk' is neither raw nor qcow2" file $disk "${allow[@]}"

step "an overlay that is reached by a link in another folder: where its names are looked for is said"
mkdir -p "links/of it" allowed/deep
overlay ../base.raw raw allowed/deep/disk.qcow2
ln -sf "$tmp/allowed/deep/disk.qcow2" "links/of it/disk.qcow2"
origin="its name, '../base.raw', is looked for in the folder of the symbolic link '$tmp/links/of it/disk.qcow2', by \
which the image was reached; file=$tmp/allowed/deep/disk.qcow2 looks for it in the folder of the image"
# The folder is the one that exists, not .../of it/..
refused "^nbdkit: error: '$tmp/links/of it/disk.qcow2': $tmp/links/base.raw: .*; qcow2-files=$tmp/links allows it to be \
opened; $origin\$" file "links/of it/disk.qcow2"
refused "qcow2-files=$tmp/links allows it to be opened; $origin" file "links/of it/disk.qcow2" "${allow[@]}"
refused "$tmp/links/of it/../base.raw': No such file or directory; $origin" file "links/of it/disk.qcow2" \
    qcow2-files=links
served A file "$(grep -o 'file=[^ ]*' refused.out)" "${allow[@]}"
# An image in the middle that is reached by a link.
overlay "$tmp/links/of it/disk.qcow2" qcow2 allowed/above.qcow2
refused "; its name, '../base.raw', is looked for in .*'$tmp/links/of it/disk.qcow2', by which the image was reached; the \
image itself is $tmp/allowed/deep/disk.qcow2\$" file allowed/above.qcow2 qcow2-files=links "${allow[@]}"
# Not where the image itself was named, nor where the name says all by itself.
overlay ../missing.raw raw allowed/deep/disk.qcow2
refused "missing.raw: No such file or directory\$" file allowed/deep/disk.qcow2 "${allow[@]}"
overlay "$tmp/outside/secret.raw" raw allowed/deep/disk.qcow2
refused "qcow2-files=$tmp/outside allows it to be opened\$" file "links/of it/disk.qcow2"

step "an image that is given as a descriptor has no folder"
overlay base.raw
refused "'base.raw': a relative name, but the image was given as a descriptor, which has no folder; give its path" \
    file /dev/fd/9 9<>$disk
refused "'base.raw': a relative name, but .*; give its path" file /proc/self/fd/9 "${allow[@]}" 9<>$disk
overlay "$tmp/allowed/base.raw"
serve file /dev/fd/9 "${allow[@]}" 9<>$disk
client <<<'assert h.pread(65536, 0) == b"A" * 65536'
stop

step "folders and names that a shell would take amiss can be typed as they are told"
mkdir "allowed/a b; touch ran"
cp allowed/base.raw "allowed/a b; touch ran/\$(touch ran)'s.raw"
overlay "a b; touch ran/\$(touch ran)'s.raw"
refused "qcow2-files='$tmp/allowed/a b; touch ran' allows" file $disk
eval "served A file $disk $(grep -o "qcow2-files='[^']*'" refused.out)"
overlay $'no\n\e[2J'
refused "qcow2-files=$tmp/allowed allows" file $disk
refused "^nbdkit: error: $tmp/$disk: \\$'$tmp/allowed/no.x0a.x1b.2J': No such file" file $disk "${allow[@]}"
same "$(wc -l <refused.out)" 1 "lines"
[ ! -e ran ] || fail "a name was run"

step "loops"
overlay disk.qcow2 qcow2
refused "$tmp/allowed/disk.qcow2: the chain is a loop" file $disk "${allow[@]}"
refused "$tmp/allowed/disk.qcow2: the chain is a loop" -r file $disk "${allow[@]}" qcow2-lock=off
overlay disk.qcow2 qcow2 allowed/second.qcow2
overlay second.qcow2 qcow2
refused "the chain is a loop" -r file $disk "${allow[@]}"
refused "the chain is a loop" file $disk "${allow[@]}"
# By another name: disk, second, and disk again by a hard link.
overlay other-name.qcow2 qcow2 allowed/second.qcow2
ln $disk allowed/other-name.qcow2
refused "$tmp/allowed/other-name.qcow2: the chain is a loop" file $disk "${allow[@]}"
rm allowed/other-name.qcow2

step "no files"
mkfifo allowed/pipe
overlay pipe
refused "$tmp/allowed/pipe: neither a regular file nor a block device" file $disk "${allow[@]}"
overlay sub
refused "$tmp/allowed/sub: neither a regular file nor a block device" file $disk "${allow[@]}"
overlay /dev/null
refused "/dev/null: neither a regular file nor a block device" file $disk qcow2-files=/dev
overlay pipe qcow2
refused "$tmp/allowed/pipe: neither a regular file nor a block device" file $disk "${allow[@]}"
overlay base.raw qcow2
refused "base.raw: .*not a qcow2 image" file $disk "${allow[@]}"

step "the external data file: by the same rule"
with_data_file()
{
    rm -f allowed/data.qcow2
    qemu-img create -q -f qcow2 -o data_file="$1" allowed/data.qcow2 64K
    qemu-io -f qcow2 -c 'write -P 0x41 0 64k' allowed/data.qcow2 >/dev/null
}
with_data_file "$tmp/allowed/data.raw"
refused "$tmp/allowed/data.raw: .*qcow2-files=$tmp/allowed" file allowed/data.qcow2
served A file allowed/data.qcow2 "${allow[@]}"
with_data_file "$tmp/outside/data.raw"
refused "$tmp/outside/data.raw: .*qcow2-files=$tmp/outside" file allowed/data.qcow2 "${allow[@]}"
served A file allowed/data.qcow2 qcow2-files="$tmp/outside"
with_data_file "$tmp/allowed/sub/data.raw"
rm allowed/sub/data.raw
ln -s "$tmp/outside/data.raw" allowed/sub/data.raw
before=$(file_state outside/data.raw)
refused "$tmp/outside/data.raw: .*qcow2-files=$tmp/outside" file allowed/data.qcow2 "${allow[@]}"
rm allowed/sub/data.raw
mkfifo allowed/sub/data.raw
refused "neither a regular file nor a block device" file allowed/data.qcow2 "${allow[@]}"
same "$(file_state outside/data.raw)" "$before"
# The guest's bytes would go over the tables of the image.
rm allowed/sub/data.raw
ln allowed/data.qcow2 allowed/sub/data.raw
before=$(sha256sum allowed/data.qcow2)
refused "external data file: $tmp/allowed/sub/data.raw: .*a loop" file allowed/data.qcow2 "${allow[@]}"
refused "external data file: .*a loop" file allowed/data.qcow2 "${allow[@]}" qcow2-lock=off
same "$(sha256sum allowed/data.qcow2)" "$before"

step "several folders, and all of them"
overlay "$tmp/outside/secret.raw"
served S file $disk "${allow[@]}" qcow2-files="$tmp/outside"
overlay "$tmp/outside/secret.raw"
served S file $disk qcow2-files=/
overlay base.raw
served A file $disk qcow2-files="$tmp/outside" "${allow[@]}"
refused "qcow2-files=: $tmp/nothing: No such file" file $disk qcow2-files="$tmp/nothing"
refused "qcow2-files=: $tmp/allowed/base.raw: Not a directory" file $disk qcow2-files=allowed/base.raw

step "a backing file that somebody writes to"
make_qcow2 allowed/base.qcow2 64K
qemu-io -f qcow2 -c 'write -P 0x41 0 64k' allowed/base.qcow2 >/dev/null
overlay base.qcow2 qcow2
start writer qemu-nbd -t -f qcow2 -k "$tmp/writer.sock" --pid-file="$tmp/writer.pid" allowed/base.qcow2
refused "allowed/base.qcow2" file $disk "${allow[@]}"
kill "${server_pids[writer]}"
forget writer || true
# While we serve the overlay, nobody writes to the base.
serve file $disk "${allow[@]}"
client <<<'assert h.pread(65536, 0) == b"A" * 65536'
if qemu-io -f qcow2 -c 'write 0 64k' allowed/base.qcow2 >base.out 2>&1; then
    fail "the base was written: $(cat base.out)"
fi
stop

step "the image is no local file: absolute names only"
overlay base.raw
serve data data="<$tmp/$disk" "${allow[@]}"
! nbdinfo "$(uri)" >/dev/null 2>&1 || fail "a client was let in"
stop
server_said "'base.raw': a relative name, but the image is no local file"
overlay "$tmp/allowed/base.raw"
serve data data="<$tmp/$disk" "${allow[@]}"
client <<<'assert h.pread(65536, 0) == b"A" * 65536'
stop
overlay "$tmp/outside/secret.raw"
serve data data="<$tmp/$disk" "${allow[@]}"
! nbdinfo "$(uri)" >/dev/null 2>&1 || fail "a client was let in"
stop
server_said "$tmp/outside/secret.raw: .*qcow2-files="
