#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# C++ looks as .clang-format says, as clang-format 14 understands it (the one of Debian 12;
# others differ in details). No line has more than 100 columns, comments and texts included,
# but for raw strings.

. "${srcdir:-$(dirname "$0")/..}"/tidy/functions.sh

mapfile -t files < <(tree_files core filter tests tools | grep -E '\.(h|cpp)$')

while read -r line; do
    problem "$line"
done < <(awk 'length > 100 && !/R"\(/ { print FILENAME ":" FNR ": " length " columns" }' "${files[@]}")
finish

for program in clang-format-14 clang-format; do
    command -v "$program" >/dev/null || continue
    "$program" --version | grep -q ' version 14\.' || continue
    while read -r line; do
        problem "$line"
    done < <(printf '%s\n' "${files[@]}" | xargs -P "$(nproc)" -n 20 "$program" --dry-run 2>&1 | grep -o '^[^ ]*: warning.*')
    [ "$problems" -eq 0 ] || echo "'$program -i FILE' puts it right"
    finish
    exit 0
done
skip "needs clang-format 14"
