#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# qcow2-control=: where its socket is, what keeps it from being there, and that no
# client of it harms another one, or the disk.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

# qmp COMMAND [ARGUMENTS]: of the server whose control socket is main.qmp.
qmp() { "$PYTHON" -I "$srcdir/e2e/qmp.py" "$tmp/main.qmp" "$@"; }
# clients <<'PYTHON': of it, with Qmp and `path`.
clients() { PYTHONPATH=$srcdir/e2e "$PYTHON" <(printf '%s\n' 'import os, socket, time' 'from qmp import Qmp, Refused' "path = '$tmp/main.qmp'"; cat); }

make_qcow2 disk.qcow2 64M
long=$tmp/$(printf '%0120d' 0)

step "what keeps the socket from being there is told at the prompt"
refused "qcow2-control=: the path of a socket is missing" file disk.qcow2 qcow2-control=
refused "qcow2-control=b: there is one already" file disk.qcow2 qcow2-control=a qcow2-control=b
refused "qcow2-control=: .*/nowhere/x: no socket can be made there: No such file or directory" \
    file disk.qcow2 qcow2-control=nowhere/x
refused "qcow2-control=: $long: has [0-9]* bytes, and the path of a socket at most 107; give a shorter one" \
    file disk.qcow2 "qcow2-control=$long"
echo precious >a-file
refused "qcow2-control=: $tmp/a-file: is there already, and is no socket; give another path" \
    file disk.qcow2 qcow2-control=a-file
same "$(cat a-file)" precious
mkdir a-folder
refused "is there already, and is no socket" file disk.qcow2 qcow2-control=a-folder
ln -s main.qmp a-link
refused "is there already, and is no socket" file disk.qcow2 qcow2-control=a-link
remove a-link

step "a relative path, whatever the mask; the mode is 0600"
(umask 0; exec "$PYTHON" -IS -c 'import socket; socket.socket(socket.AF_UNIX).bind("main.qmp")')
same "$(stat -c %F main.qmp)" socket
umask 0
# The one that was there is dead.
serve file disk.qcow2 bitmap=b0 qcow2-control=main.qmp
umask 022
same "$(stat -c '%a %F' main.qmp)" "600 socket"

step "another server is kept off, and harms nothing"
make_qcow2 other.qcow2 1M
refused "qcow2-control=: $tmp/main.qmp: another server answers there; stop it, or give another path" \
    file other.qcow2 qcow2-control=main.qmp

step "commands come before the first client of NBD, and the keys have been heeded"
qmp query-block | grep -q '"name": "b0"' || fail "$(qmp query-block)"
qmp block-dirty-bitmap-add '{"node": "disk", "name": "b1", "persistent": true, "disabled": true}' >added
same "$(cat added)" "{}"
qmp query-status | grep -q "\"nbd-uri\": \"nbd+unix:///?socket=$tmp/main.sock\"" || fail "$(qmp query-status)"

step "several clients at once, with the disk in use"
clients <<'PYTHON'
all = [Qmp(path) for _ in range(5)]
for client in all:
    client.send("query-status")
assert [client.answer()["running"] for client in all] == [True] * 5
half = Qmp(path)
half.socket.sendall(b'{"execute": "query-')
assert all[0].do("query-jobs") == []
half.socket.sendall(b'status"}')
assert half.answer()["running"]

# Both in one packet, and the client ends its half: all is answered, and then it is over.
both = Qmp(path)
both.socket.sendall(b'{"execute":"query-jobs","id":1}{"execute":"query-block","id":2}{"execute":"query-jobs","id":3}')
both.socket.shutdown(socket.SHUT_WR)
assert [both.read()["id"] for _ in range(3)] == [1, 2, 3]
try:
    both.read()
    raise AssertionError("not over")
except EOFError:
    pass

# One that takes no answers is not asked for more, and the others are served.
deaf = Qmp(path)
deaf.socket.setblocking(False)
sent = 0
try:
    while sent < 100 << 20:
        sent += deaf.socket.send(b'{"execute":"query-commands"}' * 1000)
except BlockingIOError:
    pass
