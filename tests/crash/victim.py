"""A daemon that is made to crash again and again, with the story it must not lose.

`Victim` owns a place, a mail tree, a server id, faults, a story and its mouth. `live` is one life up to its
end; `settle` is a life without faults in which everything published gets recorded, and `judge` the verdict.
Every failure names the seed; the same seed gives the same story and the same faults, though not the same
moments.
"""

from __future__ import annotations

import http.client
import random
import subprocess
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from backupd.items import ItemKey, Kind
from backupd.states import ChangeType
from tests.crash import verdict
from tests.crash.stream import Mouth, Story
from tests.world.brokers import USERNAME, Mosquitto
from tests.world.daemons import Daemon
from tests.world.faults import Fault, Faults

SETTLE_SECONDS_MAX = 40.0
STEP_SECONDS_MAX = 20.0
IMPATIENCE = {
    "backupd.jobs.record.recorder.CHECKPOINT_SECONDS": 0.25,
    "daemon.recording.CHECKPOINT_SECONDS": 0.25,
    "daemon.recording.BACK_OFF_SECONDS_MAX": 0.5,
    "daemon.intake.PAUSE_SECONDS_MIN": 0.1,
    "daemon.intake.PAUSE_SECONDS_MAX": 0.5,
}
"""Nothing here is about how long the daemon waits, only about what it does then."""
LAST = ItemKey("anna", Kind.FOLDER, "the end")


class Victim:
    """One daemon, many lives."""

    def __init__(
        self,
        place: Path,
        broker: Mosquitto,
        *,
        seed: str,
        extra: str = "",
        embedded: bool = False,
    ) -> None:
        self.seed = seed
        self.dice = random.Random(f"{seed}/lives")
        self.place = place
        self.server_id = str(uuid.UUID(int=random.Random(seed).getrandbits(128), version=4))
        self.root = place / "vmail"
        (self.root / "example.test").mkdir(parents=True, exist_ok=True)
        self.faults = Faults(place / "faults")
        self.story = Story(seed, self.server_id)
        self.mouth = Mouth(broker.port, self.server_id)
        self._broker_url = f"mqtt://127.0.0.1:{broker.port}"
        self.daemon = Daemon(
            place / "d",
            self.root,
            broker="embedded" if embedded else self._broker_url,
            broker_lines=""
            if embedded
            else f'username = "{USERNAME}"\npassword_file = "{broker.password_file}"',
            extra=extra,
            watch=embedded,
            environment=self.faults.environment,
            impatience=IMPATIENCE,
            server_id=self.server_id,
        )
        self.kills = 0

    @property
    def backup_path(self) -> Path:
        return self.daemon.backup_path

    def close(self) -> None:
        self.daemon.kill()
        self.mouth.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -------------------------------------------------------------------- lives

    def begin(self) -> None:
        """Live once without faults, until the broker keeps a session: from then on every event counts."""
        self.daemon.start()
        self.wait_until("the subscription", lambda: self.daemon.status()["broker"]["connected"])
        self.daemon.wait_until_scanned()
        assert self.daemon.stop() == 0

    def live(self, fault: Fault, act: Callable[[], object] | None = None, *, events: int = 12) -> bool:
        """Live until a fault kills; return whether it did. `act` is done while the daemon lives."""
        self.faults.arm(fault)
        self.daemon.start(wait=False)
        process = self.daemon.process
        assert process is not None
        end = time.monotonic() + STEP_SECONDS_MAX
        try:
            if events:
                self.mouth.say(self.story.go_on(events))
            if act is not None:
                act()
            while process.poll() is None and time.monotonic() < end:
                if events and self.dice.random() < 0.1:
                    self.mouth.say(self.story.go_on(2))
                time.sleep(0.01)
        except (OSError, RuntimeError, http.client.HTTPException):
            # It died while it was asked.
            with suppress(subprocess.TimeoutExpired):
                process.wait(10.0)
        struck = process.poll() is not None
        self.daemon.kill()
        self.faults.disarm()
        self.kills += struck
        return struck and bool(self.faults.hits())

    def live_and_die_somewhen(self) -> None:
        """Live for a random while under events, then die."""
        self.mouth.say(self.story.go_on(self.dice.randrange(8)))
        self.daemon.start(wait=False)
        end = time.monotonic() + self.dice.choice((0.06, 0.3, 0.6)) * self.dice.random() + 0.01
        while (left := end - time.monotonic()) > 0:
            self.mouth.say(self.story.go_on(self.dice.randrange(6)))
            time.sleep(min(max(left, 0), 0.03 * self.dice.random()))
        process = self.daemon.process
        assert process is not None
        assert process.poll() is None, self.told("the daemon ended by itself")
        self.daemon.kill()
        self.kills += 1

    def record_without_broker(self) -> None:
        """Live while no broker answers, until all that is journaled is recorded; then die."""
        config = self.daemon.config.read_text()
        self.daemon.config.write_text(config.replace(self._broker_url, "mqtt://127.0.0.1:1"))
        self.daemon.start()
        self.wait_until("the recorder", lambda: not self.daemon.status()["recorder"]["lag_entries"])
        self.daemon.kill()
        self.daemon.config.write_text(config)

    def settle(self) -> None:
        """Live without faults until everything published is recorded; then stop cleanly."""
        self.faults.disarm()
        self.daemon.start()
        self.settle_and_stop()

    def settle_and_stop(self) -> None:
        """Wait until everything published is recorded; then stop cleanly."""
        self.wait_until_recorded()
        status = self.daemon.stop()
        assert status == 0, self.told(f"it ended with {status}")

    def wait_until_recorded(self) -> None:
        """Wait until the last event published is in its history, durably."""
        self.mouth.say(
            self.story.about(LAST, [ChangeType.MODIFIED if LAST in self.story.told else ChangeType.CREATED])
        )
        last = self.story.told[LAST][-1].identifier
        self.wait_until("the last event", lambda: last in self._recorded_of(LAST))
        self.wait_until("the recorder", lambda: not self.daemon.status()["recorder"]["lag_entries"])

    def _recorded_of(self, key: ItemKey) -> list[str]:
        try:
            return [event for state in self.daemon.states(key.account, key.item) for event in state["events"]]
        except LookupError:
            return []

    # ------------------------------------------------------------------ verdict

    def judge(self) -> None:
        """Assert that the Backup Path holds what the story told, and nothing is wrong with it."""
        with verdict.opened(self.backup_path, self.server_id) as store:
            wrong = verdict.judge_story(store, self.story) + verdict.judge_store(store, self.place)
        assert not wrong, self.told("\n".join(wrong[:20]))

    def wait_until(self, what: str, probe: Callable[[], Any], seconds: float = SETTLE_SECONDS_MAX) -> Any:
        """Wait until a probe of the living daemon gives something."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            process = self.daemon.process
            assert process is not None
            assert process.poll() is None, self.told(f"the daemon ended with {process.poll()} before {what}")
            if found := probe():
                return found
            time.sleep(0.01)
        raise AssertionError(self.told(f"{what}: not within {seconds} s; {self.daemon.status()}"))

    def told(self, sentence: str) -> str:
        return f"seed {self.seed!r}: {sentence}\n{self.daemon.log_text()[-2500:]}"
