"""docs/events.md and docs/asyncapi.yaml say what backupd/events.py does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from backupd import events
from backupd.clock import moment
from backupd.events import decode
from backupd.items import SERVER_KINDS, Kind, is_digest


@pytest.fixture
def asyncapi(repository: Path) -> dict[str, Any]:
    return yaml.safe_load((repository / "docs" / "asyncapi.yaml").read_text())


@pytest.fixture
def page(repository: Path) -> str:
    return (repository / "docs" / "events.md").read_text()


def test_the_example_is_an_event(page: str) -> None:
    """What the page shows is taken as it stands."""
    (example,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    change = decode(
        "backupd/v1/s1/alice/message/2057", example.encode(), server_id="s1", received=moment(1 << 52)
    )
    assert change.number == 1042
    assert change.metadata is not None
    assert change.digest is not None
    assert is_digest(change.digest)


def test_the_command_to_try_it_publishes_an_event(page: str) -> None:
    """The line for mosquitto_pub has a good topic and payload."""
    topic = re.search(r"-t '([^']+)'", page)
    payload = re.search(r"-m '([^']+)'", page)
    assert topic is not None
    assert payload is not None
    server_id = topic.group(1).split("/")[2]
    assert decode(topic.group(1), payload.group(1).encode(), server_id=server_id, received=moment(1 << 52))


def test_every_reason_to_refuse_is_on_the_page(page: str) -> None:
    """Whoever finds a reason in a metric or in the quarantine can look it up."""
    source = Path(events.__file__).read_text()
    reasons = set(re.findall(r'NotAnEvent\(\s*"(\w+)"', source)) | {
        "not_json",
        "invalid_field",
        "account",
        "item",
    }
    table = page.partition("| reason |")[2].partition("\n\n")[0]
    assert reasons == set(re.findall(r"`([a-z_]+)`", re.sub(r"\| [^|]*\|$", "", table, flags=re.MULTILINE)))


def test_the_machine_readable_contract_has_the_same_names(asyncapi: dict[str, Any]) -> None:
    """Types, kinds, fields and bounds are those of the code."""
    schemas = asyncapi["components"]["schemas"]
    fields = schemas["event"]["properties"]
    assert fields["type"]["enum"] == list(events._TYPES)
    kinds = asyncapi["channels"]["change"]["parameters"]["kind"]["enum"]
    assert set(kinds) == {kind.value for kind in Kind if kind not in SERVER_KINDS}
    assert set(fields) == {field.name for field in msgspec.structs.fields(events.Event)}
    assert set(schemas["facts"]["properties"]) == {
        field.name for field in msgspec.structs.fields(events.EventFacts)
    }
    assert fields["sequence"]["maximum"] == events.NUMBER_MAX
    assert fields["id"]["maxLength"] == events.IDENTIFIER_CHARACTERS_MAX
    required = [field.name for field in msgspec.structs.fields(events.Event) if field.required]
    assert schemas["event"]["required"] == required
