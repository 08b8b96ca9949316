#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# qcow2-check=: the image is checked or repaired, the result printed, and nothing is
# served; the exit code tells sound (0), leaks (3) and corrupt (2) apart, as that of
# qemu-img check does.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

# maintain STATUS ARGUMENTS...: nbdkit, which must end with this exit status by
# itself; what it printed is in out.
maintain()
{
    local expected=$1 status=0
    shift
    echo "$expected" >status
    rm -f main.sock
    timeout "$patience" "${nbdkit_command[@]}" -U "$tmp/main.sock" --filter="$FILTER" "$@" \
        >out 2>main.log </dev/null || status=$?
    [ "$status" -eq "$expected" ] ||
        fail "exit status $status, expected $expected: nbdkit $*"$'\n'"$(cat out main.log)"
}

qemu_says() { local status=0; qemu-img check -q -f qcow2 disk.qcow2 >/dev/null 2>&1 || status=$?; echo "$status"; }

# printed PATTERN
printed() { grep -qE -- "$1" out || fail "not printed: '$1', but:"$'\n'"$(cat out)"; }

# An image with data; a leaked cluster; a cluster without its refcount. The first
# block of refcounts has 2 bytes for each cluster.
make_sound() { rm -f disk.qcow2; make_qcow2 disk.qcow2 64M; qemu-io -f qcow2 -c 'write -P 0x41 0 640k' disk.qcow2 >/dev/null; }
make_leaky() { make_sound; poke disk.qcow2 $((0x20000 + 2 * 100)) 2 1; truncate -s $((101 * 65536)) disk.qcow2; }
make_corrupt() { make_sound; poke disk.qcow2 $((0x20000 + 2 * 5)) 2 0; }

# The words at the prompt, a daemon or not; the same above a filter and a plugin
# that hide which file it is.
layers=("file disk.qcow2" "-f file disk.qcow2" "-f --filter=offset file disk.qcow2 offset=0")
for layer in "${layers[@]}"; do
    step "report: $layer"
    # shellcheck disable=SC2086
    for image in sound leaky corrupt; do
        "make_$image"
        before=$(file_state disk.qcow2)
        case $image in
        sound)
            maintain 0 $layer qcow2-check=report
            printed '^0 corruptions, 0 leaked clusters$'
            ;;
        leaky)
            maintain 3 $layer qcow2-check=report
            printed '^refcount_too_high: .*host cluster 0x640000'
            printed '^0 corruptions, 1 leaked clusters$'
            ;;
        corrupt)
            maintain 2 $layer qcow2-check=report
            printed '^refcount_too_low: .*host cluster 0x50000'
            printed '^copied_flag_wrong: '
            ;;
        esac
        same "$(qemu_says)" "$(cat status)" "not what qemu-img check says"
        maintain "$(case $image in sound) echo 0 ;; leaky) echo 3 ;; *) echo 2 ;; esac)" -r $layer qcow2-check=report
        same "$(file_state disk.qcow2)" "$before" "changed by a report"
    done

    step "leaks: $layer"
    # shellcheck disable=SC2086
    {
        make_sound
        before=$(file_state disk.qcow2)
        maintain 0 $layer qcow2-check=leaks
        same "$(file_state disk.qcow2)" "$before"
        make_leaky
        maintain 0 $layer qcow2-check=leaks
        printed 'repaired; now:'
        check_image disk.qcow2
        make_corrupt
        maintain 2 $layer qcow2-check=leaks
        ! qemu-img check -q -f qcow2 disk.qcow2 2>/dev/null || fail "leaks has repaired more than that"

        step "all: $layer"
        maintain 0 $layer qcow2-check=all
        check_image disk.qcow2
        maintain 0 $layer qcow2-check=report
        make_leaky
        maintain 0 $layer qcow2-check=all
        check_image disk.qcow2
    }
done

step "over memory: nothing that could be checked"
maintain 1 -f memory 1M qcow2-check=report
server_said 'qcow2-check=report: not a qcow2 image'

step "an error in the middle"
requires_filter error
make_corrupt
maintain 1 -f --filter=error --filter=offset file disk.qcow2 offset=0 error-pwrite=EIO error-pwrite-rate=100% qcow2-check=all
server_said 'qcow2-check=all: .*[Ii]nput/output error'
maintain 0 file disk.qcow2 qcow2-check=all

step "the bit of a crash, and that of corruption"
make_sound
poke disk.qcow2 72 8 1
maintain 0 file disk.qcow2 qcow2-check=all
same "$(peek disk.qcow2 72 8)" 0
make_corrupt
poke disk.qcow2 72 8 3
maintain 0 file disk.qcow2 qcow2-check=all
same "$(peek disk.qcow2 72 8)" 0

step "refused at the prompt"
refused 'qcow2-check=maybe: the word must be report, leaks or all' file disk.qcow2 qcow2-check=maybe
refused 'one maintenance key at a time' file disk.qcow2 qcow2-check=report qcow2-check=all
refused 'qcow2-check=all asks for a change, but the server is read-only .-r.' -r file disk.qcow2 qcow2-check=all
refused 'add -f' --filter=offset file disk.qcow2 qcow2-check=report
start other qemu-nbd -t -f qcow2 -k "$tmp/other.sock" --pid-file="$tmp/other.pid" disk.qcow2
refused 'another process has it open for writing' file disk.qcow2 qcow2-check=report
refused 'another process' file disk.qcow2 qcow2-check=all

step "bitmap= and the like are for serving"
kill_server other
maintain 0 file disk.qcow2 bitmap=b0 qcow2-check=report
same "$(bitmap_info disk.qcow2 b0)" ""

step "a bitmap that was not stored is said, and is no corruption"
qemu-img bitmap --add disk.qcow2 b1
serve file disk.qcow2 bitmap-sync=on-close
# Killed while it is connected: when the last client has gone all is stored.
client main "${server_pids[main]}" <<<'h.pwrite(b"x", 0); h.flush(); os.kill(int(sys.argv[1]), 9)'
kill_server
maintain 0 file disk.qcow2 qcow2-check=report
printed "^note: bitmap 'b1' is inconsistent .in_use."
maintain 0 file disk.qcow2 qcow2-check=leaks
printed "^note: bitmap 'b1' is inconsistent .in_use."
check_image disk.qcow2
