"""Counting: how a restore went, or would go, and the sentence that says so; pure."""

from __future__ import annotations

import msgspec


class Counted(msgspec.Struct, kw_only=True):
    """How a restore went, by items; `folders` were made sure of, `folders_failed` could not be made.

    Items that were `left_out`, as too large, were not expected.
    """

    expected: int = 0
    restored: int = 0
    skipped: int = 0
    unrestored: int = 0
    folders: int = 0
    folders_failed: int = 0
    left_out: int = 0

    @property
    def is_whole(self) -> bool:
        """Tell whether everything that was expected is there."""
        return not self.unrestored and not self.folders_failed

    def add(self, other: Counted) -> None:
        """Add another restore's counts."""
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def sentence(self) -> str:
        """Return the counted verdict."""
        failed = f", {self.folders_failed:,} folders could not be made" if self.folders_failed else ""
        left_out = f", {self.left_out:,} left out as too large" if self.left_out else ""
        return (
            f"{self.expected:,} expected, {self.restored:,} restored and read back as equal, "
            f"{self.skipped:,} skipped (restored before), {self.unrestored:,} unrestored{failed}{left_out}"
        )

    def foreseen(self, where: str) -> str:
        """Return what would happen, in words."""
        left_out = f", {self.left_out:,} are left out as too large" if self.left_out else ""
        skipped = f", {self.skipped:,} are there since an earlier restore" if self.skipped else ""
        unrestored = f", {self.unrestored:,} can't be" if self.unrestored else ""
        return (
            f"dry run: {self.folders:,} folders and {self.restored:,} items would be restored "
            f"{where}{skipped}{unrestored}{left_out}"
        )

    def counts(self) -> dict[str, int]:
        """Return the counts by name."""
        return {name: int(getattr(self, name)) for name in self.__struct_fields__}
