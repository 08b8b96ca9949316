#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# `make soak`: what draws from a seed, with seeds that nobody has seen, again and
# again, until it is stopped, SOAK_SECONDS are over, or something is wrong: then
# it says so, with the seed and the command that repeats it. KILLS is how often
# each image of interop/test-kill.py is killed in one turn.
#
# `make soak-backups` (SOAK=backups): the same with backups, and commands of the control
# channel, of a disk in use; IN_USE_SECONDS is how long each kind of image lives in one turn.

set -u -o pipefail

builddir=${builddir:?is not set: run this by make soak}
srcdir=${srcdir:?}
export SEED=random QCOW2_SOAK=1 KILLS=${KILLS:-60} ROUNDS=${ROUNDS:-12}
export IN_USE_SECONDS=${IN_USE_SECONDS:-60}
if [ "${SOAK-}" = backups ]; then
    programs=() scripts=(test-backups-of-a-disk-in-use.py test-control-of-a-disk-in-use.py)
else
    programs=(crash/crash_tests fault/fault_tests model/model_tests)
    scripts=(test-kill.py test-incremental-after-crash.py)
fi
log=$builddir/soak.log
begun=$SECONDS
trap 'echo "stopped after $((SECONDS - begun)) s, $turns turns"; exit 130' INT TERM
turns=0

left() { echo $((begun + SOAK_SECONDS - SECONDS)); }

end()
{
    echo "no violation in $((SECONDS - begun)) s, $turns turns"
    exit 0
}

# turn COMMAND...
turn()
{
    local status=0 limit=()
    if [ -n "${SOAK_SECONDS-}" ]; then
        [ "$(left)" -gt 0 ] || end
        limit=(timeout --foreground "$(left)")
    fi
    "${limit[@]}" "$@" >"$log" 2>&1 || status=$?
    case $status in
        0)
            echo "$((SECONDS - begun)) s: ${1##*/}: $(grep -E 'crash states|cases passed|No errors' "$log" | tail -n 1)"
            [ "${SOAK-}" != backups ] || grep '^    ' "$log" ;;
        77) echo "${1##*/} is skipped: $(tail -n 1 "$log")" ;;
        124) [ -n "${SOAK_SECONDS-}" ] && end ;;
    esac
    case $status in 0|77) return ;; esac
    cp "$log" "$builddir/soak-violation.log"
    tail -n 40 "$log"
    echo "VIOLATION: $1 ended with $status; all it said is in $builddir/soak-violation.log"
    echo "to repeat, what it says after 'repeat with:' or 'again:', with"
    echo "    srcdir=$srcdir builddir=$builddir top_srcdir=$top_srcdir FILTER=$FILTER"
    echo "    KILLS=$KILLS ROUNDS=$ROUNDS IN_USE_SECONDS=$IN_USE_SECONDS"
    exit 1
}

while :; do
    for program in "${programs[@]}"; do
        turn "$builddir/$program" --color_output=no
    done
    for script in "${scripts[@]}"; do
        turn "$srcdir/interop/$script"
    done
    turns=$((turns + 1))
done
