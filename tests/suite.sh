#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# suite.sh: builds and tests in another release of Debian, as a newcomer does
# there. `make check-suite SUITE=sid` runs it. All is said by variables:
#
#   SUITE       trixie, sid, ...; what debootstrap knows
#   ARCH        amd64, i386, ...; that of this machine
#   STEPS       targets of make, in this order: "demo check". Empty: the chroot is made, with
#               all packages, and no more
#   COMPILERS   "g++-13 clang++-19": no steps, but for each of them an empty
#               folder, configure --enable-werror, make, and the programs of
#               `make check`; the unit tests among them are run
#   TESTS       as for `make check`; QCOW2_EVERY as for its programs (tests/support/random.h)
#   CONFIGURE   arguments of configure, "CXXFLAGS=-O0" for those in a hurry
#   CHROOTS     the folder where chroots are kept (chroot.sh). One that is there is used
#               again, packages and all.
#   FRESH       yes: it is made anew
#   KEEP        yes: what was built there is not built again where it is no older
#   RESULTS     the folder for logs and the table: tests/suites in the build tree
#
# It works as root. The last lines are a row for a table (RESULTS/table.md has those
# of all runs) and the sum: N passed, N failed, N skipped.

set -u -o pipefail

# shellcheck source=tests/chroot.sh
. "$(dirname "$0")/chroot.sh"
steps=${STEPS-demo check}
compilers=${COMPILERS-}
results=${RESULTS:-suites}
root=$chroots/$suite-$arch

cd "$(dirname "$0")/.." || exit 1
case $results in /*) ;; *) results=$OLDPWD/$results ;; esac

# --- In the chroot: these functions are sent there.

# Debian's versions, for the table.
versions()
{
    local package
    for package in nbdkit g++ libboost-dev qemu-utils python3-libnbd; do
        dpkg-query -W -f '${Version} | ' "$package" | sed -E 's/^[0-9]+://; s/[-+][^ ]*//'
    done
}

# run_step TARGET: its output, and what failed. A target that ends well without
# counting is one that passed.
run_step()
{
    local target=$1 status trs
    echo
    echo "=== $suite: make $target"
    make --no-print-directory "$target" ${TESTS:+TESTS="$TESTS"} </dev/null 2>&1 | tee step.out
    status=${PIPESTATUS[0]}
    if ! grep -qE '^[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped$' step.out; then
        if [ "$status" -eq 0 ]; then
            echo "1 passed, 0 failed, 0 skipped"
        else
            echo "0 passed, 1 failed, 0 skipped"
        fi
        return
    fi
    find tests -name '*.trs' | while read -r trs; do
        grep -q '^:test-global-result: FAIL' "$trs" || continue
        echo "--- ${trs%.trs}.log"
        tail -n 60 "${trs%.trs}.log"
    done
}

# try_compiler NAME: one result.
try_compiler()
{
    local folder=/compilers/$1 package=${1/clang++/clang}
    echo
    echo "=== $suite: $1"
    apt-get -q -y --no-install-recommends install "$package" </dev/null >/dev/null || return
    rm -rf "$folder"
    mkdir -p "$folder" && cd "$folder" || return
    /src/configure -q --enable-werror CXX="$1" CC="${package/g++/gcc}" CXXFLAGS=-O1 \
        >configure.out || { cat configure.out; return 1; }
    make --no-print-directory -s -j"$(nproc)" &&
        make --no-print-directory -s -j"$(nproc)" check \
            TESTS="$(echo unit/{base,check,filter,format,image,support}_tests)"
}

in_chroot()
{
    local compiler step
    cd /src || return
    if [ -n "$compilers" ]; then
        ./bootstrap --no-configure || return
        for compiler in $compilers; do
            if (try_compiler "$compiler"); then
                echo "$compiler: 1 passed"
            else
                echo "$compiler: 1 failed"
            fi
        done
        return
    fi
    [ -n "$steps" ] || { ./bootstrap --packages-only; return; }
    ./bootstrap -- $configure || return
    for step in $steps; do
        run_step "$step"
    done
    echo "versions: $(versions)"
}

# --- Outside.

# The files that git knows or would add; all of them where there is no git.
copy_tree()
{
    [ "${KEEP:-no}" = yes ] || rm -rf "$root/src"
    mkdir -p "$root/src" || return
    if git ls-files >/dev/null 2>&1; then
        git ls-files -z --cached --others --exclude-standard |
            while IFS= read -r -d '' file; do
                [ ! -f "$file" ] || printf '%s\0' "$file"
            done | tar -cf - --null -T -
    else
        tar -cf - --exclude=.git .
    fi | tar -xf - -C "$root/src"
}

[ "${FRESH:-no}" = no ] || rm -rf "$root"
make_chroot "$root"
copy_tree || die "the sources cannot be copied"
mkdir -p "$results"
log=$results/$suite-$arch.log
began=$SECONDS
enter_chroot "$root" "
$(declare -f versions run_step try_compiler in_chroot)
suite=$suite steps='$steps' compilers='$compilers' configure='${CONFIGURE-}' TESTS='${TESTS-}'
export QCOW2_EVERY='${QCOW2_EVERY-}'
in_chroot" 2>&1 | tee "$log"
status=${PIPESTATUS[0]}
[ -n "$steps$compilers" ] || exit "$status"

passed=0 failed=0 skipped=0
if [ -n "$compilers" ]; then
    passed=$(grep -cE '^[^ ]+: 1 passed$' "$log") failed=$(grep -cE '^[^ ]+: 1 failed$' "$log")
else
    while read -r p _ f _ s _; do
        passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
    done < <(grep -E '^[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped$' "$log")
fi
[ "$status" -eq 0 ] || failed=$((failed + 1))

echo
say "$(((SECONDS - began) / 60)) min $(((SECONDS - began) % 60)) s; all of it is in $log"
table=$results/table.md
if [ ! -f "$table" ]; then
    {
        echo "| suite | nbdkit | g++ | Boost | QEMU | libnbd | run | passed | failed | skipped |"
        echo "|---|---|---|---|---|---|---|---:|---:|---:|"
    } >"$table"
fi
found=$(sed -n 's/^versions: //p' "$log" | tail -n 1)
run=${compilers:-make $steps${CONFIGURE:+ ($CONFIGURE)}}
echo "| $suite, $arch | ${found:-| | | | | }$run | $passed | $failed | $skipped |" | tee -a "$table"
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
