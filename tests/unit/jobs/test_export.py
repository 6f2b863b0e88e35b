"""Export: the files of a mail host, through the backup, become the same files again, once and completely."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from backupd.appservers.directory import DirectoryServer
from backupd.appservers.maildir import mail_folders, read_keywords
from backupd.appservers.many import NewItem
from backupd.attributes import Scopes, Settings
from backupd.errors import BackupdError, SpaceExhausted, UnknownAccount, UsageError
from backupd.items import Kind
from backupd.jobs.restore.export import Export, Target, Wanted
from backupd.jobs.restore.export_place import KEPT, ExportRefused
from backupd.operations import Run, Verdict
from backupd.store.layout import blob_name
from daemon.enrolling import Enrolling
from daemon.wiring import export_target_maker
from tests.unit.jobs.worlds import BackupWorld
from tests.world import mailtree
from tests.world.corpus import WHERE, corpus_files

CORPUS_MESSAGES = 150
SAME_ID = "contacts/Personal/contact-77.vcf"
Files = tuple[Counter[Any], dict[str, Any]]


class TreeWorld(BackupWorld):
    """A backup of a mail tree's files."""

    def __init__(self, path: Path, root: Path) -> None:
        self.root = root
        path.mkdir(exist_ok=True)
        super().__init__(path / "backup")
        self.target_of = export_target_maker(self.clock)

    def make_enrolment(self) -> Enrolling:
        """Return who is backed up, by the settings."""
        self.settings = Settings(self.store.ledger)
        self.enrolling = Enrolling(self.store, self.settings, now=self.clock.now)
        return self.enrolling

    def open(self) -> None:
        """Open the store over the tree instead of a server in memory."""
        self.server: Any = DirectoryServer(
            self.root, identity_path=self.path.with_name("identities"), clock=self.clock
        )
        super().open()

    async def export(self, destination: Path, **wanted: Any) -> Verdict:
        """Export."""
        self.run = Run(self.clock)
        exporting = Export(
            self.store,
            clock=self.clock,
            make_target=self.make_target,
            forbidden=(self.root,),
            enrolment=self.enrolling,
        )
        return await exporting.run(self.run, Wanted(destination=destination, **wanted))

    def make_target(self, root: Path, kept: Path) -> Target:
        """Make the target; a test may put another AppServer before it."""
        return self.target_of(root, kept)

    def known(self) -> Counter[Any]:
        """Return all live items as users would notice them, without the ids of files."""
        return Counter(
            (
                account.item,
                item.kind,
                item.digest,
                tuple(str(item.metadata.get(key)) for key in ("folder", "flags", "tags", "received", "name")),
            )
            for account in self.store.index.accounts()
            for item in self.store.index.items(account.item)
        )


def photograph(root: Path) -> Files:
    """Return a tree's messages by account, folder, bytes, flags, keywords and date; and its other files."""
    messages: Counter[Any] = Counter()
    others = {}
    for account in sorted(root.glob("*/*")):
        maildir = account / "Maildir"
        if not maildir.is_dir():
            continue
        for folder, directory in mail_folders(str(maildir)).items():
            names = read_keywords(str(maildir / directory))
            for path in (maildir / directory).glob("[cn][ue][rw]/*"):
                letters = path.name.partition(":2,")[2]
                flags = "".join(one for one in letters if one.isupper())
                words = tuple(sorted(names[one] for one in letters if one.islower()))
                fact = (folder, path.read_bytes(), flags, words, path.stat().st_mtime_ns)
                messages[str(account.relative_to(root)), fact] += 1
        for area in ("contacts", "calendars", "files"):
            for path in (account / area).rglob("*"):
                if path.is_file():
                    name = str(path.relative_to(root)) if area == "files" else path.read_bytes()
                    others[name, path.parent.relative_to(root)] = (path.read_bytes(), path.stat().st_mtime_ns)
    return messages, others


def build(place: Path, corpus: list[Path]) -> mailtree.MailTree:
    """Return a tree of two accounts with everything that an account may hold."""
    tree = mailtree.build(
        place / "vmail",
        accounts=2,
        messages=9,
        corpus=corpus,
        contacts=2,
        appointments=4,
        documents=2,
        size=300,
    )
    maildir = tree.account(tree.addresses[0]) / "Maildir"
    (maildir / "dovecot-keywords").write_text("0 work\n1 $Forwarded\n")
    for number, path in enumerate(sorted((maildir / "cur").iterdir())[:4]):
        path.rename(path.with_name(path.name + "ab"[number % 2]))
    mailtree.make_maildir(maildir / ".Empty")
    # Named as its UID, so that its id in an export is the id it has here.
    tree.write(tree.account(tree.addresses[0]) / SAME_ID, mailtree.generated_contact(77))
    return tree


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[TreeWorld]:
    tree = build(tmp_path, [])
    async with TreeWorld(tmp_path, tree.root) as made:
        await made.scan_all()
        yield made
        made.server.close()


