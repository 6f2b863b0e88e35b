"""Answering: what a part of the daemon offers that answers commands."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from backupd.control import Reply
from daemon.peers import Caller

Given = dict[str, Any]
"""A command's values by parameter name, checked and complete."""
Answering = Callable[[Given, Caller], Awaitable[Reply]]
"""Answers one command. Raises `BackupdError` for what can't be done."""
Guard = Callable[[object], object]
"""Judges a value that `config set` brings, None for `config unset`; returns what is to be set."""
