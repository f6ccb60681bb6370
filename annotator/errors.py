"""The one error tree. A message is one line: what was expected, what was found, what to do."""

from __future__ import annotations

from annotator.visible import visible_line


class AnnotatorError(Exception):
    """Something the user can mend; the command line prints it as one line, without a traceback.

    Whatever file names and libraries put into it, the message is one line of characters that can be seen.
    """

    def __str__(self) -> str:
        return visible_line(super().__str__())


class ConfigError(AnnotatorError):
    """A flag, a parameter or a configuration file is wrong."""


class VocabularyError(ConfigError):
    """A class list is wrong; the message starts with `file:line`."""


class ImageError(AnnotatorError):
    """One photo cannot be used. It is skipped, and the run records it as failed with the reason."""


class UnclearError(ImageError):
    """One photo cannot be read, or its decoder dies: its fault, or that of a disk, a mount, a store or a machine."""


class WeightsError(AnnotatorError):
    """Weights are missing, damaged, unsafe or of the wrong shape."""


class RunError(AnnotatorError):
    """A run directory cannot be read, written or resumed."""


class BrokenError(RunError):
    """What reads or labels photos no longer works. No photo is to blame: those under way are left open."""
