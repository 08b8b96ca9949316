# shellcheck shell=bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# For the tests of tidiness. They start in the root of the source tree.

set -eu -o pipefail

top_srcdir=${top_srcdir:-$(dirname "$0")/../..}
cd "$top_srcdir"

problems=0
problem() { echo "$*"; problems=$((problems + 1)); }

# skip REASON
skip() { echo "$*"; exit 77; }

# The last line of a test.
finish()
{
    [ "$problems" -eq 0 ] || { echo "$problems found"; exit 1; }
}

# tree_files FOLDER...: what git has there; without git, the sources there that make has not made.
tree_files()
{
    if [ -e .git ] && git ls-files >/dev/null 2>&1; then
        git ls-files -- "$@"
    else
        find "$@" -regextype posix-extended -name unity -prune -o \
            -type f -regex '.*\.(am|cpp|h|md|pod|py|sh|syms)' -print
    fi | LC_ALL=C sort
}
