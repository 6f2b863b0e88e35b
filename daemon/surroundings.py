"""What a process gives to each of its lifetimes, and keeps from one to the next."""

from __future__ import annotations

from typing import NamedTuple

from backupd.clock import Clock
from daemon.control_socket import ControlAddress
from daemon.health import Notifier


class Surroundings(NamedTuple):
    """The clock, the service manager's ear, and where admins ask."""

    clock: Clock
    notifier: Notifier
    address: ControlAddress
