"""The daemon with an external volume: a directory that is used as a remote store is.

`python -m tests.world.daemon_with_volume --config FILE` is `backupd --config FILE` with the directory that
`BACKUPD_TEST_VOLUME` names as volume, away while a file `away` lies beside it. Lone contents wait shorter.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from backupd.jobs.upload import plan
from backupd.store.outside.reading import External
from backupd.volumes.local import LocalVolume
from daemon.__main__ import main
from daemon.external_volume import ExternalVolumes
from tests.world.outside import FaultyVolume

VARIABLE = "BACKUPD_TEST_VOLUME"


class Leaving(FaultyVolume):
    """A store that is away as long as a file says so."""

    def __init__(self, place: Path) -> None:
        super().__init__(LocalVolume(place))
        self._sign = place.with_name("away")

    def _fault(self, call: str) -> str:
        self.away = self._sign.exists()
        return super()._fault(call)


def external() -> External:
    volume = Leaving(Path(os.environ[VARIABLE]))
    return External(identity="test", title="the test's bucket", volume=volume, is_remote=True)


if __name__ == "__main__":
    plan.AGE_SECONDS_MAX = 0.3
    ExternalVolumes.current = lambda _self, _known: external()
    sys.exit(main())
