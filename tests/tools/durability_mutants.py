"""Takes out, one by one, what keeps a run whole on a bad day, and says which test notices.

    python tests/tools/durability_mutants.py [NAME ...]

Each mutant is a copy of the package with one text replaced; the tests that follow it must fail on it, and pass without.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
TESTS = (
    "tests/annotator/test_power_cut.py",
    "tests/annotator/test_durability.py",
    "tests/annotator/test_files.py",
    "tests/annotator/test_digests.py",
    "tests/annotator/test_row_check.py",
)


@dataclass(frozen=True)
class Mutant:
    """what: is taken out. file, was, becomes: how; `was` stands there once."""

    what: str
    file: str
    was: str
    becomes: str


TOLD, CHECKED = "told is not None and ", "page_checksum_verification="
MUTANTS = {
    "file-fsync": Mutant("fsync of a file before it has its name", "files", "os.fsync(self.file.fileno())", "pass"),
    "flush": Mutant("flush before that fsync", "files", "self.file.flush()\n", "pass\n"),
    "folder-fsync": Mutant("fsync of the folder after it", "files", "sync_folder(final.parent)", "pass"),
    "new-folder-fsync": Mutant("fsync above a new folder", "files", "sync_folder(each.parent)", "pass"),
    "fsync-of-parts": Mutant("fsync where parts are written", "storage", "(path, durable=True)", "(path)"),
    "fsync-of-moves": Mutant("fsync where files are moved", "storage", "final, durable=True)", "final)"),
    "fsync-of-pulls": Mutant("fsync of pulls", "corrections", '"pull", durable=True)', '"pull")'),
    "fsync-of-undoing": Mutant("fsync of an undone pull", "corrections", '".undone"), durable=True)', '".undone"))'),
    "rename": Mutant("rename (written in place)", "files", "self._hidden = hidden_name(path)", "self._hidden = path"),
    "exclusive": Mutant("exclusive creation", "files", "os.O_CREAT | os.O_EXCL", "os.O_CREAT | os.O_TRUNC"),
    "no-follow": Mutant("refusal of links", "files", "flags | os.O_NOFOLLOW", "flags"),
    "unknowable": Mutant("names that nobody knows", "files", "secrets.token_hex(8)", "os.getpid()"),
    "column-digests": Mutant("digests of a part's columns", "parts", f"{TOLD}(wrong :=", f"{TOLD}False and (wrong :="),
    "span-digest": Mutant("digest of a part's ends", "parts", f"{TOLD}told[_SPAN]", f"{TOLD}False and told[_SPAN]"),
    "row-count": Mutant("count of a part's rows", "parts", f"{TOLD}told.get(", f"{TOLD}False and told.get("),
    "page-checksums": Mutant("page checksums of parts", "parts", f"{CHECKED}True", f"{CHECKED}False"),
    "ledger-digest": Mutant("digest of a ledger's text", "ledger", 'content.pop("digest") != ', "None is "),
    "ledger-columns": Mutant("digests of a ledger's columns", "ledger", "digests_of(found) == told", "BYTES"),
    "batch-digests": Mutant("digests of pulls and shards", "batches", "if wrong := not_", "if False and not_"),
    "batch-count": Mutant("count of batches", "batches", 'len(told["batches"]) != file.num_row_groups', "False"),
    "run-json-digest": Mutant(
        "digest of run.json", "manifest", "content.pop(DIGEST) != ", 'content.pop(DIGEST) == 0 and "" != '
    ),
    "cache-digest": Mutant("digest of a vector", "models/text_cache", "if sealed == _sealed(key, vector)", "if vector"),
}
OTHER_TESTS = {
    "run-json-digest": ("tests/annotator/test_manifest.py",),
    "cache-digest": ("tests/models/test_text_cache.py",),
}


def first_failure(package: Path, tests: tuple[str, ...]) -> str:
    """The first test that fails with that package; "" where all pass."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    paths = {"PYTHONPATH": str(package), "OMP_NUM_THREADS": "1", "PYTHONSAFEPATH": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **paths}, stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode == 0:
        return ""
    found = re.search(r"^(?:FAILED|ERROR) (?:\S*/)?(.+?)(?: - .*)?$", done.stdout, re.MULTILINE)
    return found[1] if found else f"pytest ended with {done.returncode}: {done.stdout[-300:]}"


def survived(name: str, folder: Path) -> bool:
    mutant = MUTANTS[name]
    package = folder / name
    for room in ("annotator", "exporters", "evaluation", "labelers", "configs"):
        shutil.copytree(ROOT / room, package / room)
    file = package / "annotator" / f"{mutant.file}.py"
    text = file.read_text()
    assert text.count(mutant.was) == 1, f"{name}: {mutant.was!r} stands {text.count(mutant.was)} times in {file.name}"
    file.write_text(text.replace(mutant.was, mutant.becomes))
    killer = first_failure(package, OTHER_TESTS.get(name, TESTS))
    print(f"{mutant.what:40} {killer or 'SURVIVED'}", flush=True)
    shutil.rmtree(package)
    return not killer


def main() -> int:
    names = sys.argv[1:] or list(MUTANTS)
    with tempfile.TemporaryDirectory() as folder:
        return sum([survived(name, Path(folder)) for name in names])


if __name__ == "__main__":
    sys.exit(main())
