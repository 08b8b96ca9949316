#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# fuzz.sh PROGRAM...
#
# `make fuzz`: each harness with libFuzzer, from its corpus and what earlier runs have found
# (fuzz/found) on; one at a time on each processor, so that all have ended after about
# FUZZ_SECONDS. The images, of which there are most, have a processor of their own. Says how
# often each was run, and how many edges of the program it has seen. An input that something is
# wrong with is fuzz/found/NAME.wrong-*: as hexadecimal digits (xxd -p) a line for the corpus.

set -u -o pipefail

builddir=${builddir:?is not set: run this by make fuzz}
srcdir=${srcdir:?}
FUZZ_SECONDS=${FUZZ_SECONDS:?}
found=$builddir/fuzz/found
export ASAN_OPTIONS=quarantine_size_mb=32:${ASAN_OPTIONS-}
export UBSAN_OPTIONS=print_stacktrace=1:${UBSAN_OPTIONS-}

# corpus NAME: as files, which libFuzzer reads.
corpus()
{
    local base=$srcdir/fuzz/$1 line number=0
    mkdir -p "$found/$1.corpus" "$found/$1"
    if [ -d "$base-corpus" ]; then
        cp "$base-corpus"/* "$found/$1.corpus"
        return
    fi
    while read -r line _; do
        case $line in '' | '#'*) continue ;; esac
        number=$((number + 1))
        "$PYTHON" -c 'import sys; sys.stdout.buffer.write(bytes.fromhex(sys.argv[1]))' "$line" \
            >"$found/$1.corpus/$number"
    done <"$base.corpus"
}

# fuzz NAME SECONDS
fuzz()
{
    local log=$found/$1.log executed edges
    corpus "$1"
    "$builddir/fuzz/$1_fuzzer" -max_total_time="$2" -timeout=25 -rss_limit_mb=1024 -max_len=4096 \
        -print_final_stats=1 -artifact_prefix="$found/$1.wrong-" "$found/$1" "$found/$1.corpus" >"$log" 2>&1
    local status=$?
    executed=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    edges=$(grep -oE 'cov: [0-9]+' "$log" | tail -n 1)
    if [ "$status" -ne 0 ]; then
        tail -n 40 "$log"
        echo "$1: FOUND something (all that was said is in $log); to repeat it:" \
            "$builddir/fuzz/$1_fuzzer" "$found/$1.wrong-"*
        return 1
    fi
    echo "$1: $executed runs, ${edges#cov: } edges, nothing found in $2 s"
}

fuzz image "$FUZZ_SECONDS" &
images=$!
status=0
for program in "$@"; do
    name=$(basename "${program%_fuzzer}")
    [ "$name" = image ] || fuzz "$name" $((FUZZ_SECONDS / ($# - 1) + 1)) || status=1
done
wait "$images" || status=1
exit $status
