"""Runs `annotate` once per line of its standard input, each time in a process of its own: a start then costs no
imports. Parts close early, so that there is much to interrupt.

A line is JSON, [arguments, kill_at]: the process kills itself just before its kill_at-th operation on a file of
the run (0: it does not). Written back: its id and, when it has ended, its exit status.
"""

from __future__ import annotations

import json
import os
import signal
import sys

import pyarrow
import pyarrow.parquet
import torch
from PIL import Image

import annotator.console
import annotator.models.packs
import annotator.pipeline
from annotator import cli, ledger, run

IMPORTED = (annotator.console, annotator.models.packs, annotator.pipeline, pyarrow.parquet, torch)
OPERATIONS = ("open", "os.mkdir", "os.rename", "os.remove")


def kill_before(operation: int, folder: str) -> None:
    left = operation

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal left
        if event in OPERATIONS and str(arguments[0]).startswith(folder):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def annotate(arguments: list[str]) -> int:
    sys.argv[1:] = arguments
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def serve() -> None:
    annotate(["status", "nowhere"])  # an error, but with it the command line is imported
    pyarrow.array([0])  # with the first one pyarrow imports pandas
    Image.init()
    run.PART_ROWS, run.PART_SECONDS, ledger.LEDGER_PARTS = 12, 0.15, 3
    for line in sys.stdin:
        arguments, kill_at = json.loads(line)
        process = os.fork()
        if not process:
            kill_before(kill_at, arguments[arguments.index("--out") + 1])
            os._exit(annotate(arguments))
        print(process, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
