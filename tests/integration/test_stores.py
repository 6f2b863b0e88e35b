"""Object stores and what they answer: moto, a real Swift, and answers as other stores give them.

What one store only can do (locks, storage classes) is tested there; what every volume must do is in the
contract suite.
"""

from __future__ import annotations

import socket
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

from backupd.errors import SpaceExhausted, VolumeError
from backupd.secret import Secret
from backupd.volumes import ownership, s3
from backupd.volumes.failures import (
    AccessRefused,
    BucketMissing,
    ClockSkewed,
    CorruptObject,
    RetainedObject,
    VolumeBusy,
    VolumeClosed,
    VolumeUnreachable,
)
from backupd.volumes.ownership import PlaceRefused
from backupd.volumes.prefixed import Prefixed
from backupd.volumes.s3 import S3Volume
from backupd.volumes.s3_settings import Retention
from backupd.volumes.s3_uploading import PART_BYTES
from tests.world.brokers import make_certificates
from tests.world.fault_proxy import FaultProxy
from tests.world.swift import SWIFT

STORES = ["moto", pytest.param("swift", marks=SWIFT)]
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


@pytest.fixture
def opened(request):
    """Give a function that makes volumes of a store; they are closed afterwards."""
    volumes: list[S3Volume] = []

    def make(store, **facts) -> S3Volume:
        volumes.append(S3Volume(store.settings(**facts)))
        return volumes[-1]

    yield make
    for volume in volumes:
        volume.close()


@pytest.fixture(params=STORES)
def store(request):
    return request.getfixturevalue(request.param)


def test_content_in_parts(store, opened):
    """Content beyond one part arrives whole, is described with its SHA-256, and is not overwritten."""
    volume = opened(store, prefix="in-parts")
    content = bytes(range(256)) * ((2 * PART_BYTES + 1_000_000) // 256)
    assert volume.put("big", content) is True
    found = volume.described("big")
    assert found.size == len(content)
    assert len(found.sha256) == 64
    assert volume.get("big").read() == content
    assert (
        volume.get("big", offset=PART_BYTES - 3, length=6).read() == content[PART_BYTES - 3 : PART_BYTES + 3]
    )
    assert volume.put("big", b"z" * len(content)) is False
    with store.directly() as direct:
        assert not direct.call("list_multipart_uploads", Prefix="in-parts/").get("Uploads")


def test_what_a_store_can_do(store, opened, request):
    """The probe finds out by itself what each store can do, and leaves nothing that a volume would list."""
    moto = store.access_key == "backupd"
    volume = opened(store, prefix="probed")
    report = volume.check()
    assert report.usable
    assert {finding.what: finding.able for finding in report.findings} == {
        "reach": True,
        "list": True,
        "put": True,
        "get": True,
        "delete": True,
        "conditional_put": moto,
        "versioning": False,
        "object_lock": False,
    }
    assert volume.conditional_puts() is moto
    assert list(volume.names()) == []


def test_a_store_that_ignores_conditions(moto, opened):
    """A store that overwrites in spite of the condition is found out, and then looked at before each put."""
    proxy = FaultProxy(moto.port, stripped=(b"if-none-match",))
    with proxy.running():
        volume = opened(moto, endpoint=proxy.url, prefix="ignores")
        assert volume.check().able("conditional_put") is False
        assert volume.put("a", b"first") is True
        assert volume.put("a", b"second") is False
        assert volume.get("a").read() == b"first"
        # The peer is as bad as it is meant to be: one told to trust it overwrites.
        trusting = opened(moto, endpoint=proxy.url, prefix="ignores", conditional_puts=True)
        assert trusting.put("a", b"third") is True


@SWIFT
def test_refusals_of_a_real_store(swift, opened):
    """Wrong credentials and a bucket that is not there are told apart, permanently, with a cure."""
    for facts, error in (
        ({"secret": Secret("wrong")}, AccessRefused),
        ({"access_key": "test:nobody"}, AccessRefused),
        ({"bucket": "not-there"}, BucketMissing),
    ):
        volume = opened(swift, **facts)
        for ask in (lambda v=volume: v.put("a", b"x"), lambda v=volume: list(v.names())):
            with pytest.raises(error) as told:
                ask()
            assert told.value.permanent
            assert told.value.hint
            assert "wrong" not in str(told.value)
        assert not volume.check().usable


@SWIFT
def test_damage_on_the_way_to_a_real_store(swift, opened):
    """A body that is damaged on the way is refused by the store, and nothing is stored."""
    proxy = FaultProxy(swift.port, rate=1.0, faults=("request damaged",))
    volume = opened(swift, prefix="damaged", conditional_puts=False)
    with proxy.running():
        through = opened(swift, prefix="damaged", endpoint=proxy.url, conditional_puts=False)
        with pytest.raises(CorruptObject):
            through.put("a", b"x" * 1_000)
    assert not volume.exists("a")


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (403, "AccessDenied", AccessRefused),
        (403, "InvalidAccessKeyId", AccessRefused),
        (403, "SignatureDoesNotMatch", AccessRefused),
        (403, "RequestTimeTooSkewed", ClockSkewed),
        (403, "", AccessRefused),
        (404, "NoSuchBucket", BucketMissing),
        (400, "BadDigest", CorruptObject),
        (403, "QuotaExceeded", SpaceExhausted),
        (507, "XMinioStorageFull", SpaceExhausted),
        (507, "", SpaceExhausted),
        (500, "InternalError", VolumeUnreachable),
        (502, "", VolumeUnreachable),
        (503, "SlowDown", VolumeBusy),
        (429, "", VolumeBusy),
        (400, "AuthorizationHeaderMalformed", VolumeError),
        (400, "InvalidStorageClass", VolumeError),
        (418, "Teapot", VolumeError),
    ],
)
def test_answers_have_their_meaning(answering, status, code, error):
    """Each answer of a store is the error that says whether to go on and what to do."""
    proxy, volume = answering
    proxy.answer = (status, f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode())
    proxy.answer_headers = {b"retry-after": b"7"}
    with pytest.raises((VolumeError, SpaceExhausted)) as told:
        volume.put("a", b"x")
    assert type(told.value) is error
    assert told.value.facts["status"] == status
    transient = (VolumeUnreachable, VolumeBusy, CorruptObject, SpaceExhausted)
    assert getattr(told.value, "permanent", False) is (error not in transient)
    assert told.value.hint or code == "Teapot"
    if error is VolumeBusy:
        assert told.value.wait_seconds == 7.0


