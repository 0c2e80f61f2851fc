"""Who gets a certificate of the fleet, who does not, and what is written down about it."""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from agent import wire
from agent.identity.keys import Key, Pair, new_key, public_bytes, request_for
from agent.identity.protocol import Issued, Renew, Waiting
from provisioning import ca
from provisioning.acl_matrix import all_topics, meant
from provisioning.ca import Authority, KeyFile, ca_request, sealed, signed_by_others
from provisioning.clones import Clones
from provisioning.errors import FleetError, RefusedError
from provisioning.limits import RateLimit
from provisioning.register import Register
from provisioning.requests import requested_key
from provisioning.settings import BrokerSettings, Fleet, FleetSettings
from tests.fakes.enrolment_desk import CA, HERE, Desk, certificate_of, renewal_body
from tests.fakes.small_disk import fill, on_small_disk

pytestmark = pytest.mark.unit


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with closing(Register(tmp_path / "register.sqlite")) as register:
        yield Desk(register)


def refused(desk: Desk, why: str, name: str, secret: bytes, key: Key | None = None) -> str:
    """Nobody is told more than that the token admits nobody; the register knows why. Returns what is told."""
    with pytest.raises(RefusedError) as error:
        desk.join(name, secret, key or new_key())
    assert desk.outcomes()[-1][:2] == ("join", "refused")
    assert why in desk.outcomes()[-1][2]
    return str(error.value)


def test_an_invitation_admits_one_key_of_one_name_once(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    secret = desk.register.invite("cam-1", 60.0)
    told = {
        refused(desk, "no invitation for this name", "cam-2", secret),
        refused(desk, "wrong", "cam-1", bytes(32)),
        refused(desk, "wrong", "cam-1", b""),
    }
    key = new_key()
    issued = desk.join("cam-1", secret, key)
    certificate = certificate_of(issued)
    certificate.verify_directly_issued_by(CA.certificate)
    assert certificate.subject.rfc4514_string() == "CN=cam-1"
    assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    assert (certificate.not_valid_after_utc - certificate.not_valid_before_utc) == timedelta(days=30, hours=1)
    assert desk.join("cam-1", secret, key) == issued, "an answer that was lost is given again"
    told.add(refused(desk, "used already", "cam-1", secret))
    late = desk.register.invite("cam-3", -1.0)
    told.add(refused(desk, "expired", "cam-3", late))
    first, _second = desk.register.invite("cam-4", 60.0), desk.register.invite("cam-4", 60.0)
    told.add(refused(desk, "replaced", "cam-4", first))
    assert len(told) == 1, "who guesses learns nothing from the answer"
    assert "ask for another" in told.pop()
    for one in (secret, first):
        text = base64.urlsafe_b64encode(one).decode().rstrip("=")
        assert text not in caplog.text
        assert one.hex() not in caplog.text
        assert text not in str(desk.outcomes())


def test_only_hashes_of_tokens_are_kept(tmp_path: Path) -> None:
    with closing(Register(tmp_path / "register.sqlite")) as register:
        secret = register.invite("cam-1", 60.0)
    raw = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert secret not in raw
    assert (tmp_path / "register.sqlite").stat().st_mode & 0o077 == 0


def _request(name: x509.Name, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, *extensions: x509.ExtensionType) -> str:
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


def _name(*parts: tuple[x509.ObjectIdentifier, str]) -> x509.Name:
    return x509.Name([x509.NameAttribute(*part) for part in parts])


def _damaged(whole: str, at: bytes, put: bytes, *, kind: str = "CERTIFICATE REQUEST") -> str:
    """With other bytes in it, of the same length."""
    der = base64.b64decode("".join(whole.splitlines()[1:-1]))
    assert at in der
    return f"-----BEGIN {kind}-----\n{base64.encodebytes(der.replace(at, put, 1)).decode()}-----END {kind}-----\n"


CN, MORE = (NameOID.COMMON_NAME, "cam-1"), (NameOID.ORGANIZATION_NAME, "x")
TWO = (x509.KeyUsage(True, *[False] * 8), x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]))
BAD_REQUESTS = {
    "another subject": (_request(_name((NameOID.COMMON_NAME, "hub")), new_key()), "must be the common name cam-1"),
    "more than a name": (_request(_name(CN, MORE), new_key()), "and nothing else"),
    "two names": (_request(_name(CN, (NameOID.COMMON_NAME, "hub")), new_key()), "and nothing else"),
    "RSA, 1024 bits": (_request(_name(CN), rsa.generate_private_key(65537, 1024)), "must be on P-256"),
    "a small curve": (_request(_name(CN), ec.generate_private_key(ec.SECP192R1())), "must be on P-256"),
    "extensions": (_request(_name(CN), new_key(), x509.BasicConstraints(ca=True, path_length=None)), "asks for extensions"),
    "another version": (_damaged(request_for("cam-1", new_key()), b"\2\1\0", b"\2\1\7"), "cannot be read"),
    "a subject that is no text": (_damaged(request_for("cam-1", new_key()), b"cam-1", b"cam-\xff"), "cannot be read"),
    "an extension twice": (_damaged(_request(_name(CN), new_key(), *TWO), b"U\x1d\x25", b"U\x1d\x0f"), "cannot be read"),
    "nonsense": ("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----", "cannot be read"),
    "empty": ("", "cannot be read"),
}


