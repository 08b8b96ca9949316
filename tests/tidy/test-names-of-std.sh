#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# No function of ours has the name of a function template of std. Where an
# argument is of a type of std's, a call finds std's too, and a template that
# takes anything is preferred to ours, as soon as any header brings it in: that
# is another one with each version of the compiler.

. "${srcdir:-$(dirname "$0")/..}"/tidy/functions.sh

[ -n "${CXX:-}" ] || skip "needs CXX: run it by make check"

# Free functions: what begins a line and is called before anything else in it.
mapfile -t names < <(tree_files core filter tests | grep -E '\.(h|cpp)$' |
    xargs grep -hoP '^(?!#|using |namespace |//)[A-Za-z_][^(=;]*?(?<![\w:~])\K[a-z_]\w*(?=\()' |
    LC_ALL=C sort -u)
[ "${#names[@]}" -gt 300 ] || problem "only ${#names[@]} functions found: the pattern is wrong"

# The line that belongs to a name compiles, in the first half, if std has a
# template of that name that can be called, or a class template; in the second,
# if it has a class template.
probe=$(mktemp --suffix=.cpp)
trap 'rm -f "$probe"' EXIT
{
    echo '#include <bits/stdc++.h>'
    printf 'namespace called { template <class T> void probe(T t) { std::%s<T>(t); } }\n' "${names[@]}"
    printf 'namespace classes { template <class T> using probe = typename std::%s<T>; }\n' "${names[@]}"
} >"$probe"
mapfile -t wrong_lines < <(LC_ALL=C $CXX -std=c++20 -fsyntax-only \
    "$($CXX --version | grep -q clang && echo -ferror-limit=0 || echo -fmax-errors=0)" "$probe" 2>&1 |
    sed -n -E 's/^[^ ]*\.cpp:([0-9]+):[0-9]+: (fatal )?error.*/\1/p' | sort -n -u)
declare -A wrong=()
for line in "${wrong_lines[@]}"; do wrong[$line]=yes; done

for i in "${!names[@]}"; do
    called=$((i + 2)) class=$((i + 2 + ${#names[@]}))
    [ -z "${wrong[$called]-}" ] && [ -n "${wrong[$class]-}" ] || continue
    problem "${names[$i]}(): std has a function template of this name"
done

finish