@pytest.fixture(scope="module")
def answering(moto):
    proxy = FaultProxy(moto.port)
    with proxy.running():
        volume = S3Volume(moto.settings(endpoint=proxy.url, prefix="answers", conditional_puts=True))
        yield proxy, volume
        volume.close()


@pytest.mark.parametrize("body", [b"", b"<html>Welcome to the hotel</html>", b"<ListBucketResult><Cont"])
def test_answers_that_are_none(answering, body):
    """Success told by somebody who is no store stores nothing, reads nothing and is no empty listing."""
    proxy, volume = answering
    proxy.answer, proxy.answer_headers = (200, body), {}
    for ask in (lambda: volume.put("a", b"x"), lambda: volume.get("a"), lambda: list(volume.names())):
        with pytest.raises(VolumeUnreachable) as told:
            ask()
        assert not told.value.permanent


def test_a_writer_that_may_not_delete(moto, opened):
    """Credentials without the permission to delete are usable; the probe says what that means for purge."""
    refusal = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
    proxy = FaultProxy(moto.port, answer=(403, refusal), answer_to=b"DELETE ")
    with proxy.running():
        volume = opened(moto, endpoint=proxy.url, prefix="writer")
        report = volume.check()
        assert report.usable
        assert report.able("delete") is False
        assert "purge" in report.problems[0].hint
        volume.put("a", b"x")
        with pytest.raises(AccessRefused):
            volume.delete("a")
        assert volume.exists("a")


def test_object_lock(moto, opened):
    """What is put with a retention can't be deleted before it ends, and the volume says until when."""
    moto.make_bucket("locked", ObjectLockEnabledForBucket=True)
    keeping = opened(moto, bucket="locked", retention=Retention(days=3, mode="COMPLIANCE"))
    assert keeping.check().able("object_lock") is True
    assert keeping.put("a", b"x")
    until = keeping.described("a").retained_until
    assert until is not None
    assert timedelta(days=2) < until - datetime.now(UTC) < timedelta(days=4)
    # One that knows nothing of the retention is refused as well: a deletion would only hide the object.
    for volume in (keeping, opened(moto, bucket="locked")):
        with pytest.raises(RetainedObject) as told:
            volume.delete("a")
        assert told.value.permanent
    assert keeping.get("a").read() == b"x"


def test_a_retention_that_nobody_keeps(moto, opened):
    """A retention on a bucket without object lock is told, with what to do."""
    report = opened(moto, prefix="unlocked", retention=Retention(days=3)).check()
    assert [finding.what for finding in report.problems] == ["object_lock"]


def test_storage_classes(moto, opened):
    """Content at the threshold lies in infrequent access, smaller content does not."""
    volume = opened(moto, prefix="classes", use_infrequent_access=True, infrequent_access_threshold=100)
    volume.put("small", b"x" * 99)
    volume.put("large", b"x" * 100)
    assert volume.described("small").storage_class in ("", "STANDARD")
    assert volume.described("large").storage_class == "STANDARD_IA"


