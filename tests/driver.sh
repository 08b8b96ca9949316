#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# driver.sh NAME
#
# Runs one test in the folder tests/ of the build tree. What it says goes to
# BASE.log, its results to BASE.trs (BASE is NAME without .sh or .py), in the
# format of automake's .trs files. It always exits 0: summary.sh counts.
# NAME@2of3 is the second of three parts of a program.
#
# A script or plain program is one result, by its exit code: 0 passed, 77
# skipped, all else failed. A Boost.Test program is one result for each test
# case, so that what is counted at the end is what was tested.

set -u

name=$1
# Memory that was not set, or is used after free, is not zero: in our programs
# and in the servers with our filter. (QEMU and Python would only be slower.)
perturb=${MALLOC_PERTURB_-$(($$ % 255 + 1))}
case $name in
    *.sh) base=${name%.sh} command=(bash "$srcdir/$name") ;;
    *.py) base=${name%.py} command=("$PYTHON" "$srcdir/$name") ;;
    *)
        base=$name
        command=(env MALLOC_PERTURB_="$perturb" "$builddir/${name%@*}")
        case $name in *@*) export QCOW2_PART=${name#*@} ;; esac
        export QCOW2_RARE=$PWD/$base.rare ;;
esac
log=$base.log
report=$base.report
mkdir -p "$(dirname "$base")"
rm -f "$report" "$base.trs" "$base.rare"

export srcdir builddir top_srcdir top_builddir
export FILTER SANITIZER_PRELOAD PYTHON CXX PROJECT_CXXFLAGS
export LC_ALL=C
export PYTHONDONTWRITEBYTECODE=1
export FILTER_MALLOC_PERTURB=$perturb
unset MALLOC_PERTURB_
export UBSAN_OPTIONS=print_stacktrace=1:${UBSAN_OPTIONS-}
# Freed memory is watched for its next 32 MB. With 256, ASan's own choice, no block is ever
# used again while the cache has it, and the crash tests take a quarter longer. Two functions
# are noted for each block, as who has allocated or freed it: a tenth less time than with thirty.
# (ASAN_OPTIONS=malloc_context_size=30 for one that has to be found.)
export ASAN_OPTIONS=quarantine_size_mb=32:malloc_context_size=2:${ASAN_OPTIONS-}
# Programs other than Boost.Test's do not look at these.
export BOOST_TEST_REPORT_LEVEL=detailed
export BOOST_TEST_REPORT_FORMAT=XML
export BOOST_TEST_REPORT_SINK=$report
export BOOST_TEST_LOG_LEVEL=test_suite
export BOOST_TEST_COLOR_OUTPUT=no
# A crash is for the sanitizer and the core file, not for an exception.
export BOOST_TEST_CATCH_SYSTEM_ERRORS=no

# The test has a process group of its own, that of `timeout`: whatever it has
# left behind ends with it.
SECONDS=0
timeout --kill-after=20 "$TEST_TIMEOUT" "${command[@]}" >"$log" 2>&1 </dev/null &
group=$!
trap 'kill -TERM -- "-$group"; exit 130' INT TERM
wait "$group"
status=$?
kill -KILL -- "-$group" 2>/dev/null
took=$SECONDS
# In whole seconds: 1m2.345s -> 62. The second line of `times` is that of what was
# waited for, the time in programs and that in the kernel.
whole_seconds() { local t=${1%.*}; echo $((10#${t%m*} * 60 + 10#${t#*m})); }
times >"$log.times"
{ read -r; read -r in_programs in_kernel; } <"$log.times"
rm -f "$log.times"
cpu=$(($(whole_seconds "$in_programs") + $(whole_seconds "$in_kernel")))

case $status in
    0) verdict=PASS ;;
    77) verdict=SKIP ;;
    *) verdict=FAIL ;;
esac
results=
[ ! -f "$report" ] || results=$("$PYTHON" -IS "$srcdir/boost_results.py" "$report")
# One result for the whole: of a script, or of a program that ended otherwise
# than its cases say (a crash, a time limit).
if [ -z "$results" ] || { [ $verdict != PASS ] && ! grep -q '^FAIL ' <<<"$results"; }; then
    results+=${results:+$'\n'}"$verdict $name"
fi
count=$(wc -l <<<"$results")
rm -f "$report"

{
    sed 's/^/:test-result: /' <<<"$results"
    echo ":test-global-result: $verdict"
} >"$base.trs"

# The line that the user sees; with the reason if the test was skipped, which is
# the last that it said, and with where to look if it failed.
note="$took s, $cpu s of CPU"
[ "$count" -eq 1 ] || note="$count cases, $note"
told=$(
    echo "$verdict: $name ($note)"
    case $verdict in
        SKIP) grep -v '^$' "$log" | tail -n 1 | sed 's/^/    /' ;;
        FAIL)
            grep '^FAIL ' <<<"$results" | head -n 20 | sed 's/^FAIL /    /'
            case $status in 124|137) echo "    stopped by the time limit, $TEST_TIMEOUT s" ;; esac
            echo "    exit status $status; see tests/$log" ;;
    esac
)
echo "$told"
{ echo; sed 's/^/:: /' <<<"$told"; } >>"$log"
