"""What the register remembers of those who ask: what has ended or was taken back holds no more, and nobody gets without end."""

from __future__ import annotations

import hmac
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from agent.identity.keys import Key, Pair, new_key, public_bytes
from agent.identity.protocol import Issued, Waiting
from provisioning import limits, register
from provisioning.enrolment import CERTIFICATES, RIGHT
from provisioning.errors import RefusedError, TooOftenError
from provisioning.register import KEPT_DECISIONS, Register
from tests.fakes.enrolment_desk import CA, HERE, Desk, certificate_of, renewal_body

pytestmark = pytest.mark.unit

MONTH = 31 * 86400.0


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with closing(Register(tmp_path / "register.sqlite")) as register:
        yield Desk(register)


def given_out(desk: Desk, key: Key, minutes: float, renews: int | None = None) -> Pair:
    """A certificate of cam-1 that ends in so many minutes."""
    pair = Pair(key, CA.device("cam-1", key.public_key(), timedelta(minutes=minutes)))
    desk.register.add(pair.certificate, "device", pair.certificate.public_bytes(Encoding.PEM), renews)
    return pair


def claim_of(desk: Desk) -> Pair:
    """A claim of the factory."""
    key = new_key()
    batch = Pair(key, CA.claim("claim.batch-1", key.public_key(), timedelta(days=1)))
    desk.register.add(batch.certificate, "claim", batch.certificate.public_bytes(Encoding.PEM))
    return batch


def test_a_renewal_whose_answer_was_lost_until_it_had_ended_is_asked_for_anew(desk: Desk) -> None:
    key = new_key()
    old = given_out(desk, new_key(), -5)
    lost = given_out(desk, key, -4, old.certificate.serial_number)
    waiting = desk.renew(old, key)
    assert isinstance(waiting, Waiting)
    assert waiting.reason == "its certificate has expired", "nobody suspects the device that has the same key"
    desk.register.decide(waiting.waiting, "approved")
    new = certificate_of(desk.renew(old, key))
    assert new.not_valid_after_utc > lost.certificate.not_valid_after_utc
    assert certificate_of(desk.renew(old, key)) == new