def test_a_listing_over_pages(store, opened, monkeypatch):
    """A listing of several pages gives every name once, in order, and passes what is no name of ours."""
    monkeypatch.setattr(s3, "NAMES_A_PAGE", 3)
    volume = opened(store, prefix="pages")
    for number in range(10):
        volume.put(f"{number:04}", b"")
    with store.directly() as direct:
        direct.call("put_object", Key="pages/00 Photo of the year.jpg", Body=b"")
    assert list(volume.names()) == [f"{number:04}" for number in range(10)]
    assert list(volume.names_after("", "0007")) == ["0008", "0009"]
    assert volume.counts().requests["list_objects_v2"] >= 5


@SWIFT
def test_unfinished_uploads_are_removed(swift, opened):
    """Parts of uploads that nobody will end are removed once they are old, and not before."""
    volume = opened(swift, prefix="unfinished")
    with swift.directly() as direct:
        direct.call("create_multipart_upload", Key="unfinished/a")
        assert volume.remove_leftovers(datetime.now(UTC) - timedelta(days=1)) == 0
        assert volume.remove_leftovers(datetime.now(UTC) + timedelta(minutes=5)) == 1
        assert not direct.call("list_multipart_uploads", Prefix="unfinished/").get("Uploads")


def test_two_servers_share_a_bucket(store, opened):
    """Two servers in one bucket claim a prefix each, see only their own, and are refused the other's."""
    bucket = opened(store, prefix="shared")
    one, two = Prefixed(bucket, "srv1"), Prefixed(bucket, "srv2")
    ownership.claim(one, "server-1", NOW)
    ownership.claim(two, "server-2", NOW)
    one.put("items/a", b"one")
    assert list(two.names()) == [ownership.NAME]
    with pytest.raises(PlaceRefused, match="server-1"):
        ownership.claim(one, "server-2", NOW)
    other = opened(store, prefix="shared/srv1")
    with pytest.raises(PlaceRefused, match="server-1"):
        ownership.require(other, "server-2")


def test_close_while_a_store_hangs(moto, opened):
    """A volume whose store takes requests and never answers is closed at once, and who waits is told."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        volume = opened(moto, endpoint=url, conditional_puts=True)
        told: list[Exception] = []

        def put() -> None:
            try:
                volume.put("a", b"x")
            except VolumeError as error:
                told.append(error)

        waiting = threading.Thread(target=put)
        waiting.start()
        silent.accept()
        began = time.monotonic()
        volume.close()
        waiting.join(10)
        assert time.monotonic() - began < 5
    assert [type(error) for error in told] == [VolumeClosed]
    with pytest.raises(VolumeClosed):
        volume.exists("a")


def test_a_store_that_does_not_answer_in_time(moto, opened):
    """A request that is not answered in time fails as transient, whatever the rest of it would take."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        volume = opened(moto, endpoint=url, request_seconds=0.5)
        with pytest.raises(VolumeUnreachable, match="in time") as told:
            volume.exists("a")
    assert not told.value.permanent
    assert told.value.uncertain


def test_the_machine_s_own_settings_stay_out(moto, opened, monkeypatch, tmp_path):
    """Profiles and endpoints that the environment names for other programs change nothing here."""
    (tmp_path / "config").write_text("[default]\nendpoint_url = http://127.0.0.1:9\nregion = nowhere-1\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "of-somebody-else")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another")
    assert opened(moto, prefix="environment").put("a", b"x")


@SWIFT
def test_the_older_signature(swift, opened):
    """A store that wants signatures of version 2 gets them, and content comes back."""
    volume = opened(swift, prefix="signed", signature_version="V2")
    assert volume.put("items/a+b,=", b"content")
    assert volume.get("items/a+b,=").read() == b"content"


def test_certificates(moto, opened, tmp_path):
    """A store with a certificate of its own authority is used with the CA file, and refused without it."""
    proxy = FaultProxy(moto.port, certificates=make_certificates(tmp_path))
    with proxy.running():
        trusting = opened(moto, endpoint=proxy.url, prefix="tls", ca_file=tmp_path / "ca.crt")
        assert trusting.put("a", b"x")
        assert trusting.get("a").read() == b"x"
        doubting = opened(moto, endpoint=proxy.url, prefix="tls")
        with pytest.raises(VolumeError, match="not trusted") as told:
            doubting.put("b", b"x")
        assert told.value.permanent
        assert "CA file" in told.value.hint
    assert trusting.check().able("reach") is False


def test_a_ca_file_that_is_not_there(moto, opened, tmp_path):
    """A CA file that can't be read, or is none, is told as such, and not as a store that is away."""
    (tmp_path / "none.crt").write_text("nothing\n")
    volume = opened(moto, endpoint="https://localhost:9", ca_file=tmp_path / "none.crt")
    with pytest.raises(VolumeError, match="CA file") as told:
        volume.exists("a")
    assert told.value.permanent
    (tmp_path / "none.crt").unlink()
    with pytest.raises(VolumeError, match="CA file") as told:
        volume.put("a", b"x")
    assert told.value.permanent
