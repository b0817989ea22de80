"""The command line: parse, call, print. No logic, and nothing heavy imported before a command runs."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of ``tlsearch``: runs a command, turns errors into sentences and exit codes.

    0 done, 1 the work failed, 2 the user's input is wrong, 130 interrupted.
    """
    from tlsearch.cli.app import app
    from tlsearch.errors import TlsearchError

    try:
        app(prog_name="tlsearch")
    except TlsearchError as error:
        print(f"Error: {error.message}", file=sys.stderr)
        if error.hint:
            print(error.hint, file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        sys.stderr.close()
        sys.exit(0)
