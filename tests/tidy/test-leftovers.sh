#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# Nothing is left that was meant to be done; every source says whose it is;
# the lines are clean.

. "${srcdir:-$(dirname "$0")/..}"/tidy/functions.sh

marker="FIX""ME|XX""X|TO""DO"

while read -r file; do
    case $file in
        *.h|*.cpp|*.sh|*.py|*.am|*.mk|*.pod|*.ac|*.md|*.syms|bootstrap|.ci/run) ;;
        *) continue ;;
    esac
    while read -r line; do
        problem "$file:$line"
    done < <(grep -nwE "$marker" "$file" || true)
    while read -r line; do
        problem "$file:$line: white space at the end"
    done < <(grep -nE '[[:blank:]]+$' "$file" | cut -d: -f1 || true)
    case $file in
        *.md|*.pod) ;;
        *)
            head -n 4 "$file" | grep -q 'SPDX-License-Identifier: BSD-3-Clause' ||
                problem "$file: no SPDX-License-Identifier at the top" ;;
    esac
done < <(tree_files core filter tests man; ls configure.ac Makefile.am common-rules.mk bootstrap .ci/run README.md)

finish
