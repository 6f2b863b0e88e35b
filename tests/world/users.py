"""Users who do random things on a mail host, and a memory of what must be so after each of them.

`Users` holds every living item and folder of a tree as it was built, does one random thing after the other,
and keeps its memory true. `photograph` is that memory at a moment. An item's id is known from the start where
docs/directory-layout.md promises it; else it is learned from the backup once, and must stay so.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from backupd.appservers.file_trees import DIRECTORY_OF_AREA
from backupd.items import Area, Kind, digest_of
from tests.world.mailhost import MailHost
from tests.world.mailtree import generated_message, make_maildir

WORDS = {"D": "draft", "F": "flagged", "P": "forwarded", "R": "answered", "S": "seen", "T": "deleted"}
"""Maildir's flag letters as photographs name them."""


@dataclass(eq=False)
class Handle:
    """One item for its whole life. `id` is empty until it is known."""

    account: str
    id: str = ""


@dataclass(frozen=True)
class Expected:
    """One item as it must be in the backup. `name` is a document's; `area` a folder's."""

    handle: Handle
    kind: Kind
    folder: str
    flags: tuple[str, ...] = ()
    digest: str | None = None
    name: str = ""
    area: str = ""


@dataclass
class Thing:
    """A living item: what is expected of it, its file, and whether it was touched since the last look."""

    expected: Expected
    path: Path
    touched: bool = False
    confirmed: bool = False


