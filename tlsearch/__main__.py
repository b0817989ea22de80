"""``python -m tlsearch``: the command line."""

from tlsearch.cli import main

if __name__ == "__main__":
    main()
