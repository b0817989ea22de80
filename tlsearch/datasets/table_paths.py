"""Where the files of a table's paths are, as people and tools write them."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tlsearch.tables import PICTURES

_FILE = "file://"
LOOKED_AT = 50
"""Paths of a table that are looked for when it is found out where they count from."""


def folder_of(written: Sequence[str], root: Path) -> Path | None:
    """The folder right below a table's own that its paths count from; None where there isn't just one."""
    some = [path for path in written if path][:LOOKED_AT]
    own = Found(root)
    if not some or any(os.path.lexists(own.path(path)) for path in some):
        return None
    holding = []
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
        found = Found(folder)
        if 2 * sum(os.path.lexists(found.path(path)) for path in some) > len(some):
            holding.append(folder)
    return holding[0] if len(holding) == 1 else None


class Found:
    """Where the files of a table's paths are, however their slashes and accents are written.

    Attributes:
        counts: of paths that were found another way than they are written, by how.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.counts: dict[str, int] = {}
        self._names: dict[Path, dict[str, str]] = {}
        self._stems: dict[Path, dict[str, list[str]]] = {}

    def path(self, written: str) -> Path:
        """The path of a file; the one as it is written where there is none."""
        straight = self.root / written
        if "\0" in written or os.path.lexists(straight):
            return straight
        if written.startswith(_FILE) and os.path.lexists(named := Path(unquote(urlsplit(written).path))):
            self._count("URLs of files are read as their paths")
            return named
        if "%" in written and os.path.lexists(decoded := self.root / unquote(written)):
            self._count("percent signs and what follows are read as in URLs")
            return decoded
        parts = written.replace("\\", "/").split("/")
        slashed = self.root / "/".join(parts)
        if os.path.lexists(slashed):
            self._count("backslashes are read as slashes")
            return slashed
        if not parts[0] and os.path.lexists(below := self.root.joinpath(*filter(None, parts))):
            self._count("a slash at the beginning is left out")
            return below
        place = self.root
        for part in parts:
            if part == "..":
                return straight
            place /= self._listed(place).get(unicodedata.normalize("NFC", part), part)
        if os.path.lexists(place):
            self._count("accents are written in another Unicode form than on disk")
            return place
        called = self._called(place.parent)
        for name, how in ((place.name, "endings such as .jpg are left out"), (place.stem, "")):
            same = called.get(name, [])
            if len(same) == 1 and (how or same[0].casefold() == place.name.casefold()):
                self._count(how or "endings are written in another case than on disk")
                return place.with_name(same[0])
        return straight

    def _count(self, how: str) -> None:
        self.counts[how] = self.counts.get(how, 0) + 1

    def _called(self, folder: Path) -> dict[str, list[str]]:
        """The pictures of a folder by their names without ending."""
        if folder not in self._stems:
            found: dict[str, list[str]] = {}
            for name in self._listed(folder).values():
                stem, ending = os.path.splitext(name)
                if ending.lower() in PICTURES:
                    found.setdefault(stem, []).append(name)
            self._stems[folder] = found
        return self._stems[folder]

    def _listed(self, folder: Path) -> dict[str, str]:
        if folder not in self._names:
            try:
                names = os.listdir(folder)
            except OSError:
                names = []
            self._names[folder] = {unicodedata.normalize("NFC", name): name for name in names}
        return self._names[folder]