@pytest.mark.parametrize("kind", BAD_REQUESTS)
def test_a_bad_request_uses_no_token_up(desk: Desk, kind: str) -> None:
    request, why = BAD_REQUESTS[kind]
    secret, key = desk.register.invite("cam-1", 60.0), new_key()
    with pytest.raises(RefusedError, match=f"{why}.*use `almena join`"):
        desk.join("cam-1", secret, key, request)
    assert desk.outcomes()[-1][:2] == ("join", "refused")
    assert desk.join("cam-1", secret, key)
    old = desk.joined("cam-2")
    certificate = old.certificate.public_bytes(Encoding.PEM).decode()
    with pytest.raises(RefusedError):
        desk.enrolment.claim(Renew(certificate=certificate, request=request, proof="x"), HERE)
    assert desk.outcomes()[-1][:2] == ("claim", "refused")


def test_a_certificate_that_cannot_be_read_is_refused(desk: Desk) -> None:
    old = desk.joined("cam-1")
    whole = old.certificate.public_bytes(Encoding.PEM).decode()
    for at, put in ((b"\2\1\2", b"\2\1\7"), (b"cam-1", b"cam-\xff")):
        body = Renew(certificate=_damaged(whole, at, put, kind="CERTIFICATE"), request=request_for("cam-1", new_key()), proof="x")
        with pytest.raises(RefusedError, match="not one of this fleet"):
            desk.enrolment.renew(body, HERE)
        assert desk.outcomes()[-1][:2] == ("renew", "refused")


def test_a_request_that_another_key_has_signed() -> None:
    der = bytearray(x509.load_pem_x509_csr(request_for("cam-1", new_key()).encode()).public_bytes(Encoding.DER))
    der[-3] ^= 1
    pem = b"-----BEGIN CERTIFICATE REQUEST-----\n" + base64.encodebytes(bytes(der)) + b"-----END CERTIFICATE REQUEST-----\n"
    with pytest.raises(RefusedError, match="not signed with its own key"):
        requested_key(pem.decode(), "cam-1")


def test_renewal_wants_a_new_key_and_the_proof_of_the_old_one(desk: Desk) -> None:
    old = desk.joined("cam-1")
    stranger = Pair(old.key, Authority.new("Test fleet").device("cam-1", old.key.public_key(), timedelta(days=1)))
    for pair, key, signer, why in (
        (old, old.key, None, "needs a new key"),
        (old, new_key(), new_key(), "does not prove"),
        (stranger, new_key(), None, "not one of this fleet"),
        (old, desk.joined("cam-2").key, None, "key of its own"),
    ):
        with pytest.raises(RefusedError, match=why):
            desk.renew(pair, key, signer)
    key = new_key()
    new = desk.renew(old, key)
    assert public_bytes(key) == public_bytes(certificate_of(new).public_key())  # type: ignore[arg-type]
    assert desk.renew(old, key) == new, "an answer that was lost is given again"
    assert certificate_of(desk.renew(Pair(key, certificate_of(new)), new_key())).subject.rfc4514_string() == "CN=cam-1"


def test_two_devices_with_one_identity_are_found_when_they_renew(desk: Desk) -> None:
    old = desk.joined("cam-1")
    assert isinstance(desk.renew(old, new_key()), Issued)
    clone = new_key()
    waiting = desk.renew(old, clone)
    assert isinstance(waiting, Waiting)
    assert "two devices may have this identity" in waiting.reason
    assert desk.outcomes()[-1] == ("renew", "waits", f"{waiting.reason} (request {waiting.waiting})")
    assert desk.renew(old, clone) == waiting
    assert len(desk.register.requests()) == 1
    assert desk.register.decide(waiting.waiting, "refused")
    with pytest.raises(RefusedError, match="operator has refused"):
        desk.renew(old, clone)


def test_an_expired_certificate_is_renewed_when_the_operator_says_so(desk: Desk) -> None:
    key = new_key()
    expired = Pair(key, CA.device("cam-1", key.public_key(), timedelta(minutes=-5)))
    desk.register.add(expired.certificate, "device", expired.certificate.public_bytes(Encoding.PEM))
    new = new_key()
    waiting = desk.renew(expired, new)
    assert isinstance(waiting, Waiting)
    assert "expired" in waiting.reason
    assert desk.register.decide(waiting.waiting, "approved")
    assert isinstance(desk.renew(expired, new), Issued)
    assert desk.register.decide(waiting.waiting, "refused") is None


