#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# `make bench` in small: it measures, and writes its tables and the picture. What it
# finds is no matter here.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

requires fio qemu-storage-daemon nbdcopy
fio --enghelp 2>/dev/null | grep -qw nbd || skip "fio has no nbd engine"
[ -z "$SANITIZER_PRELOAD" ] || skip "a sanitizer is no thing to measure"

bench() { "$PYTHON" "$srcdir"/bench/bench.py --places=memory "$@"; }

step "every row has a name of its own"
bench --list >rows
same "$(awk '{ print $2 }' rows | sort | uniq -d)" ""
grep -q "^main .* read-4k-16 " rows || fail "no row read-4k-16"

step "a row of each group"
bench --rows=fsync-thin,first-4k-1-1g,connections-1,begin-1g-1,stall-64g-clear --rounds=1 --seconds=0.1 \
    --earlier="$FILTER" --out=out >bench.log 2>&1 ||
    fail "$(cat bench.log)"
grep -q "| 4K, fsync after every write, thin | /s | [0-9.]* | [0-9.]* | [0-9.]* | [0-9.]* |" out/bench.md ||
    fail "no such line: $(cat out/bench.md)"
grep -q "| us / earlier |" out/bench.md || fail "nothing beside an earlier filter"
grep -q "first touch" out/bench.md || fail "no table of price"
grep -q "connections" out/bench.md || fail "no table of growth"
grep -q "| begin, 1G, 1 bitmaps | ms | - | [0-9.]* | [0-9.]* |" out/bench.md || fail "no table of backup"
grep -q "bitmap clear, 64G: longest gap of a writer | ms | [0-9.]* | [0-9.]* |" out/bench.md ||
    fail "no table of control"
"$PYTHON" -c 'import sys, xml.dom.minidom; xml.dom.minidom.parse(sys.argv[1])' out/bench.svg

step "the same tables again"
bench --draw=out/results.json --out=again
same "$(cat again/bench.md)" "$(cat out/bench.md)"
cmp out/bench.svg again/bench.svg

step "a row that is not there"
! bench --rows=nonsense >bench.log 2>&1 || fail "it should be refused"
grep -q "no row is named nonsense" bench.log
