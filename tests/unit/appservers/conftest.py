"""A small mail tree and its AppServer, for tests of the directory AppServer's parts."""

from __future__ import annotations

import pytest

from backupd.appservers.directory import DirectoryServer
from backupd.clock import SystemClock
from tests.world import mailtree


@pytest.fixture
def tree(tmp_path):
    return mailtree.build(
        tmp_path / "root", accounts=2, messages=6, contacts=2, appointments=4, documents=2, size=200
    )


@pytest.fixture
def server(tree, tmp_path):
    made = DirectoryServer(tree.root, identity_path=tmp_path / "identity.sqlite", clock=SystemClock())
    yield made
    made.close()


@pytest.fixture
async def account(server):
    return (await server.accounts())[0].id
