#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# boost_results.py REPORT
#
# Prints "PASS suite/case", "FAIL suite/case" or "SKIP suite/case" for each test case
# in a report of Boost.Test (BOOST_TEST_REPORT_FORMAT=XML, level detailed). Of a
# report that was not finished, as of a program that died, it prints nothing.

import sys
import xml.etree.ElementTree

WORDS = {"passed": "PASS", "skipped": "SKIP"}  # failed, aborted, timed-out: FAIL


def cases(suite, path):
    for child in suite:
        name = path + [child.get("name")]
        if child.tag == "TestSuite":
            yield from cases(child, name)
        elif child.tag == "TestCase":
            yield WORDS.get(child.get("result"), "FAIL"), "/".join(name)


try:
    report = xml.etree.ElementTree.parse(sys.argv[1]).getroot()
except (OSError, xml.etree.ElementTree.ParseError):
    sys.exit()
for module in report:  # its name is the program's
    for result, name in cases(module, []):
        print(result, name)
