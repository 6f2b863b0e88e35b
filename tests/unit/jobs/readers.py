"""A reader for worker processes that behaves as its items are called."""

from __future__ import annotations

import os
import time

from backupd.appservers.base import BytesContent, Reading
from backupd.errors import AppServerRefused, AppServerUnavailable, ItemVanished
from backupd.items import Kind


class NamedReader:
    """Reads `<what> …` from the locator; can be pickled."""

    def read(self, kind: Kind, item: str, locator: str) -> Reading:
        match locator.split():
            case ["vanished"]:
                raise ItemVanished(f"{item} is gone")
            case ["unreadable"]:
                raise AppServerUnavailable(f"{item} can't be read", hint="mend it", item=item)
            case ["refused"]:
                raise AppServerRefused("there is no such account")
            case ["dies"]:
                os._exit(9)
            case ["slow"]:
                time.sleep(0.3)
        return Reading(
            metadata={"folder": "INBOX", "worker": os.getpid()}, content=BytesContent(item.encode())
        )
