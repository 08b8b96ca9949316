#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# Every header compiles when it is the first that is included, and twice. Where
# X.cpp includes X.h before all else, its compilation has shown that already.

. "${srcdir:-$(dirname "$0")/..}"/tidy/functions.sh

[ -n "${CXX:-}" ] && [ -n "${PROJECT_CXXFLAGS:-}" ] || skip "needs CXX and PROJECT_CXXFLAGS: run it by make check"

compile_alone()
{
    printf '#include "%s"\n#include "%s"\n' "$1" "$1" |
        $CXX $PROJECT_CXXFLAGS -fsyntax-only -I. -x c++ - ||
        { echo "$1 does not compile alone"; return 1; }
}
export -f compile_alone
export CXX PROJECT_CXXFLAGS

headers=()
while read -r header; do
    grep -q '^#pragma once$' "$header" || problem "$header: no #pragma once"
    source=${header%.h}.cpp
    if [ -f "$source" ] &&
        [ "$(grep -m 1 '^#include' "$source")" = "#include \"$header\"" ]; then
        continue
    fi
    headers+=("$header")
done < <(tree_files core filter tests | grep '\.h$')

echo "${#headers[@]} headers that no source includes first"
printf '%s\n' "${headers[@]}" | xargs -P "$(nproc)" -I{} bash -c 'compile_alone {}' ||
    problem "headers that do not compile alone: see above"

finish