def test_revoked_is_refused_everything_until_it_joins_again(desk: Desk) -> None:
    old = desk.joined("cam-1")
    invitation = desk.register.invite("cam-1", 60.0)
    assert desk.register.revoke("cam-1") == 1
    with pytest.raises(RefusedError, match="may join again with a new token"):
        desk.renew(old, new_key())
    refused(desk, "no invitation", "cam-1", invitation)
    assert [one.serial for one in desk.register.revoked()] == [old.certificate.serial_number]
    assert isinstance(desk.renew(desk.joined("cam-1"), new_key()), Issued)


@pytest.mark.parametrize("purpose", ["renew", "claim"])
def test_a_revocation_while_a_request_waits_for_the_register_holds(desk: Desk, monkeypatch: pytest.MonkeyPatch, purpose: str) -> None:
    if purpose == "renew":
        old, ask = desk.joined("cam-1"), desk.enrolment.renew
    else:
        key = new_key()
        old, ask = Pair(key, CA.claim("cam-1", key.public_key(), timedelta(days=1))), desk.enrolment.claim
        desk.register.add(old.certificate, "claim", old.certificate.public_bytes(Encoding.PEM))
    transaction = desk.register.transaction

    def late() -> AbstractContextManager[None]:
        monkeypatch.undo()
        desk.register.revoke("cam-1")
        return transaction()

    monkeypatch.setattr(desk.register, "transaction", late)
    new = new_key()
    with pytest.raises(RefusedError, match="was revoked"):
        ask(renewal_body(purpose, old, new, "cam-1"), HERE)
    assert desk.register.of_key(public_bytes(new)) is None
    assert desk.register.requests() == []


def test_a_claim_of_the_factory_waits_for_the_operator(desk: Desk) -> None:
    key = new_key()
    batch = Pair(key, CA.claim("claim.batch-1", key.public_key(), timedelta(days=1)))
    desk.register.add(batch.certificate, "claim", batch.certificate.public_bytes(Encoding.PEM))
    for name in ("hub", "claim.batch-1", "UPPER"):
        with pytest.raises(RefusedError, match="cannot be a device's name"):
            desk.enrolment.claim(renewal_body("claim", batch, new_key(), name), HERE)
    with pytest.raises(RefusedError, match="not one of this fleet"):
        desk.renew(batch, new_key())
    with pytest.raises(RefusedError, match="not one of this fleet"):
        desk.enrolment.claim(renewal_body("claim", desk.joined("cam-9"), new_key(), "cam-1"), HERE)
    body = renewal_body("claim", batch, new_key(), "cam-1")
    waiting = desk.enrolment.claim(body, HERE)
    assert isinstance(waiting, Waiting)
    desk.register.decide(waiting.waiting, "approved")
    certificate = certificate_of(desk.enrolment.claim(body, HERE))
    assert certificate.subject.rfc4514_string() == "CN=cam-1"
    assert desk.register.revoke("claim.batch-1") == 1
    with pytest.raises(RefusedError, match="revoked"):
        desk.enrolment.claim(renewal_body("claim", batch, new_key(), "cam-2"), HERE)


def test_who_is_wrong_too_often_is_not_heard_and_nobody_else_is_kept_out(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("provisioning.limits.time.monotonic", lambda: now[0])
    limit = RateLimit(burst=3, every_s=6.0)
    for _ in range(3):
        assert limit.take("2001:db8::1") == (0.0, 0)
    assert limit.take("2001:db8::2") == (6.0, 1)
    assert limit.take("2001:db8::1") == (6.0, 2)
    assert limit.take("2001:db8:0:1::1") == (0.0, 0)
    assert limit.take("192.0.2.1") == (0.0, 0)
    limit.give_back("2001:db8::1", 0.5)
    assert limit.take("2001:db8::1") == (3.0, 3)
    now[0] = 3.0
    assert limit.take("2001:db8::1") == (0.0, 0)
    limit.give_back("2001:db8::1", 9.0)
    assert [limit.take("2001:db8::1")[0] > 0 for _ in range(4)] == [False] * 3 + [True], "nobody has more than there is"


def test_the_key_of_the_ca_is_encrypted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ca, "KDF_ROUNDS", 1000)
    file, key = KeyFile(tmp_path / "ca.p12"), new_key()
    with pytest.raises(FleetError, match="at least 12"):
        sealed(key, "too short")
    with pytest.raises(FleetError, match="almena fleet init"):
        file.read("correct horse battery")
    (tmp_path / "ca.p12").write_bytes(sealed(key, "correct horse battery"))
    assert public_bytes(file.read("correct horse battery")) == public_bytes(key)
    with pytest.raises(FleetError, match="cannot be opened"):
        file.read("correct horse batterz")


