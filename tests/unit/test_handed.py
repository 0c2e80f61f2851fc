"""Secrets that systemd hands to one process, and settings that name files which only another process may see."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.errors import UnreadableError
from agent.handed import handed
from agent.settings import MqttSettings
from agent.tls_settings import TlsSettings
from agent.uplink.trouble import from_exception
from tests.fakes.certificates import Authority

pytestmark = pytest.mark.unit


def test_a_credential_goes_before_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret, credentials = tmp_path / "uplink" / "broker.password", tmp_path / "credentials"
    secret.parent.mkdir()
    credentials.mkdir()
    secret.write_text("from the file\n")
    assert handed(secret) == secret
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    monkeypatch.setattr("agent.handed.SECRETS", tmp_path)
    assert MqttSettings(password_file=secret).secret() == "from the file"
    (credentials / "uplink_broker.password").write_text("handed over\n")
    assert MqttSettings(password_file=secret).secret() == "handed over"
    assert handed(tmp_path / "vision" / "broker.password").parent.name == "vision", "of another folder, hence another secret"
    for other in (tmp_path / "home" / "uplink", tmp_path / "uplink" / "uplink"):
        assert handed(other / "broker.password").parent == other, "of a folder that no unit hands over"


def test_files_that_cannot_be_read_are_no_broker_that_cannot_be_reached(tmp_path: Path) -> None:
    secret, pair = tmp_path / "broker.password", Authority(tmp_path).client("dev-1")
    secret.write_bytes(b"p\xe4ss")
    settings = MqttSettings(password_file=secret, tls=TlsSettings(cert_file=pair.cert, key_file=pair.key))
    assert settings.tls is not None
    with pytest.raises(UnreadableError, match=r"broker\.password cannot be read: it is not UTF-8 text") as wrong:
        settings.secret()
    assert "p\\xe4ss" not in repr(wrong.value)
    secret.unlink()
    pair.key.unlink()
    with pytest.raises(UnreadableError) as gone:
        settings.secret()
    with pytest.raises(UnreadableError, match=r"\.key cannot be read: No such file") as keyless:
        settings.tls.context()
    for error in (wrong.value, gone.value, keyless.value):
        trouble = from_exception(error, settings)
        assert trouble.code == "MQTT_FILE_UNREADABLE"
        assert "put the file there, or give the agent's user the right to read it" in trouble.message


def test_a_private_key_is_read_from_its_credential(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Authority(tmp_path / "uplink").client("dev-1")
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    pair.key.rename(credentials / f"uplink_{pair.key.name}")
    pair.key.write_text("closed to this process")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    monkeypatch.setattr("agent.handed.SECRETS", tmp_path)
    assert TlsSettings(cert_file=pair.cert, key_file=pair.key).context()


def test_a_file_in_a_folder_of_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    with pytest.raises(ValueError, match="there is no file"):
        MqttSettings(password_file=tmp_path / "none")
    monkeypatch.setattr(Path, "is_file", denied)
    assert MqttSettings(password_file=tmp_path / "none").password_file == tmp_path / "none"
