"""The installed command, killed again and again; `python tests/tools/kill_command.py --kills 200` does more of it."""

from __future__ import annotations

import re
import subprocess

import pytest
from helpers_runs import ROOT, environment, python


@pytest.mark.slow
@pytest.mark.stress
def test_kills_of_the_installed_command_leave_no_trace() -> None:
    command = python(ROOT / "tests" / "tools" / "kill_command.py", "--kills", "6", "--photos", "60", "--seed", "3")
    done = subprocess.run(command, env=environment(), stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert re.search(r"^6 kills of annotate, \d+ runs to their end, 0 faults$", done.stdout, re.MULTILINE), done.stdout
