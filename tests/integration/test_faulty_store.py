"""A store behind a way that breaks things: whatever happens to requests, what is reported stored is stored.

`BACKUPD_UPLOADS` sets the number of uploads; `make test` runs few, `make proof` runs 1,000.
"""

from __future__ import annotations

import hashlib
import os
import random
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from backupd.volumes.failures import CorruptObject, VolumeUnreachable
from backupd.volumes.retrying import RetryBudget, Retrying
from backupd.volumes.s3 import S3Volume
from tests.world.fault_proxy import FAULTS, FaultProxy

UPLOADS = int(os.environ.get("BACKUPD_UPLOADS", "120"))
PATIENT = RetryBudget(attempts=15, seconds=60, first_wait_seconds=0.005, wait_seconds_max=0.05)
RATE = 0.2


@pytest.fixture(scope="module")
def versioned(moto):
    """Give moto with a bucket that keeps every version: nothing can be put twice unseen."""
    moto.make_bucket("versioned")
    with moto.directly(bucket="versioned") as client:
        client.call("put_bucket_versioning", VersioningConfiguration={"Status": "Enabled"})
    return moto


def contents(count: int) -> dict[str, bytes]:
    chance = random.Random(7)
    blobs = [chance.randbytes(chance.choice((0, 200, 5_000, 60_000))) + b"%d" % n for n in range(count)]
    return {f"items/{n % 64:02}/{hashlib.sha256(blob).hexdigest()}": blob for n, blob in enumerate(blobs)}


def versions(client, prefix: str) -> list[str]:
    """Every version of every object, page by page."""
    keys: list[str] = []
    where: dict[str, str] = {}
    while True:
        page = client.call("list_object_versions", Prefix=prefix, **where)
        keys += [entry["Key"] for entry in page.get("Versions", ())]
        if not page.get("IsTruncated"):
            return keys
        where = {"KeyMarker": page["NextKeyMarker"], "VersionIdMarker": page["NextVersionIdMarker"]}


def test_uploads_through_faults(versioned):
    """With faults at every fifth request each blob is right at the store when put returns, and put once."""
    blobs = contents(UPLOADS)
    proxy = FaultProxy(versioned.port, rate=RATE)
    with proxy.running(), versioned.directly(bucket="versioned") as direct:
        bucket = S3Volume(versioned.settings(bucket="versioned", endpoint=proxy.url, prefix="faults"))
        volume = Retrying(bucket, PATIENT)

        def upload(name: str) -> None:
            volume.put(name, blobs[name])
            _, found, body = direct.get(Key=f"faults/{name}")
            assert body is None
            assert found == blobs[name], f"{name} was reported stored, but is not"

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(upload, blobs))
        # Read back through the same faults, and listed.
        with ThreadPoolExecutor(8) as threads:
            read = dict(zip(blobs, threads.map(lambda name: volume.get(name).read(), blobs), strict=True))
        assert read == blobs
        assert list(volume.names("items/")) == sorted(blobs)
        bucket.close()
        put = [key.removeprefix("faults/") for key in versions(direct, "faults/items/")]
    assert sorted(put) == sorted(blobs), "an object was put twice"
    assert set(proxy.struck) == set(FAULTS), "a kind of fault never struck"
    assert sum(proxy.struck.values()) > 0.15 * proxy.requests


@pytest.mark.parametrize("fault", ["reply cut", "reply damaged"])
def test_long_reads_through_faults(moto, fault):
    """A long content whose reading breaks off, or brings wrong bytes, comes whole and right in the end."""
    content = random.Random(3).randbytes(3_000_000)
    proxy = FaultProxy(moto.port, rate=0.5, faults=(fault,), seed=5)
    with proxy.running():
        bucket = S3Volume(moto.settings(endpoint=proxy.url, prefix=f"long/{fault.replace(' ', '-')}"))
        volume = Retrying(bucket, PATIENT)
        volume.put("a", content)
        for _ in range(4):
            with volume.get("a") as file:
                assert file.read() == content
            with volume.get("a", offset=1_000_000, length=1_500_000) as file:
                assert len(file.read()) == 1_500_000
        bucket.close()
    assert proxy.struck[fault]


def test_a_long_upload_through_faults(moto):
    """Content in parts arrives whole through faults; parts whose removal failed too are removed later."""
    content = random.Random(4).randbytes(1 << 20) * 17
    proxy = FaultProxy(moto.port, rate=0.3, seed=11, faults=("error 500", "request damaged", "refused"))
    with proxy.running(), moto.directly() as direct:
        bucket = S3Volume(moto.settings(endpoint=proxy.url, prefix="parts"))
        assert Retrying(bucket, PATIENT).put("big", content)
        bucket.close()
        after = S3Volume(moto.settings(prefix="parts"))
        assert after.get("big").read() == content
        after.remove_leftovers(datetime.now(UTC) + timedelta(days=1))
        after.close()
        assert not direct.call("list_multipart_uploads", Prefix="parts/").get("Uploads")
    assert proxy.struck


def test_damage_at_the_store(moto):
    """Bytes that are wrong at the store itself are told by the read that ends them, and never as content."""
    volume = S3Volume(moto.settings(prefix="damage"))
    with moto.directly() as direct:
        for name, size in (("short", 1_000), ("long", 3_000_000)):
            volume.put(name, b"a" * size)
            direct.call("put_object", Key=f"damage/{name}", Body=b"b" * size, Metadata={"sha256": "0" * 64})
    with pytest.raises(CorruptObject):
        volume.get("short")
    with volume.get("long") as file, pytest.raises(CorruptObject):
        file.read()
    read: list[bytes] = []
    with volume.get("long") as file, pytest.raises(CorruptObject):
        read.extend(iter(lambda: file.read(500_000), b""))
    assert sum(len(chunk) for chunk in read) < 3_000_000
    volume.close()


def test_a_store_that_is_away(moto):
    """Without an answer a put fails as transient, within its budget, and says that nothing was sent."""
    proxy = FaultProxy(moto.port)
    with proxy.running():
        pass
    volume = S3Volume(moto.settings(endpoint=proxy.url, prefix="away"))
    waits: list[float] = []
    retrying = Retrying(volume, RetryBudget(attempts=4), sleep=waits.append, chance=lambda: 1.0)
    with pytest.raises(VolumeUnreachable) as told:
        retrying.put("a", b"x")
    assert not told.value.permanent
    assert not told.value.uncertain
    assert waits == [0.25, 0.5, 1.0]
    volume.close()
