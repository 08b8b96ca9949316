# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# qcow2bitmap, the program for people: this folder is what Python runs.

import sys

import cli

sys.exit(cli.main(sys.argv[1:]))
