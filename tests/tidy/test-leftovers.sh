#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# Nothing is left that was meant to be done; every source says whose it is;
# the lines are clean.

. "${srcdir:-$(dirname "$0")/..}"/tidy/functions.sh

marker="FIX""ME|XX""X|TO""DO"

mapfile -t files < <({
    tree_files core filter tests tools man | grep -E '\.(h|cpp|sh|py|am|mk|pod|md|syms)$'
    ls configure.ac Makefile.am common-rules.mk bootstrap .ci/run README.md
})

while read -r line; do
    problem "$line"
done < <(grep -HnwE "$marker" "${files[@]}")

# What an image says is written by quote() or shell_word(): quotes of one's own keep nothing in.
# (The sentences of core/control are QEMU's, and leave as JSON in ASCII.)
while read -r line; do
    problem "$line: quotes made by hand"
done < <(tree_files core filter | grep -E '\.(h|cpp)$' |
    xargs grep -HnE "'\" *\+|'\{" | grep -vE '^core/(base/log\.cpp|control/.*):')

# Sentences are formats, which the compiler compares with their arguments (base/formatted.h).
while read -r line; do
    problem "$line: a sentence that is put together by +"
done < <(tree_files core filter | grep -E '\.(h|cpp)$' |
    xargs grep -HnE "[a-z:)] \" *\+|\+ *\"[^\"]* [a-z(]" | grep -v ': *//')

# `new` has its memory before its arguments: who leaves the function by TRY takes it along.
while read -r line; do
    problem "$line: TRY among the arguments of new"
done < <(tree_files core filter tests | grep -E '\.(h|cpp)$' | xargs perl -0ne '
    while (/\bnew\s+[\w:]+\s*\([^;{}]*?\bTRY\(/g) {
        printf "%s:%d\n", $ARGV, 1 + substr($_, 0, $-[0]) =~ tr/\n//;
    }')

while read -r line; do
    problem "$line: white space at the end"
done < <(grep -HnE '[[:blank:]]+$' "${files[@]}" | cut -d: -f1,2)

while read -r file; do
    case $file in
        *.md|*.pod) ;;
        *) problem "$file: no SPDX-License-Identifier" ;;
    esac
done < <(grep -L 'SPDX-License-Identifier: BSD-3-Clause' "${files[@]}")

finish
