"""From what a store or the way to it answered to a typed error that says what to do. Pure.

The first table goes by the code in the answer, which says more; the second by HTTP status, for stores with
codes of their own and for what proxies answer in their place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import aiobotocore.httpsession
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    ProxyConnectionError,
    ReadTimeoutError,
    SSLError,
)

from backupd.errors import BackupdError, SpaceExhausted, VolumeError
from backupd.volumes.failures import (
    AccessRefused,
    BucketMissing,
    ClockSkewed,
    CorruptObject,
    VolumeBusy,
    VolumeUnreachable,
)

# The transport's errors that the client lets through, e.g. when a body ends early. The engine imports no
# HTTP library of its own, so it takes the class where the client has it from.
_TransportError: type[Exception] = aiobotocore.httpsession.aiohttp.ClientError

TRANSPORT_ERRORS = (BotoCoreError, _TransportError, TimeoutError, OSError)
"""Everything but an answer of the store (`ClientError`) that a request may raise."""
NOT_SENT = (EndpointConnectionError, ConnectTimeoutError, ProxyConnectionError)
WAIT_SECONDS_MAX = 300.0


class KeyMissing(VolumeError):
    """No object of this key; the volume says which name that is."""


class KeyTaken(VolumeError):
    """A conditional put found an object under its key."""


class KeyContended(VolumeError):
    """Another write to the key was under way."""


class RangeBeyond(VolumeError):
    """The wished range begins behind the end of the object."""


EXPECTED = (KeyMissing, KeyTaken, RangeBeyond)
"""Answers that are no failure of anything."""


def told_transport(error: Exception, operation: str, place: str) -> BackupdError:
    """Return what an error of the way to the store means."""
    if isinstance(error, SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
        return VolumeError(
            f"{place}: the store's certificate is not trusted: {_brief(error)}",
            permanent=True,
            hint="name the file of the authority that signed it as its CA file, or correct the URL",
            operation=operation,
        )
    if isinstance(error, (TimeoutError, ReadTimeoutError)):
        return VolumeUnreachable(f"{place} did not answer in time ({operation})", operation=operation)
    return VolumeUnreachable(
        f"{place} can't be reached: {_brief(error)}",
        uncertain=not isinstance(error, NOT_SENT),
        hint="look at the network, the URL and the store itself; work goes on by itself",
        operation=operation,
    )


def told_answer(error: ClientError, operation: str, bucket: str, place: str) -> BackupdError:
    """Return what an answer of the store means that is no success."""
    answer: Mapping[str, Any] = error.response or {}
    told = answer.get("Error", {})
    meta = answer.get("ResponseMetadata", {})
    status = int(meta.get("HTTPStatusCode") or 0)
    code = str(told.get("Code") or status)
    message = f"{place} answered {code} to {operation}: {told.get('Message') or 'without a reason'}"
    facts: dict[str, Any] = {"status": status, "code": code, "operation": operation}
    if code == "NoSuchBucket":
        return BucketMissing(bucket, **facts)
    if code in _BY_CODE:
        return _BY_CODE[code](message, facts, meta)
    if status in _BY_STATUS:
        return _BY_STATUS[status](message, facts, meta)
    if status >= 500 or status < 400:  # noqa: PLR2004 - the classes of HTTP statuses
        return _unreachable(message, facts, meta)
    return VolumeError(message, permanent=True, **facts)


_Facts = dict[str, Any]
_Meaning = Callable[[str, _Facts, Mapping[str, Any]], BackupdError]


def _unreachable(message: str, facts: _Facts, _: Mapping[str, Any]) -> BackupdError:
    return VolumeUnreachable(message, hint="the store has a failure of its own; it is asked again", **facts)


def _busy(message: str, facts: _Facts, meta: Mapping[str, Any]) -> BackupdError:
    asked = str(meta.get("HTTPHeaders", {}).get("retry-after", ""))
    seconds = min(float(asked), WAIT_SECONDS_MAX) if asked.isdigit() else 0.0
    return VolumeBusy(message, wait_seconds=seconds, hint="it is asked again, more slowly", **facts)


def _damaged(message: str, facts: _Facts, _: Mapping[str, Any]) -> BackupdError:
    return CorruptObject(message, hint="bytes were damaged on the way; they are sent again", **facts)


def _full(message: str, facts: _Facts, _: Mapping[str, Any]) -> BackupdError:
    return SpaceExhausted(message, hint="make room at the store or raise its quota", **facts)


def _skewed(message: str, facts: _Facts, _: Mapping[str, Any]) -> BackupdError:
    return ClockSkewed(message, **facts)


def _refused(hint: str) -> _Meaning:
    return lambda message, facts, _: AccessRefused(message, hint=hint, **facts)


def _never(hint: str) -> _Meaning:
    return lambda message, facts, _: VolumeError(message, permanent=True, hint=hint, **facts)


def _as(kind: type[VolumeError], *, permanent: bool = True) -> _Meaning:
    return lambda message, facts, _: kind(message, permanent=permanent, **facts)


_WRONG_SECRET = _refused("the secret does not belong to the access key: enter both again")
_UNKNOWN_KEY = _refused("the store does not know the access key, or it was revoked: enter a valid one")
_NOT_ALLOWED = _refused("give these credentials the permissions that docs/external-storage.md lists")
_ENDED = _refused("these credentials have run out: enter lasting ones")
_WRONG_REGION = _never("the bucket lies in another region: correct region or URL")
_NOT_OFFERED = _never("this store does not offer that")

_BY_CODE: dict[str, _Meaning] = {
    "NoSuchKey": _as(KeyMissing),
    "PreconditionFailed": _as(KeyTaken),
    "ConditionalRequestConflict": _as(KeyContended, permanent=False),
    "OperationAborted": _as(KeyContended, permanent=False),
    "InvalidRange": _as(RangeBeyond),
    "SlowDown": _busy,
    "ServiceUnavailable": _busy,
    "TooManyRequests": _busy,
    "Throttling": _busy,
    "ThrottlingException": _busy,
    "RequestLimitExceeded": _busy,
    "RequestTimeout": _unreachable,
    "IncompleteBody": _damaged,
    "BadDigest": _damaged,
    "XAmzContentSHA256Mismatch": _damaged,
    "XAmzContentChecksumMismatch": _damaged,
    "RequestTimeTooSkewed": _skewed,
    "RequestExpired": _skewed,
    "SignatureDoesNotMatch": _WRONG_SECRET,
    "InvalidAccessKeyId": _UNKNOWN_KEY,
    "AccessDenied": _NOT_ALLOWED,
    "AllAccessDisabled": _NOT_ALLOWED,
    "AccountProblem": _refused("the provider has closed the account or asks for something: ask the provider"),
    "ExpiredToken": _ENDED,
    "InvalidToken": _ENDED,
    "PermanentRedirect": _WRONG_REGION,
    "AuthorizationHeaderMalformed": _WRONG_REGION,
    "IllegalLocationConstraintException": _WRONG_REGION,
    "InvalidStorageClass": _never("this store has no such class: turn infrequent access and tiering off"),
    "InvalidBucketName": _never("correct the bucket's name"),
    "NotImplemented": _NOT_OFFERED,
    "QuotaExceeded": _full,
    "InsufficientStorage": _full,
    "XMinioStorageFull": _full,
    "XMinioAdminBucketQuotaExceeded": _full,
}
_BY_STATUS: dict[int, _Meaning] = {
    301: _WRONG_REGION,
    401: _UNKNOWN_KEY,
    403: _NOT_ALLOWED,
    404: _as(KeyMissing),
    407: _refused("the HTTP proxy on the way asks for a password"),
    408: _unreachable,
    409: _as(KeyContended, permanent=False),
    412: _as(KeyTaken),
    416: _as(RangeBeyond),
    429: _busy,
    501: _NOT_OFFERED,
    503: _busy,
    507: _full,
}


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
