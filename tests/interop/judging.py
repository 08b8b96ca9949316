# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# What a test says of what it finds, and how long it may take. Used by all modules here.

import os
import sys

sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../e2e"))
from qmp import PATIENCE  # noqa: E402, F401: for all modules here

KiB, MiB, GiB, TiB = 1 << 10, 1 << 20, 1 << 30, 1 << 40


class Limits:
    # Of one case, in seconds: then its servers are killed, and it fails. A busy
    # machine takes ten times what an idle one takes.
    case_seconds = 600 if os.environ.get("SANITIZER_PRELOAD") else 200


class Wrong(Exception):
    """What was shown is not so."""


def expect(is_so, *what):
    if not is_so:
        raise Wrong(" ".join(str(word) for word in what))


def same(found, expected, what):
    if found != expected:
        raise Wrong(f"{what}: found {shorten(found)}, expected {shorten(expected)}")


def shorten(value):
    text = str(value)
    return text if len(text) < 600 else text[:300] + " ... " + text[-200:]
