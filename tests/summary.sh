#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# summary.sh FILE.trs ...
#
# Counts the results in the .trs files that driver.sh writes, and ends with
# the line
#     N passed, N failed, N skipped
# A file that is not there is a test that did not run, which is a failure. The
# exit code is 1 if anything failed, or if nothing passed.

set -u

passed=0 failed=0 skipped=0
for trs in "$@"; do
    if [ ! -f "$trs" ]; then
        echo "did not run: ${trs%.trs}"
        failed=$((failed + 1))
        continue
    fi
    while read -r key result name; do
        [ "$key" = ":test-result:" ] || continue
        case $result in
            PASS|XFAIL) passed=$((passed + 1)) ;;
            SKIP) skipped=$((skipped + 1)) ;;
            *)
                echo "failed: ${trs%.trs}: $name"
                failed=$((failed + 1)) ;;
        esac
    done <"$trs"
done

echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