def test_an_approval_leads_to_one_certificate(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    old, key, now = given_out(desk, new_key(), -5), new_key(), time.time()
    waiting = desk.renew(old, key)
    assert isinstance(waiting, Waiting)
    desk.register.decide(waiting.waiting, "approved")
    assert isinstance(desk.renew(old, key), Issued)
    monkeypatch.setattr(time, "time", lambda: now + MONTH)
    later = desk.renew(old, key)
    assert isinstance(later, Waiting)
    assert later.waiting != waiting.waiting


def test_a_token_that_holds_gives_another_certificate_where_the_first_has_ended(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    secret, key, now = desk.register.invite("cam-1", 2 * MONTH), new_key(), time.time()
    first = desk.join("cam-1", secret, key)
    monkeypatch.setattr(time, "time", lambda: now + MONTH)
    assert certificate_of(desk.join("cam-1", secret, key)).serial_number != certificate_of(first).serial_number


def test_an_approval_is_taken_back_and_a_refusal_too(desk: Desk) -> None:
    desk.joined("cam-1")
    body = renewal_body("claim", claim_of(desk), new_key(), "cam-1")
    waiting = desk.enrolment.claim(body, HERE)
    assert isinstance(waiting, Waiting)
    assert waiting.reason == "a device with the claim claim.batch-1; the name is, or was, another device's"
    for decision in ("approved", "refused"):
        desk.register.decide(waiting.waiting, decision)  # type: ignore[arg-type]
    with pytest.raises(RefusedError, match="operator has refused"):
        desk.enrolment.claim(body, HERE)
    before = desk.register.decide(waiting.waiting, "approved")
    assert before is not None
    assert before.decision == "refused"
    assert [one.decision for one in desk.register.requests()] == ["approved"]
    assert isinstance(desk.enrolment.claim(body, HERE), Issued)
    assert desk.register.requests() == []
    assert desk.register.decide(waiting.waiting, "refused") is None, "it has its certificate, which is revoked or not"


@pytest.mark.parametrize("by", ["withdraw", "revoke"])
def test_who_is_revoked_gets_nothing_of_what_was_approved_or_invited(desk: Desk, by: str) -> None:
    body = renewal_body("claim", claim_of(desk), new_key(), "cam-1")
    waiting = desk.enrolment.claim(body, HERE)
    assert isinstance(waiting, Waiting)
    desk.register.decide(waiting.waiting, "approved")
    secret = desk.register.invite("cam-1", 60.0)
    assert getattr(desk.register, by)("cam-1") == (by == "withdraw"), "something was withdrawn, and no certificate was revoked"
    with pytest.raises(RefusedError, match="operator has refused"):
        desk.enrolment.claim(body, HERE)
    with pytest.raises(RefusedError, match="admits nobody"):
        desk.join("cam-1", secret, new_key())
    assert desk.register.withdraw("cam-1") is False


def test_one_name_gets_no_certificates_without_end(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    pair, now = desk.joined("cam-1"), time.monotonic()
    for _ in range(CERTIFICATES - 1):
        key = new_key()
        pair = Pair(key, certificate_of(desk.renew(pair, key)))
    key = new_key()
    with pytest.raises(TooOftenError) as error:
        desk.renew(pair, key)
    assert 3500 < error.value.wait_s <= 3600
    assert desk.outcomes()[-1] == ("renew", "refused", "too many certificates for this name")
    assert desk.register.of_key(public_bytes(key)) is None
    desk.joined("cam-2")
    monkeypatch.setattr(time, "monotonic", lambda: now + 3700.0)
    assert isinstance(desk.renew(pair, key), Issued)


def test_an_address_whose_requests_are_right_is_not_heard_without_end(desk: Desk) -> None:
    secret, key, count = desk.register.invite("cam-1", 60.0), new_key(), 0
    while not desk.enrolment.limit.take(HERE)[0]:
        desk.join("cam-1", secret, key)
        count += 1
    assert 9 / RIGHT < count < 12 / RIGHT


def test_of_a_thousand_guesses_a_second_ten_are_compared_and_then_one_in_six_seconds(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that goes on by a millisecond with each guess. The server asks the limit first."""
    now = 0.0
    monkeypatch.setattr(limits, "time", SimpleNamespace(monotonic=lambda: now))
    desk.register.invite("cam-1", 60.0)
    compared, refused, key = 0, 0, new_key()
    for guess in range(60_000):
        now = guess / 1000
        if desk.enrolment.limit.take(HERE)[0]:
            refused += 1
            continue
        compared += 1
        with pytest.raises(RefusedError):
            desk.join("cam-1", guess.to_bytes(32, "big"), key)
    assert (compared, refused) == (10 + 9, 60_000 - 19)
    assert desk.register.devices() == []
    assert not desk.enrolment.limit.take("192.0.2.8")[0], "another address is heard"


def test_a_token_is_compared_once_and_in_constant_time_whatever_is_asked(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """By hmac.compare_digest, on two digests of 32 bytes each."""
    seen: list[tuple[int, int]] = []

    def compare(one: bytes, other: bytes) -> bool:
        seen.append((len(one), len(other)))
        return hmac.compare_digest(one, other)

    monkeypatch.setattr(register, "hmac", SimpleNamespace(compare_digest=compare))
    secret, expired = desk.register.invite("cam-1", 60.0), desk.register.invite("cam-2", -1.0)
    asked = [
        ("cam-1", secret),
        ("cam-1", secret),
        ("cam-1", b""),
        ("cam-1", bytes(48)),
        ("cam-2", expired),
        ("cam-2", bytes(32)),
        ("no-one", secret),
    ]
    admitted = []
    for name, given in asked:
        try:
            admitted.append(bool(desk.join(name, given, new_key())))
        except RefusedError:
            admitted.append(False)
    assert admitted == [True, *(len(asked) - 1) * [False]]
    assert seen == len(asked) * [(32, 32)]


def test_nothing_that_a_stranger_can_cause_reads_a_whole_table(desk: Desk) -> None:
    """By SQLite's own plan of every statement that a join, a renewal, a claim, a wrong token and a revocation lead to."""
    said: set[str] = set()
    database: sqlite3.Connection = desk.register._db
    database.set_trace_callback(lambda statement: said.add(re.sub(r"x'[0-9a-f]*'|'[^']*'", "''", statement, flags=re.IGNORECASE)))
    old = desk.joined("cam-1")
    with pytest.raises(RefusedError):
        desk.join("cam-2", bytes(32), new_key())
    desk.renew(old, new_key())
    desk.renew(old, new_key())
    desk.enrolment.claim(renewal_body("claim", claim_of(desk), new_key(), "cam-3"), HERE)
    desk.register.revoke("cam-1")
    desk.register.revoked()
    database.set_trace_callback(None)
    statements = [one for one in said if re.match("SELECT|UPDATE|DELETE", one)]
    plans = {one: [row[3] for row in database.execute(f"EXPLAIN QUERY PLAN {one}")] for one in statements}
    assert len(plans) > 10
    assert {one: plan for one, plan in plans.items() if any(step.startswith("SCAN") for step in plan)} == {}


def test_the_oldest_decisions_go(desk: Desk) -> None:
    with desk.register.transaction():
        for number in range(KEPT_DECISIONS + 5):
            desk.register.note("join", str(number), "refused")
    kept = desk.register.decisions(2 * KEPT_DECISIONS)
    assert (len(kept), kept[0][2], kept[-1][2]) == (KEPT_DECISIONS, "5", str(KEPT_DECISIONS + 4))


def test_what_ended_long_ago_leaves_the_register_but_for_the_newest_of_each_name(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who comes back after years may still ask; of one who renewed all the time only what is recent is kept."""
    day = 24 * 60
    oldest, *kept = [given_out(desk, new_key(), minutes) for minutes in (5, 60 * day, 150 * day)]
    key = new_key()
    away = CA.device("cam-2", key.public_key(), timedelta(minutes=5))
    desk.register.add(away, "device", away.public_bytes(Encoding.PEM))
    desk.register.invite("cam-3", 60.0)
    desk.register.invite("cam-4", 200 * 86400.0)
    assert desk.register.prune() == 0
    with monkeypatch.context() as patch:
        now = time.time() + 100 * 86400.0
        patch.setattr(time, "time", lambda: now)
        assert desk.register.prune() == 1
    assert desk.register.certificate(oldest.certificate.serial_number) is None
    assert all(desk.register.certificate(pair.certificate.serial_number) for pair in kept)
    assert [one.name for one in desk.register.devices()] == ["cam-1", "cam-2"]
    assert not desk.register.withdraw("cam-3")
    assert desk.register.withdraw("cam-4")
    with pytest.raises(RefusedError):
        desk.renew(oldest, new_key())
    assert isinstance(desk.renew(Pair(key, away), new_key()), Issued)
