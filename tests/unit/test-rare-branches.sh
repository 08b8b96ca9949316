#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# The tests have been in every branch that is marked as rare (core/base/rare.h): in those of
# the engine the crash and fault tests, in the filter's its own. This looks at what the
# programs wrote down when they ran.

set -u

skip() { echo "$*"; exit 77; }

[ -n "${TEST_PROGRAMS-}" ] || skip "needs TEST_PROGRAMS: run it by make check or make check-core"
[ -z "${QCOW2_EVERY-}" ] || skip "with QCOW2_EVERY the programs run only a part of what they can"
cd "$builddir" || exit 1
for program in $TEST_PROGRAMS; do
    [ -f "$program.rare" ] || skip "$program has not run to its end: make check-core runs all of them"
done

# shellcheck disable=SC2086
awk -F '\t' '
    function counts() { return FILENAME ~ /^(crash|fault)\// }
    { all[$2] }
    counts() { known[$2] }
    $1 == "been" { ++been[$2]; if (counts()) ++been_there[$2] }
    END {
        for (what in all) {
            ++number
            if (what in known && !(what in been_there)) {
                print "no crash or fault test: " what
                ++missed
            } else if (!(what in been)) {
                print "no test: " what
                ++missed
            } else
                printf "%2d programs: %s\n", been[what], what
        }
        print number + 0 " rare branches, " missed + 0 " of them missed"
        exit missed > 0 || number == 0
    }' ${TEST_PROGRAMS// /.rare }.rare
