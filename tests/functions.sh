# shellcheck shell=bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# For the tests that run a server: e2e/test-*.sh and interop/test-*.sh. They
# begin with
#
#     . "${srcdir:-$(dirname "$0")/..}"/functions.sh
#
# and are then in a temporary folder, $tmp, which vanishes when they end, as do
# the servers that they started. A test ends at the first command that fails.
# Servers have names, for there may be several; without one it is "main".
#
#     qemu-img create -q -f qcow2 disk.qcow2 64M
#     serve file disk.qcow2 bitmap=b0
#     client <<'PYTHON'
#     h.pwrite(b"x" * 512, 0)
#     PYTHON
#     stop
#     check_image disk.qcow2
#     same "$(dirty_map b0 disk.qcow2)" "0+65536"
#
# To start a program takes longer than most of what is tested here. So bash itself
# does what it can: no cat, grep, head, rm or sed in what every test calls.

set -eu -o pipefail
# Debian's tools, and those of the superuser.
export PATH=/usr/bin:/bin:$PATH:/usr/sbin:/sbin
export LC_ALL=C

PYTHON=${PYTHON:-/usr/bin/python3}
FILTER=${FILTER:?is not set: run this by make check TESTS=...}

# For what hangs, in seconds: longer than anything takes on a busy machine.
patience=300

# --- How a test ends.

# skip REASON
skip() { echo "$*"; exit 77; }

# fail WHAT
fail()
{
    echo "FAILED: $*" >&2
    failed_at="line ${BASH_LINENO[*]}"
    exit 1
}

# same FOUND EXPECTED [WHAT]
same()
{
    [ "$1" = "$2" ] || fail "${3:+$3: }found:"$'\n'"$1"$'\n'"expected:"$'\n'"$2"
}

# step WHAT: for the log.
step() { printf "\n-- %s (%s s)\n" "$*" "$SECONDS"; }

# cleanup_fn COMMAND...: when the test ends, the last one first.
cleanup_commands=()
cleanup_fn()
{
    local words
    printf -v words '%q ' "$@"
    cleanup_commands+=("$words")
}

