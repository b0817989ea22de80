"""The command line: parse, call, print. No logic, and nothing heavy imported before a command runs."""

from __future__ import annotations

import errno
import os
import sys

from tlsearch.safe_text import for_terminal

DEBUG = "TLSEARCH_DEBUG"
"""The variable that has unexpected errors print where they came from."""
FULL = (errno.ENOSPC, errno.EDQUOT)
"""Of a disk, or of another place for output."""
MAX_LINE = 1000
"""Characters of a line of an error that are printed."""


def main() -> None:
    """Entry point of ``tlsearch``: runs a command, turns errors into sentences and exit codes.

    0 done, 1 the work failed, 2 the user's input is wrong, 130 interrupted.
    """
    from tlsearch import gc_tuning
    from tlsearch.cli import defaults, streams
    from tlsearch.cli.app import app
    from tlsearch.errors import TlsearchError

    streams.set_up()
    try:
        defaults.apply()
        app(prog_name="tlsearch")
    except TlsearchError as error:
        print(f"Error: {harmless(error.message)}", file=sys.stderr)
        if error.hint:
            print(harmless(error.hint), file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        if error.errno not in FULL:
            _tell_unexpected(error)
            sys.exit(1)
        print(f"Error: {harmless(error.filename or 'The output')}: {error.strerror}.", file=sys.stderr)
        print("Free some space, then run the same command again to continue.", file=sys.stderr)
        streams.drop_output()
        sys.exit(1)
    except Exception as error:  # noqa: BLE001 - a page of Python helps nobody who hasn't written it
        _tell_unexpected(error)
        sys.exit(1)
    finally:
        gc_tuning.spare()


def _tell_unexpected(error: Exception) -> None:
    """One line of an error that nobody foresaw, and a file that says where it came from."""
    import tempfile
    import traceback

    said = harmless(str(error)).strip().partition("\n")[0]
    print(f"Error: {type(error).__name__}{f': {said}' if said else ''}", file=sys.stderr)
    details = "".join(traceback.format_exception(error))
    try:
        if os.environ.get(DEBUG, "") not in ("", "0"):
            raise OSError  # it is wanted here
        handle, place = tempfile.mkstemp(prefix="tlsearch-error-", suffix=".txt")
        with open(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(details)
    except OSError:  # nor is there a folder for temporary files
        print(details, file=sys.stderr)
        return
    print(
        f"This error is unexpected. Its traceback is in {place}: please report it with that file. "
        f"{DEBUG}=1 prints the traceback here.",
        file=sys.stderr,
    )


def harmless(text: str) -> str:
    """A message without what a terminal would take for orders in the names that it repeats, and no novel."""
    lines = [for_terminal(line) for line in text.splitlines()]
    return "\n".join(
        line if len(line) <= MAX_LINE else f"{line[:MAX_LINE]}... ({len(line)} characters)" for line in lines
    )
