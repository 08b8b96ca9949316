#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# A file includes its own floor and lower ones, never higher. core/check stands
# beside the image floor and uses base and format alone; filter/ is the only
# folder that knows nbdkit. All includes are written from the root of the tree.

. "${srcdir:-$(dirname "$0")/..}"/tidy/functions.sh

# floor_of FILE: the name of the floor that a file stands on.
floor_of()
{
    case $1 in
        core/disk*.h|core/disk*.cpp) echo disk ;;
        core/*/*) local rest=${1#core/}; echo "${rest%%/*}" ;;
        filter/*) echo filter ;;
        tests/*) echo tests ;;
        *) echo unknown ;;
    esac
}

# may_include FLOOR: the floors below it, and itself.
may_include()
{
    case $1 in
        base) echo "base" ;;
        format) echo "base format" ;;
        image) echo "base format image" ;;
        check) echo "base format check" ;;
        bitmap) echo "base format image bitmap" ;;
        disk) echo "base format image check bitmap disk" ;;
        control) echo "base format image check bitmap disk control" ;;
        filter) echo "base format image check bitmap disk control filter" ;;
        tests) echo "base format image check bitmap disk control filter tests" ;;
    esac
}

while read -r file; do
    case $file in *.h|*.cpp) ;; *) continue ;; esac
    floor=$(floor_of "$file")
    allowed=" $(may_include "$floor") "
    [ "$floor" != unknown ] && [ "$allowed" != "  " ] ||
        { problem "$file: stands on no floor"; continue; }
    while IFS=: read -r line header; do
        [ -f "$header" ] || { problem "$file:$line: \"$header\" is no file, seen from the root"; continue; }
        case $allowed in
            *" $(floor_of "$header") "*) ;;
            *) problem "$file:$line: $floor may not include $header" ;;
        esac
    done < <(sed -n -E '/^[[:space:]]*#[[:space:]]*include[[:space:]]*"/{=;s/.*"(.*)".*/\1/;p}' "$file" | paste -d: - -)
    case $floor in
        filter|tests) ;;
        *)
            ! grep -nE '#[[:space:]]*include[[:space:]]*<nbdkit' "$file" ||
                problem "$file: only filter/ knows nbdkit" ;;
    esac
done < <(tree_files core filter tests)

finish