clean_up()
{
    local status=$? i
    trap '' INT TERM
    set +e
    if [ $status -ne 0 ] && [ $status -ne 77 ]; then
        echo "$0: ended with $status${failed_at:+ at $failed_at}"
        for i in "$tmp"/*.log; do
            [ ! -s "$i" ] || { echo "== $(basename "$i"), the end of it"; tail -n 25 "$i"; }
        done
    fi
    for ((i = ${#cleanup_commands[@]} - 1; i >= 0; i--)); do
        eval "${cleanup_commands[i]}" 2>/dev/null
    done
    exit $status
}
trap clean_up EXIT
set -E
trap 'failed_at=$(basename "${BASH_SOURCE[0]}"):$LINENO' ERR
trap 'exit 130' INT TERM

# --- What a test needs.

# requires COMMAND...
requires()
{
    local command
    for command; do
        command -v "$command" >/dev/null || skip "$command is missing"
    done
}

requires_filter() { nbdkit --filter="$1" --dump-plugin null >/dev/null 2>&1 || skip "nbdkit has no $1 filter"; }
requires_plugin() { nbdkit --dump-plugin "$1" >/dev/null 2>&1 || skip "nbdkit has no $1 plugin"; }
requires_root() { [ "$(id -u)" -eq 0 ] || skip "only the superuser can do this"; }

requires nbdkit qemu-img qemu-io qemu-nbd nbdinfo
[ -f "$FILTER" ] || fail "$FILTER is not there"

tmp=$(mktemp -d "${TMPDIR:-/tmp}/qcow2bitmap-test.XXXXXX")
cleanup_fn rm -rf "$tmp"
cd "$tmp"

# pause SECONDS: as sleep does, which would be a process each time.
mkfifo "$tmp/nothing-comes"
pause() { ! read -r -t "$1" <>"$tmp/nothing-comes"; }

# --- Servers.

declare -A server_pids=()

# wait_until WHAT COMMAND...: for 10 seconds, or as long as a sanitizer needs.
wait_until()
{
    local what=$1 tries
    shift
    for ((tries = 0; tries < 1000; tries++)); do
        ! "$@" || return 0
        pause 0.01
    done
    fail "waited too long ($tries times) for: $what"
}

# as_server COMMAND...: becomes it, in a shell of its own (with & or in parentheses),
# as the filter needs it if it was compiled with a sanitizer, and with memory that is
# never zero by chance.
as_server()
{
    [ -z "${SANITIZER_PRELOAD-}" ] || export LD_PRELOAD=$SANITIZER_PRELOAD
    [ -z "${FILTER_MALLOC_PERTURB-}" ] || export MALLOC_PERTURB_=$FILTER_MALLOC_PERTURB
    exec "$@"
}
nbdkit_command=(nbdkit)

# uri [NAME]
uri() { echo "nbd+unix:///?socket=$tmp/${1:-main}.sock"; }

# start NAME PROGRAM...: any server that writes NAME.pid and serves NAME.sock;
# what it says goes to NAME.log.
start()
{
    local name=$1
    shift
    remove "$tmp/$name.pid" "$tmp/$name.sock"
    "$@" >"$tmp/$name.log" 2>&1 </dev/null &
    server_pids[$name]=$!
    # A server that has gone cannot be killed, and nobody else has got its
    # number, as long as we have not waited for it.
    cleanup_fn kill -9 "$!"
    wait_until "server $name" server_is_up_or_gone "$name"
    [ -s "$tmp/$name.pid" ] || fail "server $name did not start"
}

# remove FILE...: those that are there.
remove()
{
    local file
    for file; do
        [ ! -e "$file" ] && [ ! -L "$file" ] || rm -f "$file"
    done
}

server_is_up_or_gone() { [ -s "$tmp/$1.pid" ] || ! kill -0 "${server_pids[$1]}" 2>/dev/null; }

# serve_plain NAME ARGUMENTS...: nbdkit without our filter, or with it in any
# place of the arguments, as --filter=$FILTER. It takes a disk to be idle after
# IDLE_MS, a minute if that is not set; "asked": when SIGUSR1 comes, and never by
# itself.
serve_plain()
{
    local name=$1 idle=()
    shift
    if [[ " $* " != *" --filter=$FILTER "* ]]; then
        :
    elif [ "${IDLE_MS-}" = asked ]; then
        idle=(-D qcow2bitmap.idle_ms=40 -D "qcow2bitmap.settle_signal=$(kill -l USR1)")
    else
        idle=(-D "qcow2bitmap.idle_ms=${IDLE_MS:-60000}")
    fi
    start "$name" as_server "${nbdkit_command[@]}" -f -U "$tmp/$name.sock" -P "$tmp/$name.pid" "${idle[@]}" "$@"
}

# serve [--as NAME] ARGUMENTS...: our filter is nearest to the client.
serve()
{
    local name=main
    [ "$1" != --as ] || { name=$2; shift 2; }
    serve_plain "$name" --filter="$FILTER" "$@"
}

# stop [NAME]: SIGTERM. It must end well.
stop()
{
    local name=${1:-main} status=0
    kill -TERM "${server_pids[$name]}"
    forget "$name" || status=$?
    [ "$status" -eq 0 ] || fail "server $name ended with exit status $status"
}

# stop_badly [NAME]: SIGTERM. It must end by itself, and say that this was not clean.
stop_badly()
{
    local name=${1:-main} status=0
    kill -TERM "${server_pids[$name]}"
    forget "$name" || status=$?
    [ "$status" -eq 1 ] || fail "server $name ended with exit status $status"
    server_said "the file is not as a clean stop leaves it" "$name"
}

# settled [FILE]: waits until all is in the file, as it is soon after the last
# client has gone. For delay and rate below us: nbdkit does not let them sleep
# when it is to end, and then they write nothing.
settled()
{
    wait_until "the file to be as a clean stop leaves it" \
        qemu-img check -U -q -f qcow2 "${1:-disk.qcow2}" 2>/dev/null
}

# kill_server [NAME]: kill -9, if it still is there.
kill_server()
{
    local name=${1:-main}
    kill -9 "${server_pids[$name]}" 2>/dev/null || true
    forget "$name" 2>/dev/null || true
}

# forget NAME: waits for the end of a server; its exit status.
forget()
{
    local pid=${server_pids[$1]} kept=() command
    unset "server_pids[$1]"
    for command in "${cleanup_commands[@]}"; do
        [ "$command" = "kill -9 $pid " ] || kept+=("$command")
    done
    cleanup_commands=("${kept[@]}")
    wait "$pid"
}

is_running() { kill -0 "${server_pids[${1:-main}]}" 2>/dev/null; }

# says PATTERN FILE: whether a line of it has this extended regular expression.
says()
{
    local line
    while IFS= read -r line || [ -n "$line" ]; do
        [[ ! $line =~ $1 ]] || return 0
    done <"$2"
    return 1
}

# server_said PATTERN [NAME]: in a line of what the server said.
server_said()
{
    says "$1" "$tmp/${2:-main}.log" ||
        fail "server ${2:-main} did not say '$1', but:"$'\n'"$(cat "$tmp/${2:-main}.log")"
}

# little_memory: for this shell and what it starts, less than 2 GB of addresses.
# (A sanitizer needs more.)
little_memory() { [ -n "${SANITIZER_PRELOAD-}" ] || ulimit -v 2000000; }

# refused PATTERN NBDKIT-ARGUMENTS...: nbdkit, asked to be a daemon, with our
# filter nearest to the client, must say PATTERN at the prompt and end with a
# failure. In 10 seconds of CPU, and less than 2 GB of address space.
refused()
{
    local pattern=$1 status=0 first
    shift
    (
        little_memory
        ulimit -t 10
        # A hang is a failure of the test.
        as_server timeout "$patience" "${nbdkit_command[@]}" -U "$tmp/refused.sock" -P "$tmp/refused.pid" \
            --filter="$FILTER" "$@"
    ) >refused.out 2>&1 </dev/null || status=$?
    if [ "$status" -eq 0 ]; then
        wait_until "the daemon" test -s refused.pid
        kill "$(cat refused.pid)"
        fail "accepted, and should have said '$pattern': nbdkit $*"
    fi
    remove refused.pid refused.sock
    [ "$status" -eq 1 ] || fail "exit status $status: nbdkit $*"$'\n'"$(cat refused.out)"
    says "$pattern" refused.out ||
        fail "nbdkit $*"$'\n'"said: $(cat refused.out)"$'\n'"expected: $pattern"
    IFS= read -r first <refused.out || true
    echo "refused: $first"
}

# --- Clients.

# client [NAME] [ARGUMENTS...] <<'PYTHON': h is connected, with base:allocation;
# connect() makes more connections; fails(errno, function, ...) calls a function
# that must fail so. ARGUMENTS are sys.argv[1:].
client()
{
    local name=${1:-main}
    [ $# -eq 0 ] || shift
    local status=0
    # The program comes on standard input.
    CLIENT_URI=$(uri "$name") "$PYTHON" "$srcdir/client.py" "$@" || status=$?
    case $status in 0) ;; 77) skip "$PYTHON has no module nbd" ;; *) return $status ;; esac
}

# --- Images.

# check_image FILE: no corruption, no leaks, in QEMU's eyes and in core/check's.
check_image()
{
    qemu-img check -q -f qcow2 "$1" || fail "qemu-img check: $(qemu-img check -f qcow2 "$1" 2>&1)"
    "${builddir:?is not set}/support/check_image" "$1" >check.out 2>&1 ||
        fail "check_image: $(cat check.out)"
}

# check_image_leaks_at_worst FILE: after kill -9.
check_image_leaks_at_worst()
{
    local status=0
    qemu-img check -q -f qcow2 "$1" >check.out 2>&1 || status=$?
    case $status in 0|3) ;; *) fail "qemu-img check: $(qemu-img check -f qcow2 "$1" 2>&1)" ;; esac
}

# same_disk QCOW2 RAW: QEMU reads the same bytes from both. One may be longer, by
# zeros.
same_disk()
{
    qemu-img compare -q -f qcow2 -F raw "$1" "$2" || fail "$1 and $2 are different"
}

# bitmap_info FILE NAME: "granularity flags" as QEMU sees them, flags joined by
# commas: "65536 auto", "65536 in-use,auto"; nothing if there is no such bitmap.
bitmap_info()
{
    qemu-img info -U -f qcow2 --output=json "$1" | "$PYTHON" -IS -c '
import json, sys
info = json.load(sys.stdin)
for bitmap in info.get("format-specific", {}).get("data", {}).get("bitmaps", []):
    if bitmap["name"] == sys.argv[1]:
        print(bitmap["granularity"], ",".join(bitmap["flags"]))' "$2"
}

# dirty_map NAME FILE: what is dirty, as QEMU reads it from the file. Neighbours
# are joined; one line each: OFFSET+LENGTH, bytes.
dirty_map()
{
    local map
    start reader qemu-nbd -r -t -f qcow2 -B "$1" -k "$tmp/reader.sock" --pid-file="$tmp/reader.pid" "$2"
    map=$(nbdinfo --map="qemu:dirty-bitmap:$1" "$(uri reader)")
    kill "${server_pids[reader]}"
    forget reader || true
    awk '
        function put() { if (length_) printf "%d+%d\n", from, length_ }
        $3 != 0 {
            if (length_ && from + length_ == $1) { length_ += $2; next }
            put(); from = $1; length_ = $2
        }
        END { put() }' <<<"$map"
}

# file_state FILE...: changes if a file was changed, or merely written to. (Not
# its access time.)
file_state() { sha256sum "$@"; stat -c '%n %s %b %y %z' "$@"; }

length_of() { stat -c %s "$1"; }

# make_qcow2 FILE SIZE [OPTIONS]: OPTIONS as qemu-img create -o has them.
make_qcow2() { qemu-img create -q -f qcow2 ${3:+-o "$3"} "$1" "$2"; }

# poke FILE OFFSET BYTES VALUE: a big-endian number of so many bytes.
poke()
{
    local digits i bytes=
    # (A number in hex may be longer than bash can count.)
    if [[ $4 =~ ^0x[0-9a-fA-F]+$ ]]; then
        printf -v digits '%*s' $((2 * $3)) "${4#0x}"
        digits=${digits// /0}
    else
        printf -v digits '%0*x' $((2 * $3)) $(($4))
    fi
    [ ${#digits} -eq $((2 * $3)) ] || fail "poke: $4 has more than $3 bytes"
    for ((i = 0; i < ${#digits}; i += 2)); do
        bytes+="\\x${digits:i:2}"
    done
    # shellcheck disable=SC2059
    printf "$bytes" |
        dd of="$1" bs="$3" seek=$(($2)) oflag=seek_bytes conv=notrunc status=none
}

# peek FILE OFFSET BYTES
peek()
{
    local digits
    digits=$(od -A n -v -t x1 -j $(($2)) -N "$3" "$1")
    printf '%u\n' $((16#${digits//[$' \n']/}))
}
