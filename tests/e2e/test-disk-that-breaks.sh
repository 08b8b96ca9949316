#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# The header was written and then cannot be read back: no client is let in, however it
# comes, until the image can be opened anew. Nobody ever sees an empty disk. After a
# flush that failed it stays so.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

requires_plugin eval
file=$tmp/disk.qcow2

# serve_image KEYS...: if "armed" is there, nothing can be read once the header sector
# was written. If "no-flush" is there, one flush succeeds after that, and no more.
serve_image()
{
    serve eval get_size="stat -c %s '$file'" can_flush='exit 0' \
        thread_model='echo serialize_all_requests' \
        flush="if [ -e '$tmp/trouble' ] && [ -e '$tmp/no-flush' ]; then
                   [ ! -e '$tmp/flushed' ] || { echo EIO no flush >&2; exit 1; }
                   touch '$tmp/flushed'
               fi" \
        pread="[ ! -e '$tmp/trouble' ] || { echo EIO trouble >&2; exit 1; }
               dd if='$file' skip=\$4 count=\$3 iflag=skip_bytes,count_bytes status=none" \
        pwrite="dd of='$file' seek=\$4 conv=notrunc oflag=seek_bytes status=none
                if [ \$4 = 0 ] && [ -e '$tmp/armed' ]; then touch '$tmp/trouble'; fi" \
        "$@"
}

no_client_is_let_in()
{
    local i
    for i in 1 2 3; do
        ! nbdinfo "$(uri)" >nbdinfo.out 2>&1 || fail "client $i was let in: $(cat nbdinfo.out)"
    done
}

new_image()
{
    rm -f trouble armed no-flush flushed
    make_qcow2 disk.qcow2 16M
    qemu-io -f qcow2 -c 'write -P 0x61 0 64k' disk.qcow2 >/dev/null
    truncate -s +2M disk.qcow2
    touch armed
}

for keys in bitmap=b0 qcow2-resize=32M bitmap-recover=all-dirty; do
    step "$keys"
    new_image
    [ "$keys" != bitmap-recover=all-dirty ] || {
        # A mark that nobody has taken off.
        rm armed
        qemu-img bitmap --add disk.qcow2 b0
        serve file disk.qcow2 bitmap-sync=on-close
        client <<'PYTHON'
h.pwrite(b"a" * 512, 0)
os.kill(int(open("main.pid").read()), 9)
PYTHON
        kill_server
        touch armed
    }
    serve_image "$keys"
    no_client_is_let_in
    [ -e trouble ] || fail "the header was not written"
    server_said "the image could not be opened anew"
    step "the trouble has passed"
    rm armed trouble
    client <<'PYTHON'
assert h.get_size() >= 16 << 20
assert not h.is_read_only()
assert h.pread(65536, 0)[512:] == b"a" * 65024
h.pwrite(b"b" * 512, 1 << 20)
h.shutdown()
PYTHON
    stop
    check_image_leaks_at_worst disk.qcow2
done
# The last one was bitmap-recover=.
same "$(bitmap_info disk.qcow2 b0)" "65536 auto"

step "and a flush has failed: then it stays so"
new_image
touch no-flush
serve_image bitmap=b0
no_client_is_let_in
server_said 'no flush'
rm armed trouble
no_client_is_let_in
stop
server_said "the image could not be opened anew"
check_image_leaks_at_worst disk.qcow2
