"""Every error a user can meet, as one tree.

TlsearchError                      says what, what it got, what would be right; ``hint`` is the next step
├── InputError                     the user's input is wrong (exit code 2)
│   ├── SpecError                  a study file
│   ├── UnknownNameError           a strategy, backbone, data set, study or trial that isn't there
│   ├── PluginError                an installed plugin that can't be used
│   ├── DataError                  images, labels, splits
│   ├── WeightsError               pretrained weights that can't be had
│   ├── DatabaseError              a study database that can't be used
│   │   └── UnreachableError       one that can't even be reached
│   ├── BundleError                a model file that can't be loaded or trusted
│   └── StudyConflictError         a study that exists otherwise, or that another driver holds
└── WorkError                      the work itself failed (exit code 1)
    ├── TrialError                 one trial; recorded as FAILED with this reason
    │   └── HookError              a strategy's hook gave what it must not; the reason names the strategy, too
    ├── SearchError                the search has no result
    ├── ExportError                a model that can't be written in a format, or predicts otherwise there
    └── VerificationError          a model that doesn't reproduce its score
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TlsearchError(Exception):
    """Base of every error that tlsearch raises on purpose."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions with keyword-only arguments don't pickle by themselves; workers send these home.
        return (_rebuild, (type(self), self.message, self.hint))


def _rebuild(kind: type[TlsearchError], message: str, hint: str | None) -> TlsearchError:
    return kind(message, hint=hint)


class InputError(TlsearchError):
    """The user's input is wrong; nothing was written."""

    exit_code = 2


class SpecError(InputError):
    """A study file can't be read or doesn't hold a valid study."""


class UnknownNameError(InputError):
    """A name that nothing installed or stored goes by."""


class PluginError(InputError):
    """An installed plugin can't be used: it fails on import, clashes, or speaks another API version."""


class DataError(InputError):
    """The images, labels or splits can't be searched on."""


class WeightsError(InputError):
    """Pretrained weights can't be had or don't fit."""


class DatabaseError(InputError):
    """The study database can't be reached, is too new, or isn't one."""


class UnreachableError(DatabaseError):
    """The server of the study database doesn't answer, or not to this user."""


class BundleError(InputError):
    """A model bundle can't be loaded, or isn't what it was when it was written."""


class StudyConflictError(InputError):
    """A study of that name exists with another definition, or another driver is running it."""


class WorkError(TlsearchError):
    """The input was right and the work failed."""


class TrialError(WorkError):
    """One trial can't go on; it is recorded as FAILED with this message as its reason."""


class HookError(TrialError):
    """A hook of the strategy gave what it must not; whoever records it adds which strategy it was."""


class SearchError(WorkError):
    """The search ended without a result."""


class ExportError(WorkError):
    """A model can't be written in another format, or what was written predicts otherwise."""


class VerificationError(WorkError):
    """A model doesn't reproduce the score that was recorded for it."""


def did_you_mean(name: str, known: Iterable[str], *, prefix: str = "") -> str:
    """``Did you mean "x"?`` for the nearest known name, or an empty string.

    Case doesn't matter; a name that the given one is a part of is near, too. The ``prefix`` stands before all
    known names and isn't compared: the suggestion has it, so that it can be pasted.
    """
    folded = {one.casefold(): one for one in known}
    asked = name.casefold()
    close = difflib.get_close_matches(asked, list(folded), n=1, cutoff=0.6)
    if not close and len(asked) >= SHORTEST_PART:
        close = [one for one in folded if asked in one][:1]
    return f'Did you mean "{prefix}{folded[close[0]]}"?' if close else ""


SHORTEST_PART = 4
"""Letters that a part of a name has at least to stand for it."""
