# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# Runs the program qcow2bitmap many times: Python and what the program imports are loaded
# once, and each run is a fork of that. For a tenth of the price it is a process of its own,
# which can be killed. On standard input there is a line of JSON for each run,
#
#     {"words": [...], "user": ..., "environment": {...}, "out": FILE, "err": FILE}
#
# and on standard output the exit status of each. (tool.py is the other side.)

import gc
import json
import os
import sys

sys.path.insert(0, sys.argv[1])
import cli  # noqa: E402


def run(order):
    for number, path in ((1, order["out"]), (2, order["err"])):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(order["environment"])
    if order["user"]:
        os.setuid(order["user"])
    try:
        status = cli.main(order["words"])
    except SystemExit as end:
        status = end.code
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


gc.freeze()
for line in iter(sys.stdin.readline, ""):
    pid = os.fork()
    if pid == 0:
        run(json.loads(line))
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