@pytest.mark.parametrize("source", ["generated", "corpus"])
async def test_an_export_equals_the_source_and_is_backed_up_as_the_same(tmp_path, source):
    """Bytes, folders, flags, keywords and dates are those of the source; another backup finds the same."""
    corpus = corpus_files("mail")[::40][:CORPUS_MESSAGES] if source == "corpus" else []
    if source == "corpus" and not corpus:
        pytest.skip(f"the open corpus is not here: {WHERE}")
    tree = build(tmp_path, corpus)
    async with TreeWorld(tmp_path, tree.root) as world:
        await world.scan_all()
        verdict = await world.export(tmp_path / "out")
        assert verdict.successful, (verdict, world.run.errors)
        assert photograph(tmp_path / "out") == photograph(tree.root)
        expected = world.known()
        entries = {
            kind: [(one.item, one.metadata) for one in world.store.index.entries(kind)]
            for kind in (Kind.DOMAIN, Kind.COS, Kind.MAILING_LIST)
        }
        assert all(entries.values())
        world.server.close()
    async with TreeWorld(tmp_path / "again", tmp_path / "out") as other:
        await other.scan_all()
        assert other.known() == expected
        for kind, recorded in entries.items():
            there = other.store.index.entries(kind)
            assert [(one.item, one.metadata) for one in there] == recorded
        other.server.close()


async def test_a_second_export_puts_nothing_twice(world, tmp_path):
    """Given again, everything is skipped; what somebody removed from the export comes back."""
    first = await world.export(tmp_path / "out")
    before = photograph(tmp_path / "out")
    again = await world.export(tmp_path / "out")
    assert (again.counts["restored"], again.counts["skipped"]) == (0, first.counts["restored"])
    assert photograph(tmp_path / "out") == before
    next((tmp_path / "out").glob("*/*/Maildir/cur/*")).unlink()
    next((tmp_path / "out").glob(f"*/*/{SAME_ID}")).unlink()
    assert (await world.export(tmp_path / "out")).counts["restored"] == 2
    assert photograph(tmp_path / "out") == before


class Killed(BaseException):
    """The process is gone."""


class Breaking:
    """An AppServer whose process ends right after it has stored the n-th item of a kind."""

    def __init__(self, inner: DirectoryServer, kind: Kind, puts: int) -> None:
        self._inner = inner
        self._kind = kind
        self._left = puts

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def put_many(self, account: str, items: Sequence[NewItem]) -> list[str | BackupdError]:
        """Store, and perhaps die in the middle, before anybody hears of it."""
        for number, item in enumerate(items, 1):
            self._left -= item.kind is self._kind
            if self._left == 0 and item.kind is self._kind:
                await self._inner.put_many(account, items[:number])
                raise Killed
        return await self._inner.put_many(account, items)


@pytest.mark.parametrize(
    ("kind", "puts"),
    [(Kind.MESSAGE, 1), (Kind.MESSAGE, 12), (Kind.CONTACT, 3), (Kind.TASK, 1), (Kind.DOCUMENT, 4)],
)
async def test_an_export_that_was_killed_goes_on(world, tmp_path, kind, puts):
    """Killed between storing an item and our note of it, then given again: nothing is missing or doubled."""
    whole = world.make_target

    def breaking(root: Path, kept: Path) -> Target:
        target = whole(root, kept)
        broken: Any = Breaking(target.appserver, kind, puts)
        return msgspec.structs.replace(target, appserver=broken)

    world.make_target = breaking
    with pytest.raises(Killed):
        await world.export(tmp_path / "out")
    world.make_target = whole
    assert (await world.export(tmp_path / "out")).successful
    assert photograph(tmp_path / "out") == photograph(world.root)


async def test_what_a_kill_left_half_written_is_cleared_away(world, tmp_path):
    """Files and accounts without their names yet go; what looks alike and is an item, or a link, stays."""
    await world.export(tmp_path / "out")
    account = next((tmp_path / "out").glob("*/user0000"))
    left = (
        account / "contacts" / "Personal" / ".backupd-1.host",
        account / "Maildir" / "tmp" / "1.host",
        account / "Maildir" / ".Trash" / "tmp" / "1.host",
        account.parent / ".backupd-2.host" / "account.toml",
    )
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"half")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / ".backupd-mine").touch()
    (account.parent / ".backupd-link").symlink_to(outside)
    kept = account / "files" / "reports" / "tmp"
    kept.write_bytes(b"a document of this name")
    await world.export(tmp_path / "out")
    assert [path for path in left if path.exists()] == []
    assert not left[-1].parent.exists()
    assert (outside / ".backupd-mine").exists()
    assert kept.exists()
    assert (tmp_path / "out" / KEPT).is_dir()


