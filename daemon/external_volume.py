"""The external volume as the attributes say it: made for a lifetime, and opened aside for commands.

A volume that can't be made (its bucket is not configured any more, its key can't be read) does not keep the
daemon from starting: an `UnusableVolume` stands in its place, under the same identity, so that what rests
there is still known and every use says what to do.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NoReturn

import structlog

from backupd import buckets as bucket_configurations
from backupd import volume_choice
from backupd.attributes import Scopes, Settings
from backupd.buckets import Bucket
from backupd.clock import Clock
from backupd.config import Config
from backupd.errors import BackupdError, VolumeError
from backupd.store.outside.reading import External
from backupd.volume_choice import BucketChoice, DefaultChoice, VolumeChoice, described
from backupd.volumes import chosen
from backupd.volumes.base import ByteSource
from backupd.volumes.chosen import ChosenVolume
from backupd.volumes.failures import VolumeClosed
from backupd.volumes.retrying import RetryBudget
from backupd.volumes.s3_settings import Retention

if TYPE_CHECKING:
    from backupd.volumes.keyring import Keyring

STORE = "backupArchivingStore"
BUCKETS = "s3BucketConfigurations"
ENCRYPTION = "backupVolumeEncryption"
RETENTION_DAYS = "backupVolumeRetentionDays"
RETENTION_MODE = "backupVolumeRetentionMode"

log = structlog.get_logger(__name__)


class UnusableVolume:
    """A volume that can't be made: every call says why. Permanent until the settings are right."""

    def __init__(self, error: BackupdError) -> None:
        self._error = error

    def _refuse(self) -> NoReturn:
        raise VolumeError(
            f"the external volume can't be used: {self._error.message}", permanent=True, hint=self._error.hint
        )

    def put(self, name: str, content: bytes | ByteSource) -> bool:  # noqa: ARG002 - as `Volume`
        """Refuse."""
        self._refuse()

    def get(self, name: str, *, offset: int = 0, length: int | None = None) -> BinaryIO:  # noqa: ARG002 - as `Volume`
        """Refuse."""
        self._refuse()

    def exists(self, name: str) -> bool:  # noqa: ARG002 - as `Volume`
        """Refuse."""
        self._refuse()

    def delete(self, name: str) -> bool:  # noqa: ARG002 - as `Volume`
        """Refuse."""
        self._refuse()

    def names(self, prefix: str = "") -> Iterator[str]:  # noqa: ARG002 - as `Volume`
        """Refuse."""
        self._refuse()

    def size(self, name: str) -> int:  # noqa: ARG002 - as `Volume`
        """Refuse."""
        self._refuse()


class ExternalVolumes:
    """Makes volumes of this server; whatever it made is closed with it. Blocking, any thread."""

    def __init__(self, config: Config, settings: Settings, *, server_id: str, clock: Clock) -> None:
        self._config = config
        self._settings = settings
        self._scopes = Scopes(server=server_id)
        self._server_id = server_id
        self._clock = clock
        self._ended = threading.Event()
        self._made: list[ChosenVolume] = []
        self._in_use: ChosenVolume | None = None

    def choice(self) -> VolumeChoice:
        """Return the choice in force. Raises `UsageError` for a value that means nothing."""
        return volume_choice.parse(self._settings.get(STORE, self._scopes).value)

    def buckets(self) -> tuple[Bucket, ...]:
        """Return the configured buckets. Raises `UsageError`."""
        return bucket_configurations.parse(self._settings.get(BUCKETS).value)

    def current(self, known_identity: str) -> External | None:
        """Return the volume in force; `known_identity` is that of the catalog, for one that can't be made."""
        title = "that is set"
        try:
            choice = self.choice()
            title = described(choice)
            made = self.open(choice, server_id=self._server_id)
        except BackupdError as error:
            log.error("external_volume_unusable", reason=error.message, hint=error.hint)
            return External(
                identity=known_identity or "unusable",
                title=title,
                volume=UnusableVolume(error),
                is_remote=True,
            )
        self._in_use = made
        if made is None:
            return None
        return External(
            identity=made.identity, title=made.title, volume=made.volume, is_remote=made.is_remote
        )

    def open(
        self,
        choice: VolumeChoice,
        *,
        server_id: str | None,
        buckets: tuple[Bucket, ...] | None = None,
        budget: RetryBudget | None = None,
    ) -> ChosenVolume | None:
        """Make the volume of a choice, None for the default one. Raises `UsageError`, `ConfigError`.

        `budget` is how long a store that does not answer is asked again.
        """
        if isinstance(choice, DefaultChoice):
            return None
        made = chosen.make(
            choice,
            self.buckets() if buckets is None else buckets,
            server_id=server_id,
            keyring=self._keyring,
            retention=self._retention(),
            clock=self._clock,
            sleep=self._sleep,
            budget=budget,
        )
        assert made is not None
        self._made.append(made)
        return made

    @property
    def mail_root(self) -> Path:
        """Where the AppServer keeps its mail."""
        return self._config.appserver.root

    def made_of(self) -> bytes | None:
        """Return a digest of all that the volume in force is reached by; None where that can't be read.

        It is another one as soon as credentials, address or retention are, also a secret in its file.
        """
        try:
            choice = self.choice()
            facts = str(choice)
            if isinstance(choice, BucketChoice):
                bucket = volume_choice.bucket_of(choice, self.buckets())
                settings = chosen.settings_of(choice, bucket, self._server_id, self._retention())
                facts += f" {settings} {settings.secret.revealed}"
        except BackupdError:
            return None
        return hashlib.sha256(facts.encode()).digest()

    def can_be_made(self) -> bool:
        """Tell whether the volume in force can be made; asks nothing of it."""
        try:
            made = self.open(self.choice(), server_id=self._server_id)
        except BackupdError:
            return False
        if made is not None:
            made.close()
            self._made.remove(made)
        return True

    def remove_leftovers(self, before: datetime) -> int:
        """Remove what uploads begun before a moment never ended on the volume in use; return how many.

        Raises `VolumeError`.
        """
        store = None if self._in_use is None else self._in_use.store
        return 0 if store is None else store.remove_leftovers(before)

    @property
    def encrypts(self) -> bool:
        """Whether a volume that is chosen now is to be encrypted."""
        return bool(self._settings.get(ENCRYPTION, self._scopes).value)

    def close(self) -> None:
        """End every wait and every request under way."""
        self._ended.set()
        for made in self._made:
            made.close()

    def _keyring(self) -> Keyring:
        from backupd.volumes.key_source import read_keyring  # noqa: PLC0415 - brings OpenSSL along

        return read_keyring(self._config.encryption, os.environ)

    def _retention(self) -> Retention | None:
        days = int(str(self._settings.get(RETENTION_DAYS, self._scopes).value))
        mode = str(self._settings.get(RETENTION_MODE, self._scopes).value).upper()
        if not days:
            return None
        return Retention(days=days, mode="COMPLIANCE" if mode == "COMPLIANCE" else "GOVERNANCE")

    def _sleep(self, seconds: float) -> None:
        if self._ended.wait(seconds):
            raise VolumeClosed("the external volume")