def _root(key: Key, *, is_ca: bool = True) -> tuple[x509.Certificate, x509.Certificate]:
    """A CA of somebody else, and what it makes of our request."""
    root = Authority.new("Their root")
    request = x509.load_pem_x509_csr(ca_request("Test fleet", key))
    builder = (
        x509.CertificateBuilder()
        .subject_name(request.subject)
        .issuer_name(root.certificate.subject)
        .public_key(request.public_key())
        .serial_number(7)
        .not_valid_before(root.certificate.not_valid_before_utc)
        .not_valid_after(root.certificate.not_valid_after_utc)
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=0 if is_ca else None), critical=True)
        .add_extension(request.extensions.get_extension_for_class(x509.KeyUsage).value, critical=True)
    )
    return builder.sign(root.key, hashes.SHA256()), root.certificate


def test_another_ca_may_sign_this_one() -> None:
    key = new_key()
    own, root = _root(key)
    pem = [one.public_bytes(Encoding.PEM) for one in (own, root)]
    authority = signed_by_others(b"".join(pem), key)
    authority.device("cam-1", new_key().public_key(), timedelta(days=1)).verify_directly_issued_by(own)
    assert authority.roots == (root,)
    leaf, other = (one.public_bytes(Encoding.PEM) for one in _root(key, is_ca=False))
    for content, who, why in (
        (b"", key, "no certificates"),
        (b"".join(pem), new_key(), "not for this CA's key"),
        (pem[0], key, "the root last"),
        (pem[0] + other, key, "has not signed"),
        (leaf + other, key, "may not sign"),
    ):
        with pytest.raises(FleetError, match=why):
            signed_by_others(content, who)


@on_small_disk(1)
def test_a_full_disk_is_told_and_the_same_works_later(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ca, "KDF_ROUNDS", 1000)
    settings = FleetSettings(url="https://f:8643", broker=BrokerSettings(host="b"))
    fleet = Fleet.make(small_disk / "fleet", settings, "correct horse battery", external=True)
    own, root = _root(KeyFile(small_disk / "fleet" / "ca.p12").read("correct horse battery"))
    signed = b"".join(one.public_bytes(Encoding.PEM) for one in (own, root))
    filler = fill(small_disk)
    with pytest.raises(FleetError, match=r"ca\.pem cannot be written \(No space left on device\): make room"):
        fleet.signed(signed, "correct horse battery")
    with pytest.raises(FleetError, match=r"fleet\.yaml cannot be written \(No space left on device\): make room"):
        fleet.remember_broker(small_disk / "broker")
    filler.unlink()
    fleet.signed(signed, "correct horse battery")
    fleet.remember_broker(small_disk / "broker")
    again = Fleet(small_disk / "fleet")
    assert (again.certificate(), again.settings.broker.folder) == (own, small_disk / "broker")


def test_the_documentation_tells_the_rules_that_are_proven() -> None:
    text = (Path(__file__).parents[2] / "docs" / "identity.md").read_text(encoding="utf-8")
    roles = ("device", "other device", "hub", "watch")
    rows = [f"| `{topic}` | {' | '.join(meant(role, topic) for role in roles)} |" for topic in all_topics()[: len(wire.TOPICS)]]
    assert [row for row in rows if row not in text] == []


def _birth(boot: str, session: str) -> bytes:
    return wire.encode(wire.Birth(state="online", session=session, boot_id=boot, agent="1", models={}, lease_s=90.0))


def test_two_devices_with_one_identity_are_found_by_their_births() -> None:
    clones, topic = Clones(), "almena/1/cam-1/status"
    assert not clones.status(topic, _birth("boot-1", "a"), 0.0)
    assert not clones.status(topic, _birth("boot-2", "b"), 100.0), "a device that was started anew"
    assert not clones.status(topic, _birth("boot-2", "b"), 101.0), "a birth that was said again"
    assert not clones.status("almena/1/cam-2/status", _birth("boot-1", "c"), 102.0)
    assert "was copied" in clones.status(topic, _birth("boot-1", "d"), 200.0)
    assert not clones.status(topic, _birth("boot-2", "f"), 210.0), "what was told is not told at each birth"
    assert "was copied" in clones.status(topic, _birth("boot-1", "g"), 200.0 + 3600.0)
    hectic = [clones.status("almena/1/cam-3/status", _birth("boot-1", str(n)), 300.0 + n) for n in range(6)]
    assert [bool(one) for one in hectic] == [False] * 5 + [True]
    assert not clones.status(topic, b"{", 4000.0)
    assert not clones.status("elsewhere", _birth("boot-9", "e"), 4000.0)
