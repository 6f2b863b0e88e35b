"""Where an encrypted volume keeps its own key (see `volumes.volume_key`), and so: whether it is encrypted.

Whoever only asks that needs no cryptography, which takes time and memory to load.
"""

from __future__ import annotations

import re

from backupd.volumes import ownership
from backupd.volumes.base import Volume

KEYS_FOLDER = "encryption"
"""The first level of the names under which the key rests; not for contents."""
_KEY_ID = re.compile(rf"{KEYS_FOLDER}/([0-9a-f]{{16}})\Z")


def is_encrypted(inner: Volume) -> bool:
    """Tell whether a volume was ever written to encrypted. Raises `VolumeError`."""
    return bool(key_ids(inner))


def key_ids(inner: Volume) -> list[str]:
    """Return the ids of the master keys that the volume's key is wrapped by. Raises `VolumeError`."""
    return [match[1] for match in map(_KEY_ID.match, inner.names(f"{KEYS_FOLDER}/")) if match]


def is_reserved(name: str) -> bool:
    """Tell whether a name on the volume is not for contents: it rests there as it is, unencrypted."""
    return name == ownership.NAME or name.startswith(f"{KEYS_FOLDER}/")