@dataclass
class Users:
    """The users of a whole host."""

    host: MailHost
    dice: random.Random
    things: list[Thing] = field(default_factory=list)
    folders: dict[tuple[str, Area, str], Handle] = field(default_factory=dict)
    done: dict[str, int] = field(default_factory=dict)
    _number: int = 0

    def __post_init__(self) -> None:
        for address in self.host.addresses:
            self._remember_mail(address)
            for area in (Area.CONTACTS, Area.CALENDARS, Area.FILES):
                self._remember_tree(address, area)

    def photograph(self) -> list[Expected]:
        """Return what must be in the backup now."""
        folders = [
            Expected(handle, Kind.FOLDER, folder, area=area.value)
            for (_, area, folder), handle in self.folders.items()
        ]
        return [thing.expected for thing in self.things] + folders

    def rest(self) -> None:
        """Note that everything done so far was seen."""
        for thing in self.things:
            thing.touched, thing.confirmed = False, True

    def act(self, count: int) -> None:
        """Do so many random things."""
        actions: list[tuple[int, Callable[[], bool]]] = [
            (24, self._deliver), (24, self._flag), (12, self._move), (4, self._move_like_dovecot),
            (5, self._copy), (8, self._delete), (6, self._write_contact), (6, self._write_appointment),
            (6, self._write_document), (3, self._rename_document), (2, self._make_folder),
            (1, self._rename_folder), (1, self._delete_folder),
        ]  # fmt: skip
        weights = [weight for weight, _ in actions]
        while count:
            action = self.dice.choices(actions, weights)[0][1]
            if action():
                name = action.__name__.strip("_")
                self.done[name] = self.done.get(name, 0) + 1
                count -= 1

    # ------------------------------------------------------------------ memory

    def _remember_mail(self, address: str) -> None:
        maildir = self.host.tree.maildir(address)
        for directory in [maildir, *sorted(maildir.glob(".[!.]*"))]:
            folder = "INBOX" if directory == maildir else directory.name[1:].replace(".", "/")
            self.folders[address, Area.MAIL, folder] = Handle(address)
            for place in ("new", "cur"):
                for path in sorted((directory / place).iterdir()):
                    self._remember_message(address, folder, path)

    def _remember_message(self, address: str, folder: str, path: Path) -> Thing:
        base, _, letters = path.name.partition(":2,")
        expected = Expected(
            Handle(address, base), Kind.MESSAGE, folder, _words(letters), digest_of(path.read_bytes())
        )
        self.things.append(Thing(expected, path))
        return self.things[-1]

    def _remember_tree(self, address: str, area: Area) -> None:
        top = self.host.tree.account(address) / DIRECTORY_OF_AREA[area]
        for directory in [top, *sorted(path for path in top.rglob("*") if path.is_dir())]:
            self.folders[address, area, _below(directory, top)] = Handle(address)
        for path in sorted(path for path in top.rglob("*") if path.is_file()):
            self._remember_file(address, area, path)

    def _remember_file(self, address: str, area: Area, path: Path) -> Thing:
        top = self.host.tree.account(address) / DIRECTORY_OF_AREA[area]
        content = path.read_bytes()
        is_document = area is Area.FILES
        expected = Expected(
            Handle(address, "" if is_document else path.stem),
            kind_of(area, content),
            _below(path.parent, top),
            digest=digest_of(content),
            name=path.name if is_document else "",
        )
        self.things.append(Thing(expected, path))
        return self.things[-1]

    def _change(self, thing: Thing, path: Path, **facts: object) -> bool:
        thing.expected = replace(thing.expected, **facts)  # type: ignore[arg-type] # names of fields
        thing.path, thing.touched = path, True
        return True

    # ---------------------------------------------------------------- messages

    def _message(self, *, confirmed: bool = False) -> Thing | None:
        messages = [
            thing
            for thing in self.things
            if thing.expected.kind is Kind.MESSAGE and (thing.confirmed or not confirmed)
        ]
        return self.dice.choice(messages) if messages else None

    def _mail_folder(self, address: str) -> str:
        mine = [path for owner, area, path in self.folders if (owner, area) == (address, Area.MAIL)]
        return self.dice.choice(sorted(mine))

    def _deliver(self) -> bool:
        address = self.dice.choice(self.host.addresses)
        folder = "INBOX" if self.dice.random() < 0.7 else self._mail_folder(address)
        content = generated_message(self._next(), seed=77, size=self.dice.choice((200, 3000, 90_000)))
        self._remember_message(address, folder, self.host.deliver(address, content, folder)).touched = True
        return True

    def _flag(self) -> bool:
        thing = self._message()
        if thing is None:
            return False
        letters = "".join(sorted(self.dice.sample("DFPRST", self.dice.randrange(4))))
        return self._change(thing, self.host.flag(thing.path, letters), flags=_words(letters))

    def _move(self) -> bool:
        thing = self._message()
        if thing is None:
            return False
        address = thing.expected.handle.account
        folder = self._mail_folder(address)
        return self._change(thing, self.host.move(thing.path, address, folder), folder=folder)

    def _move_like_dovecot(self) -> bool:
        """Link the file under a new name, then remove the old one."""
        thing = self._message(confirmed=True)
        if thing is None:
            return False
        address, letters = thing.expected.handle.account, thing.path.name.partition(":2,")[2]
        folder = self._mail_folder(address)
        target = self.host.tree.maildir(address, folder) / "cur" / f"{self._base()}:2,{letters}"
        target.hardlink_to(thing.path)
        thing.path.unlink()
        return self._change(thing, target, folder=folder)

    def _copy(self) -> bool:
        thing = self._message()
        if thing is None:
            return False
        address, letters = thing.expected.handle.account, thing.path.name.partition(":2,")[2]
        folder = self._mail_folder(address)
        target = self.host.tree.maildir(address, folder) / "cur" / f"{self._base()}:2,{letters}"
        aside = target.parent.parent / "tmp" / target.name
        shutil.copyfile(thing.path, aside)
        aside.rename(target)
        self._remember_message(address, folder, target).touched = True
        return True

    def _delete(self) -> bool:
        thing = self.dice.choice(self.things)
        if thing.touched and thing.expected.kind is not Kind.MESSAGE:
            return False
        thing.path.unlink()
        self.things.remove(thing)
        return True

    # ------------------------------------------------------------------- files

    def _file(self, *kinds: Kind) -> Thing | None:
        """Return an untouched item, or now and then None: then a new one is to be made."""
        there = [thing for thing in self.things if thing.expected.kind in kinds and not thing.touched]
        return self.dice.choice(there) if there and self.dice.random() < 0.6 else None

    def _write_contact(self) -> bool:
        uid = f"contact-of-{self._next()}"
        text = f"BEGIN:VCARD\r\nVERSION:4.0\r\nUID:{uid}\r\nFN:Somebody {uid}\r\nEND:VCARD\r\n"
        return self._write(Area.CONTACTS, self._file(Kind.CONTACT), f"{uid}.vcf", text.encode())

    def _write_appointment(self) -> bool:
        uid, thing = f"event-of-{self._next()}", self._file(Kind.APPOINTMENT, Kind.TASK)
        is_task = thing.expected.kind is Kind.TASK if thing else self.dice.random() < 0.3
        part = "VTODO" if is_task else "VEVENT"
        text = (
            f"BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:-//test//EN\r\nBEGIN:{part}\r\nUID:{uid}\r\n"
            f"SUMMARY:{uid}\r\nDTSTART:20261124T100000Z\r\nEND:{part}\r\nEND:VCALENDAR\r\n"
        )
        return self._write(Area.CALENDARS, thing, f"{uid}.ics", text.encode())

    def _write_document(self) -> bool:
        number = self._next()
        content = generated_message(number, seed=78, size=self.dice.choice((0, 10, 5000, 200_000)))
        return self._write(Area.FILES, self._file(Kind.DOCUMENT), f"document {number}.txt", content)

    def _write(self, area: Area, thing: Thing | None, name: str, content: bytes) -> bool:
        """Edit an item in place or by replacing its file; without one make a new one."""
        address = thing.expected.handle.account if thing else self.dice.choice(self.host.addresses)
        path = thing.path if thing else self._tree_folder(address, area) / name
        if self.dice.random() < 0.5:
            path.write_bytes(content)
        else:
            aside = path.with_name(f".{path.name}.tmp")
            aside.write_bytes(content)
            aside.rename(path)
        if thing is None:
            self._remember_file(address, area, path).touched = True
            return True
        return self._change(thing, path, digest=digest_of(content))

    def _rename_document(self) -> bool:
        thing = self._file(Kind.DOCUMENT)
        if thing is None:
            return False
        address = thing.expected.handle.account
        target = self._tree_folder(address, Area.FILES) / f"renamed {self._next()}.txt"
        thing.path.rename(target)
        folder = _below(target.parent, self.host.tree.account(address) / "files")
        return self._change(thing, target, name=target.name, folder=folder)

    def _tree_folder(self, address: str, area: Area) -> Path:
        top = self.host.tree.account(address) / DIRECTORY_OF_AREA[area]
        mine = [path for owner, own_area, path in self.folders if (owner, own_area) == (address, area)]
        return top / self.dice.choice(sorted(mine))

    # ----------------------------------------------------------------- folders

    def _make_folder(self) -> bool:
        address, area = self.dice.choice(self.host.addresses), self.dice.choice(list(Area))
        name = f"Folder {self._next()}"
        if area is Area.MAIL:
            parent = self._mail_folder(address)
            name = name if parent == "INBOX" else f"{parent}/{name}"
            make_maildir(self.host.tree.maildir(address, name))
        else:
            parent_directory = self._tree_folder(address, area)
            (parent_directory / name).mkdir()
            top = self.host.tree.account(address) / DIRECTORY_OF_AREA[area]
            name = _below(parent_directory / name, top)
        self.folders[address, area, name] = Handle(address)
        return True

    def _some_folder(self) -> tuple[str, Area, str] | None:
        """Return a folder in which nothing happened since the last look."""
        free = [
            (address, area, path)
            for (address, area, path), handle in self.folders.items()
            if handle.id
            and path not in ("", "INBOX")
            and not any(thing.touched for thing in self._inside(address, area, path))
        ]
        return self.dice.choice(free) if free else None

    def _inside(self, address: str, area: Area, path: str) -> Iterator[Thing]:
        for thing in self.things:
            expected = thing.expected
            if expected.handle.account != address or _area_of(expected.kind) is not area:
                continue
            if expected.folder == path or expected.folder.startswith(f"{path}/"):
                yield thing

    def _rename_folder(self) -> bool:
        chosen = self._some_folder()
        if chosen is None:
            return False
        address, area, old = chosen
        new = f"{old.rpartition('/')[0]}/Renamed {self._next()}".lstrip("/")
        moved = list(self._inside(address, area, old))
        if area is not Area.MAIL:
            top = self.host.tree.account(address) / DIRECTORY_OF_AREA[area]
            (top / old).rename(top / new)
        for key in [key for key in self.folders if self._is_at_or_below(key, chosen)]:
            path = new + key[2][len(old) :]
            if area is Area.MAIL:
                tree = self.host.tree
                tree.maildir(address, key[2]).rename(tree.maildir(address, path))
            self.folders[address, area, path] = self.folders.pop(key)
        for thing in moved:
            folder = new + thing.expected.folder[len(old) :]
            directory = self._directory(address, area, folder)
            place = f"{thing.path.parent.name}/{thing.path.name}" if area is Area.MAIL else thing.path.name
            self._change(thing, directory / place, folder=folder)
        return True

    def _delete_folder(self) -> bool:
        chosen = self._some_folder()
        if chosen is None or len(list(self._inside(*chosen))) > 60:
            return False
        address, area, path = chosen
        for thing in list(self._inside(*chosen)):
            self.things.remove(thing)
        for key in [key for key in self.folders if self._is_at_or_below(key, chosen)]:
            del self.folders[key]
            if area is Area.MAIL:
                shutil.rmtree(self.host.tree.maildir(address, key[2]))
        if area is not Area.MAIL:
            shutil.rmtree(self._directory(address, area, path))
        return True

    def _directory(self, address: str, area: Area, folder: str) -> Path:
        if area is Area.MAIL:
            return self.host.tree.maildir(address, folder)
        return self.host.tree.account(address) / DIRECTORY_OF_AREA[area] / folder

    @staticmethod
    def _is_at_or_below(key: tuple[str, Area, str], top: tuple[str, Area, str]) -> bool:
        return key[:2] == top[:2] and (key[2] == top[2] or key[2].startswith(f"{top[2]}/"))

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _base(self) -> str:
        return f"1790000000.M{self._next():06d}P7.users"


def kind_of(area: Area, content: bytes) -> Kind:
    """Return the kind of a file, by what docs/directory-layout.md says of its area."""
    match area:
        case Area.CONTACTS:
            is_group = b"KIND:GROUP" in content.upper()
            return Kind.CONTACT_GROUP if is_group else Kind.CONTACT
        case Area.CALENDARS:
            task, appointment = content.find(b"BEGIN:VTODO"), content.find(b"BEGIN:VEVENT")
            is_task = task >= 0 and (appointment < 0 or task < appointment)
            return Kind.TASK if is_task else Kind.APPOINTMENT
        case _:
            return Kind.DOCUMENT


def _area_of(kind: Kind) -> Area:
    if kind is Kind.MESSAGE:
        return Area.MAIL
    if kind is Kind.DOCUMENT:
        return Area.FILES
    return Area.CONTACTS if kind in (Kind.CONTACT, Kind.CONTACT_GROUP) else Area.CALENDARS


def _words(letters: str) -> tuple[str, ...]:
    return tuple(sorted(WORDS[letter] for letter in letters))


def _below(path: Path, top: Path) -> str:
    return "" if path == top else path.relative_to(top).as_posix()
