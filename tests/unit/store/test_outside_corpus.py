"""Real contents outside: byte for byte what they were, in fewer requests and bytes than one by one."""

from __future__ import annotations

import itertools

import pytest

from backupd.items import digest_of
from tests.bench.uploads import upload
from tests.world.corpus import CLASSES, WHERE, corpus_files
from tests.world.outside import OutsideWorld
from tests.world.quick_disk import quick_directory

EACH = 25


def test_the_corpus_comes_back_from_outside():
    """Messages, calendars, cards and files are read from packs as they were, and packs cost less."""
    files = list(itertools.chain.from_iterable(corpus_files(kind)[:EACH] for kind in CLASSES))
    if not files:
        pytest.skip(f"no corpus: {WHERE}")
    contents = list({digest_of(one): one for one in (file.read_bytes() for file in files)}.values())
    with quick_directory() as root:
        world = OutsideWorld(root / "path")
        digests = world.keep(*contents)
        world.send(cache_bytes_max=0)
        assert not list(world.blobs.cached_digests())
        assert [world.blobs.read(one) for one in digests] == contents
        world.close()
        packs = upload(root / "packs", contents, is_remote=True)
        singles = upload(root / "singles", contents, is_remote=False)
    assert packs["requests_per_1000"] < singles["requests_per_1000"] / 10
    assert packs["stored_bytes"] < singles["stored_bytes"]
