"""torchvision is importable, with or without its compiled operators."""

from __future__ import annotations

import subprocess
import sys

import pytest

CASES = """
import sys
from annotator.models.compat import prepare_torchvision
assert "torch" not in sys.modules, "work was done at import"
prepare_torchvision()
prepare_torchvision()
import open_clip, timm, torchvision
import torch
assert torch.ops.torchvision.nms  # the operator is known to torch, compiled or declared
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.slow
def test_open_clip_and_timm_can_be_imported() -> None:
    result = run(CASES)
    assert result.returncode == 0, result.stderr


def test_other_errors_of_torchvision_come_through() -> None:
    """Only the missing operator is mended."""
    result = run(
        "import sys, types\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        import importlib.machinery\n"
        "        return importlib.machinery.ModuleSpec(name, self) if name == 'torchvision' else None\n"
        "    def create_module(self, spec): return None\n"
        "    def exec_module(self, module): raise RuntimeError('torchvision is upset')\n"
        "sys.meta_path.insert(0, Finder())\n"
        "from annotator.models.compat import prepare_torchvision\n"
        "prepare_torchvision()\n"
    )
    assert "RuntimeError: torchvision is upset" in result.stderr
