#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# Every header compiles when it is the first that is included, and twice. Where some
# source includes it before all else, that is shown where each source is compiled
# alone: with configure --disable-unity, as one step of .ci/run does.

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

while read -r header; do
    problem "$header: no #pragma once"
done < <(tree_files core filter tests | grep '\.h$' | xargs grep -L '^#pragma once$')

# Those that some compilation begins with: a source has them first, or a header
# does that has been found to be first itself.
list=$(tree_files core filter tests | grep -E '\.(h|cpp)$' | xargs awk '
    FNR == 1 { seen = 0; if (FILENAME ~ /\.h$/) header[FILENAME] = 1 }
    /^#include/ && !seen { seen = 1; if ($2 ~ /^"/) first[FILENAME] = substr($2, 2, length($2) - 2) }
    END {
        for (file in first)
            if (file ~ /\.cpp$/)
                for (f = first[file]; f in header; f = first[f])
                    delete header[f]
        for (file in header)
            print file
    }' | LC_ALL=C sort) || problem "the headers cannot be listed"
mapfile -t headers <<<"$list"

echo "${#headers[@]} headers that no source includes first"
printf '%s\n' "${headers[@]}" | xargs -P "$(nproc)" -I{} bash -c 'compile_alone {}' ||
    problem "headers that do not compile alone: see above"

finish
