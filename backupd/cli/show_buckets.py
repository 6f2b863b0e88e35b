"""Showing bucket configurations, in the layout of the specification's sample."""

from __future__ import annotations

from collections.abc import Sequence

from backupd.cli.page import Page
from backupd.cli.text import visible, yes_no
from backupd.control import BucketsReply
from backupd.volume_views import BucketUseView, BucketView

_WIDTH = 60
_SERVER_INDENT = 16
_SERVER_WIDTH = 50
UNUSED = "unused"


def show_buckets(reply: BucketsReply, page: Page) -> None:
    """Show bucket configurations, a block each."""
    if not reply.buckets:
        page.line("no bucket is known; backupctl core doCreateBucket makes one known")
    for number, view in enumerate(reply.buckets):
        if number:
            page.line()
        for name, value in _fields(view):
            if value:
                page.line(f"{name:<{_WIDTH}}{visible(value)}")
        _show_usage("usage in powerstore volumes", view.powerstore_usage, page)
        _show_usage("usage in external backup", view.backup_usage, page)
    if reply.note:
        page.line()
        page.line(visible(reply.note), style="yellow")


def _fields(view: BucketView) -> Sequence[tuple[str, str]]:
    return (
        ("bucketName", view.bucket_name),
        ("protocol", view.protocol),
        ("storeType", view.store_type),
        ("accessKey", view.access_key),
        ("secret", view.secret),
        ("secretFile", view.secret_file),
        ("region", view.region),
        ("url", view.url),
        ("prefix", view.prefix),
        ("label", view.label),
        ("notes", view.notes),
        ("signatureVersion", "" if view.signature_version == "V4" else view.signature_version),
        ("pathStyle", yes_no(view.path_style)),
        ("caFile", view.ca_file),
        ("destinationPath", view.destination_path),
        ("uuid", view.uuid),
    )


def _show_usage(name: str, usage: Sequence[BucketUseView], page: Page) -> None:
    if not usage:
        page.line(f"{name:<{_WIDTH}}{UNUSED}")
        return
    page.line(name)
    for one in usage:
        volume = f"volume: {visible(one.volume)}" if one.volume else ""
        server = f"server: {visible(one.server)}"
        page.line(f"{' ' * _SERVER_INDENT}{server:<{_SERVER_WIDTH}}{volume}".rstrip())
