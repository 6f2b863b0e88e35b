"""Whether the AppServer holds contents as blobless mode needs it: tried out, and some contents read."""

from __future__ import annotations

import hashlib
import itertools
import random

import msgspec

from backupd.appservers.base import ContentHolder
from backupd.errors import BackupdError
from backupd.items import digest_text
from backupd.jobs.doctor import verdict
from backupd.keeping_views import BloblessView
from backupd.views import CheckView

NAME = "blobless mode"
READ_CONTENTS = 50
CHOSEN_AMONG = 200_000
_PIECE_BYTES = 1 << 20
_SCAN = "backupctl backup doSmartScan start deep true"


class HoldingFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What was found: why contents can't be held, how many are, and which of those read are not whole."""

    refused: str = ""
    held: int = 0
    read: int = 0
    spoilt: tuple[str, ...] = ()


def look_at_holding(holder: ContentHolder, *, seed: int | None = None) -> HoldingFacts:
    """Try holding out and read some contents; blocks. Raises `AppServerUnavailable`."""
    try:
        holder.check()
    except BackupdError as error:
        return HoldingFacts(refused=str(error))
    held = list(itertools.islice(holder.digests(), CHOSEN_AMONG))
    chosen = random.Random(seed).sample(held, min(READ_CONTENTS, len(held)))  # noqa: S311 - no secret
    spoilt = tuple(digest for digest in chosen if not _is_whole(holder, digest))
    return HoldingFacts(held=len(held), read=len(chosen), spoilt=spoilt)


def judge_holding(facts: HoldingFacts | None, mode: BloblessView) -> CheckView:
    """Judge it by the mode; `facts` are None where nothing had to be looked at."""
    if facts is None:
        return verdict.ok(NAME, "off: contents are stored in the Backup Path")
    if mode.not_fetched:
        text = f"off, and the AppServer alone holds {mode.not_fetched:,} contents"
        return verdict.warning(NAME, text, _SCAN)
    if facts.refused:
        text = f"contents are stored in the Backup Path, for they can't be held: {facts.refused}"
        return verdict.warning(NAME, text, "mend it, or turn backupBloblessMode off")
    if facts.spoilt:
        text = f"of {facts.read:,} held contents read, {len(facts.spoilt):,} were rewritten in place: "
        cure = f"find the software that writes into mail files; hold what is there again: {_SCAN}"
        return verdict.critical(NAME, text + verdict.some(facts.spoilt, len(facts.spoilt)), cure)
    return verdict.ok(NAME, f"on: {facts.held:,} contents held by the AppServer, {facts.read:,} of them read")


def _is_whole(holder: ContentHolder, digest: str) -> bool:
    """Tell whether a content has its digest; one that was let go meanwhile is no fault."""
    file = holder.open(digest)
    if file is None:
        return True
    sha256 = hashlib.sha256()
    with file:
        while piece := file.read(_PIECE_BYTES):
            sha256.update(piece)
    return digest_text(sha256.digest()) == digest