async def test_places_that_are_no_export_are_refused_untouched(world, tmp_path):
    """A directory in use, a link, the mail, the Backup Path and places around them: nothing is written."""
    used = tmp_path / "used"
    used.mkdir()
    (used / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    inside = (world.root / "new", world.root, world.path / "new", tmp_path, Path("relative"))
    for place in (used, tmp_path / "link", *inside):
        with pytest.raises(ExportRefused):
            await world.export(place)
    assert [path.name for path in used.iterdir()] == ["file"]
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert not (world.root / "new").exists()


async def test_an_export_shows_one_moment_and_goes_on_with_no_other(world, tmp_path):
    """As of a moment; what came or went since is not seen; a directory takes one moment of one server."""
    then, before = world.clock.now(), photograph(world.root)
    await world.clock.advance(60)
    victim = next(world.root.glob("*/*/Maildir/cur/*"))
    victim.unlink()
    await world.scan_all(deep=True)
    assert (await world.export(tmp_path / "then", when=then)).successful
    assert photograph(tmp_path / "then") == before
    assert (await world.export(tmp_path / "now")).successful
    assert photograph(tmp_path / "now")[0] == photograph(world.root)[0]
    assert (await world.export(tmp_path / "all", filter_deleted=False)).successful
    assert sum(photograph(tmp_path / "all")[0].values()) == sum(before[0].values())
    with pytest.raises(ExportRefused, match="another moment"):
        await world.export(tmp_path / "then", when=world.clock.now())
    await world.clock.advance(60)
    assert (await world.export(tmp_path / "then")).counts["restored"] == 0
    with pytest.raises(UsageError):
        await world.export(tmp_path / "future", when=then.replace(year=then.year + 1))


async def test_filters_choose_accounts_with_what_belongs_to_them(world, tmp_path):
    """By address, domain and class of service; nobody's account is named, an unwanted domain is empty."""
    first = next(one for one in world.store.index.accounts() if "user0000" in one.metadata["name"])
    one = await world.export(tmp_path / "one", accounts=(str(first.metadata["name"]),))
    assert (one.counts["accounts"], one.counts["entries"]) == (1, 3)
    none = await world.export(tmp_path / "none", domains=("elsewhere.example",))
    assert (none.counts["accounts"], none.counts["expected"]) == (0, 0)
    assert (await world.export(tmp_path / "cos", cos=("DEFAULT",), skip_items=True)).counts["accounts"] == 2
    assert photograph(tmp_path / "cos")[0] == Counter()
    assert len(list((tmp_path / "cos").glob("*/*/account.toml"))) == 2
    with pytest.raises(UnknownAccount):
        await world.export(tmp_path / "nobody", accounts=("nobody@example.com",))
    whole = await world.export(tmp_path / "whole")
    then = world.clock.now()
    await world.clock.advance(60)
    next(world.root.glob("*/*/Maildir/cur/*")).unlink()
    await world.scan_all()
    dry = await world.export(tmp_path / "dry", when=then, dry_run=True)
    assert dry.sentence.startswith("dry run: 2 accounts")
    assert dry.counts["expected"] == whole.counts["expected"]
    assert not (tmp_path / "dry").exists()


async def test_who_is_not_backed_up_is_exported_only_by_name(world, tmp_path):
    """An export of all leaves it out; asked for by its address it goes along."""
    first = next(one for one in world.store.index.accounts() if "user0000" in one.metadata["name"])
    world.settings.set("backupEnabled", Scopes(account=first.item), given=False)
    assert (await world.export(tmp_path / "all", dry_run=True)).counts["accounts"] == 1
    named = await world.export(tmp_path / "one", dry_run=True, accounts=(str(first.metadata["name"]),))
    assert named.counts["accounts"] == 1


async def test_little_room_and_many_errors_stop_an_export(world, tmp_path):
    """Below the free space to keep, or beyond the errors to bear, it ends; without limits it goes on."""
    with pytest.raises(SpaceExhausted):
        await world.export(tmp_path / "full", free_bytes_min=1 << 62)
    known = [item for one in world.store.index.accounts() for item in world.store.index.items(one.item)]
    lost = {item.digest for item in known if item.kind is Kind.MESSAGE and item.digest}
    for digest in sorted(lost)[:3]:
        (world.path / blob_name(digest)).unlink()
    with pytest.raises(BackupdError, match="were to be borne"):
        await world.export(tmp_path / "some", read_errors_max=1)
    verdict = await world.export(tmp_path / "rest")
    assert not verdict.successful
    assert verdict.counts["unrestored"] >= 3
    assert verdict.counts["restored"] == verdict.counts["expected"] - verdict.counts["unrestored"]


async def test_links_planted_in_an_export_are_not_followed(world, tmp_path):
    """A link where a domain's directory is to be gets nothing written behind it."""
    out, behind = tmp_path / "out", tmp_path / "behind"
    behind.mkdir()
    await world.export(out, domains=("elsewhere.example",))
    domain = next(path.name for path in world.root.iterdir() if path.name not in ("cos", "lists"))
    shutil.rmtree(out / domain, ignore_errors=True)
    (out / domain).symlink_to(behind)
    verdict = await world.export(out)
    assert not verdict.successful
    assert list(behind.iterdir()) == []
    assert (out / KEPT / "export.json").is_file()
