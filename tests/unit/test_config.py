"""The configuration file: what it may say, where its defaults come from, and what is said of mistakes."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from backupd import config
from backupd.config import ConfigError
from backupd.config_sections import LogFormat, LogLevel, SmtpSecurity
from backupd.secret import SECRET_BYTES_MAX, Secret, read_secret

WHOLE = '[appserver]\nroot = "/var/vmail"\n'


def load(tmp_path: Path, text: str, **more: object) -> config.Config:
    file = tmp_path / "backupd.toml"
    file.write_text(text, "utf-8")
    return config.load(file, **{"environ": {"HOME": "/somewhere"}, "uid": 1000, **more})


def refusal(tmp_path: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert caught.value.exit_status == 78
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("key", ["webhook_url", "ping_url"])
def test_a_url_that_is_none_is_not_repeated(tmp_path: Path, key: str) -> None:
    """What should be a URL must begin like one; it is not printed, for its path may be a secret."""
    said = refusal(tmp_path, f"{WHOLE}[notifications]\n{key} = 'ftp://x.org/s3cret'\n")
    assert f"notifications.{key} must be a URL that begins with http:// or https://" in said
    assert "s3cret" not in said
    long = f"https://x.org/{'a' * 1_000}"
    loaded = load(tmp_path, f"{WHOLE}[notifications]\n{key} = '{long}'\n")
    assert getattr(loaded.notifications, key) == long


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("[sever]\n", ["unknown section 'sever'", "did you mean server?"]),
        ("root = '/x'\n", ["'root'", "below [appserver]"]),
        ("server = 3\n", ["server is a section"]),
        ("[server]\nnam = 'x'\n", ["server.nam", "did you mean name?"]),
        ("[broker]\npassword = 'hunter2'\n", ["broker.password", "password_file"]),
        ("[server]\nname = 3\n", ["server.name", "a text", "not 3"]),
        ("[server]\nname = ''\n", ["server.name", "1 to 255 characters"]),
        ('[server]\nid = "a\\u0000b"\n', ["server.id", "control characters"]),
        ("[server]\nbackup_path = 7\n", ["server.backup_path", "a path", "not 7"]),
        ("[server]\nbackup_path = ''\n", ["server.backup_path", "a path"]),
        ("[server]\nbackup_path = '~nobody-of-this-name/x'\n", ["server.backup_path", "home"]),
        ("[appserver]\nwatch = 1\n", ["appserver.watch", "true or false", "not 1"]),
        ("[appserver]\nkind = 'imap'\n", ["appserver.kind", '"directory"', "'imap'"]),
        ("[log]\nlevel = 'loud'\n", ["log.level", '"debug", "info", "warning", "error"']),
        ("[scan]\nworkers = -1\n", ["scan.workers", "a whole number from 0 to 64", "not -1"]),
        ("[scan]\nworkers = true\n", ["scan.workers", "a whole number"]),
        ("[scan]\nworkers = 1.5\n", ["scan.workers", "a whole number"]),
        ("[realtime]\nevent_bytes_max = 12\n", ["realtime.event_bytes_max", "from 1024"]),
        ("[server]\nname = 'x'\n", ["appserver.root is missing", "a path"]),
        ("[server]\nname = \n", ["no TOML", "line 2"]),
        ("[server]\nname = 'a'\nname = 'b'\n", ["no TOML", "line 3"]),
    ],
)
def test_a_mistake_is_named_exactly(tmp_path: Path, text: str, names: list[str]) -> None:
    """Each mistake gives one line that names the file, the key and what is valid."""
    told = refusal(tmp_path, text)
    assert str(tmp_path / "backupd.toml") in told
    assert [name for name in names if name not in told] == [], told


def test_a_password_in_the_wrong_place_is_not_repeated(tmp_path: Path) -> None:
    """A secret written where none belongs does not appear in the message."""
    assert "hunter2" not in refusal(tmp_path, "[broker]\npassword = 'hunter2'\n")
    assert "7777" not in refusal(tmp_path, "[broker]\npassword_file = 7777\n")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """A missing file, a folder, other bytes than UTF-8 and a huge file each have their own reason."""
    with pytest.raises(ConfigError, match=r"there is no configuration at .*missing\.toml"):
        config.load(tmp_path / "missing.toml")
    with pytest.raises(ConfigError, match="directory"):
        config.load(tmp_path)
    broken = tmp_path / "broken.toml"
    broken.write_bytes(b"[log]\n# fine\n# \xff\n")
    with pytest.raises(ConfigError, match="not UTF-8 in line 3"):
        config.load(broken)
    broken.write_bytes(b"#" * (config.FILE_BYTES_MAX + 1))
    with pytest.raises(ConfigError, match="larger than"):
        config.load(broken)


def test_a_service_has_the_places_of_the_file_hierarchy(tmp_path: Path) -> None:
    """Root, a system user and whatever systemd started use /etc, /var/lib, /opt and /run."""
    for more in (
        {"uid": 0},
        {"uid": 112},
        {"uid": 1000, "environ": {"STATE_DIRECTORY": "/var/lib/backupd"}},
    ):
        loaded = load(tmp_path, WHOLE, **more)
        assert loaded.server.backup_path == Path("/opt/zextras/backup/zextras")
        assert loaded.server.state_directory == Path("/var/lib/backupd")
        assert loaded.control.socket == Path("/run/backupd/control.sock")
    assert config.default_file({}, service=True) == Path("/etc/backupd/backupd.toml")


def test_a_plain_user_has_places_of_their_own(tmp_path: Path) -> None:
    """XDG variables are followed, relative ones ignored, and the home stands in for missing ones."""
    named = {"HOME": "/h", "XDG_STATE_HOME": "/s", "XDG_DATA_HOME": "rel", "XDG_RUNTIME_DIR": "/run/user/7"}
    loaded = load(tmp_path, WHOLE, environ=named)
    assert loaded.server.state_directory == Path("/s/backupd")
    assert loaded.server.backup_path == Path("/h/.local/share/backupd/backup")
    assert loaded.control.socket == Path("/run/user/7/backupd/control.sock")
    without = load(tmp_path, WHOLE, environ={"HOME": "/h"})
    assert without.control.socket == Path("/h/.local/state/backupd/control.sock")
    assert config.default_file({"HOME": "/h"}, service=False) == Path("/h/.config/backupd/backupd.toml")


def test_relative_paths_start_at_the_file(tmp_path: Path) -> None:
    """A relative path belongs to the folder of the file, wherever the daemon was started."""
    loaded = load(tmp_path, '[appserver]\nroot = "../mail"\n[server]\nbackup_path = "backup/"\n')
    assert loaded.appserver.root == tmp_path.parent / "mail"
    assert loaded.server.backup_path == tmp_path / "backup"


def test_every_key_can_be_set(tmp_path: Path) -> None:
    """Values given replace defaults, in every section."""
    loaded = load(
        tmp_path,
        '[server]\nid = "one"\nname = "mail"\n'
        '[broker]\nurl = "mqtts://b:8883"\nusername = "u"\nreceive_max = 7\n'
        '[appserver]\nroot = "/m"\nwatch = false\n[control]\nsocket = "/s"\ngroup = "admins"\n'
        '[log]\nformat = "console"\nlevel = "debug"\n'
        "[scan]\nworkers = 0\n[realtime]\ncoalesce_window_ms = 0\n"
        '[customizations]\npaths = ["/etc/postfix", "own"]\n'
        '[notifications]\nsmtp_host = "m"\nsmtp_security = "none"\nrecipients = ["a@b"]\n'
        '[metrics]\nlisten = "[::1]:9469"\n',
    )
    assert loaded.customizations.paths == (Path("/etc/postfix"), tmp_path / "own")
    assert loaded.notifications.smtp_security is SmtpSecurity.NONE
    assert (loaded.notifications.recipients, loaded.metrics.listen) == (("a@b",), "[::1]:9469")
    assert (loaded.server.id, loaded.server.name, loaded.broker.receive_max) == ("one", "mail", 7)
    assert (loaded.appserver.watch, loaded.control.group, loaded.scan.workers) == (False, "admins", 0)
    assert (loaded.log.format, loaded.log.level) == (LogFormat.CONSOLE, LogLevel.DEBUG)
    assert (loaded.realtime.coalesce_window_ms, loaded.broker.is_embedded) == (0, False)
    assert load(tmp_path, WHOLE).broker.is_embedded


def test_a_server_id_is_made_once_and_kept(tmp_path: Path) -> None:
    """Without an id in the file one is made, the same ever after; one in the file wins."""
    state = f'[server]\nstate_directory = "{tmp_path}/state"\n'
    server = load(tmp_path, WHOLE + state).server
    made = config.server_id(server)
    assert len(made) == 36
    assert config.server_id(server) == made
    assert config.server_id(load(tmp_path, f'{WHOLE}{state}id = "mine"\n').server) == "mine"
    assert (tmp_path / "state").stat().st_mode & 0o077 == 0


def test_a_server_id_that_cannot_be_kept_is_refused(tmp_path: Path) -> None:
    """A new id at every start would orphan the backup, so that an unusable or damaged file is an error."""
    (tmp_path / "state").write_text("a file is in the way")
    server = load(tmp_path, f'{WHOLE}[server]\nstate_directory = "{tmp_path}/state"\n').server
    with pytest.raises(ConfigError, match="can't be kept"):
        config.server_id(server)
    (tmp_path / "state").unlink()
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "server_id").write_bytes(b"\n")
    with pytest.raises(ConfigError, match="can't be kept"):
        config.server_id(server)


def test_a_chosen_backup_path_holds_until_taken_back(tmp_path: Path) -> None:
    """What an admin chose while running wins over the file at the next start, and can be undone."""
    server = load(tmp_path, f'{WHOLE}[server]\nstate_directory = "{tmp_path}"\nbackup_path = "/a"\n').server
    assert config.backup_path(server) == Path("/a")
    config.choose_backup_path(server, Path("/b c"))
    assert config.backup_path(server) == Path("/b c")
    config.choose_backup_path(server, None)
    assert config.backup_path(server) == Path("/a")
    with pytest.raises(ConfigError, match="absolute"):
        config.choose_backup_path(server, Path("b"))


def test_the_password_comes_from_file_credential_or_environment(tmp_path: Path) -> None:
    """The configured file wins over the systemd credential, and that over the environment."""
    environ = {"BACKUPD_BROKER_PASSWORD": "from-environment", "CREDENTIALS_DIRECTORY": str(tmp_path)}
    plain = load(tmp_path, WHOLE).broker
    assert config.broker_password(plain, {}) is None
    assert config.broker_password(plain, environ) == Secret("from-environment")
    (tmp_path / "broker_password").write_text("from-credential\n")
    assert config.broker_password(plain, environ) == Secret("from-credential")
    (tmp_path / "own").write_text("from-file\r\nsecond line\n")
    named = load(tmp_path, f'{WHOLE}[broker]\npassword_file = "own"\n').broker
    assert config.broker_password(named, environ) == Secret("from-file")


def test_a_password_file_without_a_password_is_refused(tmp_path: Path) -> None:
    """Missing, empty, too large and undecodable files are errors, which never show what was read."""
    file = tmp_path / "password"
    with pytest.raises(ConfigError, match="can't be read"):
        read_secret(file)
    for content in (b"", b"\nsecond", b"x" * (SECRET_BYTES_MAX + 1), b"hunter2\xff"):
        file.write_bytes(content)
        with pytest.raises(ConfigError) as caught:
            read_secret(file)
        assert "hunter2" not in str(caught.value)


def test_a_secret_shows_itself_to_nobody() -> None:
    """Neither text, repr, format nor pickle contain a secret, and it can't be a key."""
    secret = Secret("hunter2")
    assert "hunter2" not in f"{secret} {secret!r} {[secret]}"
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    with pytest.raises(TypeError):
        hash(secret)
    assert secret.revealed == "hunter2"


def test_a_secret_that_everybody_may_read_is_warned_about(tmp_path: Path) -> None:
    """A password file with mode 0644 works and is named in a warning; 0640 is fine."""
    file = tmp_path / "password"
    file.write_text("x")
    loaded = load(tmp_path, f'{WHOLE}[broker]\npassword_file = "{file}"\n')
    file.chmod(0o640)
    assert config.warnings(loaded) == []
    file.chmod(0o644)
    assert [str(file) in warning for warning in config.warnings(loaded)] == [True]
