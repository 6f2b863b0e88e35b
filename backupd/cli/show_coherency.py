"""Showing what coherency checks found: numbers by code with their meaning, then the findings."""

from __future__ import annotations

from backupd.cli.page import Page
from backupd.cli.text import local, visible
from backupd.control import CoherencyReply

FINDINGS_SHOWN_MAX = 100
STYLE = {"danger": "bold red", "attention": "yellow", "mild": "cyan", "told": "dim"}


def show_coherency(reply: CoherencyReply, page: Page) -> None:
    """Show the verdict, the summary by code, then the findings up to a bound."""
    page.fields(
        (
            ("Backup Path", visible(reply.path)),
            ("last check", local(reply.checked) or "never"),
            ("last whole pass", local(reply.last_whole)),
            ("this pass", f"{reply.share:.1%} done" if 0 < reply.share < 1 else ""),
        )
    )
    if reply.verdict:
        page.line(visible(reply.verdict), style="green" if reply.clean else "bold red")
    if not reply.counts:
        return
    page.line()
    page.table(
        ("code", "count", "what it means"),
        [(visible(one.code), f"{one.count:,}", visible(one.meaning)) for one in reply.counts],
    )
    page.line()
    for one in reply.findings[:FINDINGS_SHOWN_MAX]:
        whose = f" ({', '.join(visible(item) for item in one.items[:3])})" if one.items else ""
        detail = f": {visible(one.detail)}" if one.detail else ""
        page.line(
            f"{visible(one.code)}  {visible(one.path) or '.'}{whose}{detail}", style=STYLE[one.severity]
        )
        if one.left:
            page.line(f"  not mended: {visible(one.left)}")
    rest = reply.more + max(0, len(reply.findings) - FINDINGS_SHOWN_MAX)
    if rest:
        page.line(f"and {rest:,} more; --json lists up to a thousand")
    page.line()
    for count in reply.counts:
        page.line(f"{visible(count.code)}: {visible(count.cure)}")
