"""The files of a run that are put in place together."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fanout.files import sync_folder

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Publication:
    """Renames that put whole, durable files in place. Carrying it out twice has the effect of once.

    Several files cannot be replaced in one step, and a kill between two renames must not leave the mask of one run
    beside the values of another. So ``outdated`` files go first: after such a kill the values are missing until the
    same command puts the new ones in place.

    Attributes:
        moves: temporary and final name of each file, in the order of the renames.
        removals: files to remove after the renames.
        outdated: files of an earlier run to remove, in this order, before the first rename.
        layout: the sink's description of the columns, from which it can read the answers back; JSON.
    """

    moves: tuple[tuple[Path, Path], ...] = ()
    removals: tuple[Path, ...] = ()
    outdated: tuple[Path, ...] = ()
    layout: Mapping[str, Any] | None = None

    def carry_out(self) -> None:
        """Rename and remove. Raises `OSError`, `FileNotFoundError` if a file has neither of its names."""
        # A file without its temporary name was renamed before a kill.
        pending = {target: source for source, target in self.moves if source.exists()}
        for source, target in self.moves:
            if target not in pending and not target.exists():
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(source))
        in_place = {target for _, target in self.moves} - pending.keys()
        for path in self.outdated:
            if path not in in_place and path.exists():
                path.unlink()
                sync_folder(path.parent)
        values = set(self.outdated)
        for target, source in pending.items():
            # Mask and failures must be durable before the first file of values appears beside them.
            if target in values:
                self._sync_folders()
                values.clear()
            source.replace(target)
        for path in self.removals:
            path.unlink(missing_ok=True)
        self._sync_folders()

    def _sync_folders(self) -> None:
        for folder in {path.parent for _, path in self.moves} | {path.parent for path in self.removals}:
            sync_folder(folder)

    @property
    def is_in_place(self) -> bool:
        """True if every file has its final name."""
        return all(target.exists() for _, target in self.moves)

    def as_json(self, folder: Path) -> dict[str, Any]:
        """Return the publication for a journal in ``folder``, with relative paths: both may be moved together."""
        return {
            "moves": [
                [os.path.relpath(source, folder), os.path.relpath(target, folder)] for source, target in self.moves
            ],
            "removals": [os.path.relpath(path, folder) for path in self.removals],
            "outdated": [os.path.relpath(path, folder) for path in self.outdated],
            **({"layout": self.layout} if self.layout is not None else {}),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any], folder: Path) -> Publication:
        """Return the publication that a journal in ``folder`` has recorded."""
        moves = tuple((folder / source, folder / target) for source, target in document["moves"])
        removals, outdated = (tuple(folder / str(name) for name in document[key]) for key in ("removals", "outdated"))
        return cls(moves, removals, outdated, document.get("layout"))
