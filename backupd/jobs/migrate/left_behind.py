"""Contents that nothing at hand holds: after a volume was left, lost, or never reached in time.

The list is a file of JSON lines below the Backup Path, a line per item that refers to such a content, so that
an admin can see whose mail it is, and what a deep scan can still fetch from the AppServer.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

import msgspec

from backupd.operations import Run, Verdict
from backupd.store.layout import LOST
from backupd.store.store import Store

LISTED_MAX = 5_000_000


class LostItem(msgspec.Struct, frozen=True, kw_only=True):
    """One line: an item that refers to a content that is not at hand."""

    account: str
    kind: str
    item: str
    digest: str


class LostContents:
    """Looks for them in the index. Blocks."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def run(self, run: Run, now: datetime, *, doubt: str = "") -> Verdict:
        """Write the list; return the verdict: successful where nothing is lost.

        `doubt` tells why the volume could not be asked, and what is known of it is only believed.
        """
        index, blobs = self._store.index, self._store.blobs
        contents = items = 0
        accounts: Counter[str] = Counter()
        path = self._store.layout.root / LOST / f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}.jsonl"
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with path.open("wb") as file:
            path.chmod(0o600)
            for place, digest in enumerate(index.digests()):
                run.check()
                run.report(place, unit="contents")
                if blobs.is_readable(digest):
                    continue
                contents += 1
                for key in index.blob_references(digest):
                    items += 1
                    accounts[key.account] += 1
                    if items <= LISTED_MAX:
                        line = LostItem(
                            account=key.account, kind=key.kind.value, item=key.item, digest=digest
                        )
                        file.write(msgspec.json.encode(line) + b"\n")
        if doubt:
            run.note_error("the volume in use", f"{doubt}: what was sent there counts as at hand")
        if not contents and doubt:
            path.unlink()
            return Verdict(
                sentence=f"nothing else is lost, but the volume gave no list: {doubt}", successful=False
            )
        if not contents:
            path.unlink()
            return Verdict(
                sentence="every content is at hand: on the Backup Path, on the volume in use, or held"
            )
        self._note(run, accounts)
        return Verdict(
            sentence=f"{contents:,} contents of {items:,} items in {len(accounts):,} accounts are neither "
            f"on the Backup Path nor on the volume in use; {path} lists them. A deep SmartScan stores again "
            "what the AppServer still has",
            counts={"contents": contents, "items": items, "accounts": len(accounts)},
            successful=False,
        )

    def _note(self, run: Run, accounts: Counter[str]) -> None:
        for account, count in accounts.most_common(100):
            known = self._store.index.find_account(account)
            name = account if known is None else str(known.metadata.get("name") or account)
            run.note_error(name, f"{count:,} items lack their content")
