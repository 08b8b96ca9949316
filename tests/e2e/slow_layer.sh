# shellcheck shell=bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# For tests of what happens while a flush or a write below takes long: it takes
# until the test says so. No second is counted.
#
#     serve_slow disk.qcow2 bitmap=b0
#     client <<'PYTHON'
#     slow = Slow()
#     h.pwrite(b"x" * SLOW, 1 << 20)    # from now on the next flush is held back
#     slow.wait()                       # it has come
#     ...
#     slow.release()
#     PYTHON
#
# A write of that many bytes arms the trap, when it reaches the file: whatever is
# flushed before it is not held back. A write whose bytes begin with "hold" is
# held back itself.

requires_plugin eval
SLOW=1000000

# serve_slow FILE ARGUMENTS...: FILE is in $tmp.
serve_slow()
{
    local file=$tmp/$1
    shift
    rm -f "$tmp/armed" "$tmp/held" "$tmp/go"
    mkfifo "$tmp/go"
    # `cat` ends when the one who has the other end closes it.
    serve eval get_size="stat -c %s '$file'" can_flush='exit 0' thread_model='echo parallel' \
        flush="if rm '$tmp/armed' 2>/dev/null; then touch '$tmp/held'; cat '$tmp/go'; fi" \
        pread="dd if='$file' skip=\$4 count=\$3 iflag=skip_bytes,count_bytes status=none" \
        pwrite="[ \$3 -ne $SLOW ] || touch '$tmp/armed'
                cat >'$tmp/data.'\$\$
                if [ \"\$(head -c 4 '$tmp/data.'\$\$ | tr -d '\\0')\" = hold ]; then
                    touch '$tmp/held'; cat '$tmp/go'
                fi
                dd if='$tmp/data.'\$\$ of='$file' seek=\$4 conv=notrunc oflag=seek_bytes status=none
                rm '$tmp/data.'\$\$" "$@"
}

# slow_client: as client, with class Slow and the number SLOW.
slow_client()
{
    {
        cat <<PYTHON
import time
SLOW = $SLOW

class Slow:
    """What is held back: wait() for it, then release() it."""

    def came(self):
        return os.path.exists("held")

    def wait(self):
        # client() ends us if it never comes.
        while not self.came():
            time.sleep(0.005)

    def release(self):
        os.remove("held")
        with open("go", "w"):
            pass
PYTHON
        cat
    } | client
}
