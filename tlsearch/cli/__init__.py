"""The command line: parse, call, print. No logic, and nothing heavy imported before a command runs."""

from __future__ import annotations

import sys

from tlsearch.safe_text import for_terminal

MAX_LINE = 1000
"""Characters of a line of an error that are printed."""


def main() -> None:
    """Entry point of ``tlsearch``: runs a command, turns errors into sentences and exit codes.

    0 done, 1 the work failed, 2 the user's input is wrong, 130 interrupted.
    """
    from tlsearch import rare_gc
    from tlsearch.cli import defaults
    from tlsearch.cli.app import app
    from tlsearch.errors import TlsearchError

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
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        sys.stderr.close()
        sys.exit(0)
    finally:
        rare_gc.spare()


def harmless(text: str) -> str:
    """A message without what a terminal would take for orders in the names that it repeats, and no novel."""
    lines = [for_terminal(line) for line in text.splitlines()]
    return "\n".join(
        line if len(line) <= MAX_LINE else f"{line[:MAX_LINE]}... ({len(line)} characters)" for line in lines
    )