assert 0 < sent < 10 << 20, sent
assert all[1].do("query-jobs") == []

# Garbage, and too much of it.
garbage = Qmp(path)
garbage.socket.sendall(b"\xff\x00}{]" * 1000 + b'\n{"execute":"query-jobs","id":"end"}')
while garbage.read().get("id") != "end":
    pass
for endless in (b"[" * 10000, b'{"a":"' + b"x" * (2 << 20)):
    client = Qmp(path)
    try:
        client.socket.sendall(endless)
    except (BrokenPipeError, ConnectionResetError):
        pass
    assert "limit exceeded" in client.read()["error"]["desc"]
    try:
        client.read()
        raise AssertionError("not over")
    except (EOFError, ConnectionResetError):
        pass

# A thousand of them, who say nothing. Who has negotiated stays the longest.
silent = []
for _ in range(1000):
    client = socket.socket(socket.AF_UNIX)
    client.connect(path)
    silent.append(client)
    if len(silent) == 500:
        assert all[2].do("query-jobs") == []
assert Qmp(path).do("query-jobs") == []
assert all[2].do("query-jobs") == []

# What was sent is done, also if the client has gone.
gone = socket.socket(socket.AF_UNIX)
gone.connect(path)
gone.sendall(b'{"execute":"qmp_capabilities"}' + b'{"execute":"query-block"}' * 20 +
             b'{"execute":"block-dirty-bitmap-add","arguments":{"node":"disk","name":"gone","persistent":true}}')
gone.close()
waits = Qmp(path)
while not any(bitmap["name"] == "gone" for bitmap in waits.do("query-block")[0]["inserted"]["dirty-bitmaps"]):
    pass
waits.do("block-dirty-bitmap-remove", {"node": "disk", "name": "gone"})
PYTHON

step "nothing of it is open in what the server starts, and few descriptors are"
test "$(ls "/proc/${server_pids[main]}/fd" | wc -l)" -lt 80 || fail "$(ls -l "/proc/${server_pids[main]}/fd")"
for fd in /proc/"${server_pids[main]}"/fdinfo/*; do
    case $(readlink "${fd/fdinfo/fd}") in
        socket:*|anon_inode:?eventfd?)
            # (Those of clients that have gone are closed meanwhile.)
            cat "$fd" >info 2>/dev/null || continue
            says '^flags:.*02[0-9]{6}$' info || fail "not closed on exec: $fd $(cat info)" ;;
    esac
done

step "its own socket goes with the server"
stop
[ ! -e main.qmp ] || fail "the socket is still there"
check_image disk.qcow2
same "$(bitmap_info disk.qcow2 b0)" "65536 auto"
same "$(bitmap_info disk.qcow2 b1)" "65536 "

step "somebody else's does not"
serve file disk.qcow2 qcow2-control=main.qmp
remove main.qmp
echo mine >main.qmp
stop
same "$(cat main.qmp)" mine
remove main.qmp

step "a daemon"
(as_server "${nbdkit_command[@]}" -U "$tmp/d.sock" -P "$tmp/d.pid" --filter="$FILTER" file disk.qcow2 qcow2-control=main.qmp)
daemon=$(cat d.pid)
cleanup_fn kill -9 "$daemon"
has_gone() { ! kill -0 "$daemon" 2>/dev/null; }
qmp query-status | grep -q "\"nbd-uri\": \"nbd+unix:///?socket=$tmp/d.sock\"" || fail "$(qmp query-status)"
qmp quit
wait_until "the end of the daemon" has_gone

step "a server that only reads answers questions"
before=$(file_state disk.qcow2)
serve -r file disk.qcow2 qcow2-control=main.qmp
qmp query-named-block-nodes | grep -q '"ro": true' || fail "$(qmp query-named-block-nodes)"
! qmp block-dirty-bitmap-remove '{"node": "disk", "name": "b0"}' 2>err || fail "a bitmap was removed"
says "Refused: the disk is served read-only" err || fail "$(cat err)"
qmp quit
forget main || fail "nbdkit ended with $?"
same "$(file_state disk.qcow2)" "$before"
