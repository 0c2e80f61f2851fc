"""Passwords, sessions and the back-off of those who guess."""

from __future__ import annotations

from base64 import b64encode

import pytest
from starlette.datastructures import Headers

from agent.http.guard import session_token
from agent.http.passwords import FORGOTTEN_AFTER_S, FREE_FAILURES, IDLE_S, MAX_BACKOFF_S, SESSION_S, RateLimit, hash_password
from agent.settings import LoginSettings
from agent.uplink.web.auth import RECORD_EVERY_S, Login

pytestmark = pytest.mark.unit

PASSWORD = "correct horse"
HASH = hash_password(PASSWORD)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def login(clock: Clock) -> Login:
    return Login(LoginSettings(username="admin", password_hash=HASH), lambda *_: None, clock)


def test_right_and_wrong_passwords(login: Login) -> None:
    assert login.check("admin", PASSWORD, "192.0.2.1")
    assert not login.check("admin", "wrong", "192.0.2.1")
    assert not login.check("root", PASSWORD, "192.0.2.1")
    assert not login.check("ädmin", PASSWORD, "192.0.2.1")


def test_basic_credentials(login: Login) -> None:
    right = b64encode(f"admin:{PASSWORD}".encode()).decode()
    assert login.check_basic(f"Basic {right}", "192.0.2.1")
    for header in (
        f"Bearer {right}",
        "Basic",
        "Basic !!!",
        "Basic " + b64encode(b"admin").decode(),
        "Basic " + b64encode(b"\xff").decode(),
    ):
        assert not login.check_basic(header, "192.0.2.1")


def test_guessing_is_slowed_down_and_even_the_right_password_waits(login: Login, clock: Clock) -> None:
    for _ in range(FREE_FAILURES):
        assert login.limit.wait_s("192.0.2.1") == 0
        assert not login.check("admin", "wrong", "192.0.2.1")
    assert login.limit.wait_s("192.0.2.1") == pytest.approx(1.0)
    assert not login.check("admin", PASSWORD, "192.0.2.1")
    assert login.check("admin", PASSWORD, "192.0.2.2")
    clock.now += 1.1
    assert login.check("admin", PASSWORD, "192.0.2.1")
    assert login.limit.wait_s("192.0.2.1") == 0


def test_somebody_who_knows_the_password_does_not_help_a_guesser_at_the_same_address(login: Login, clock: Clock) -> None:
    for _ in range(FREE_FAILURES):
        assert login.check("admin", PASSWORD, "192.0.2.1")
        assert not login.check("admin", "wrong", "192.0.2.1")
    assert login.limit.wait_s("192.0.2.1") > 0
    clock.now += FORGOTTEN_AFTER_S + 1
    assert not login.check("admin", "wrong", "192.0.2.1")
    assert login.limit.wait_s("192.0.2.1") == 0


def test_wrong_passwords_are_recorded_together(clock: Clock) -> None:
    recorded: list[tuple[str, int]] = []
    login = Login(LoginSettings(password_hash=HASH), lambda *outcome: recorded.append(outcome), clock)
    for number in range(20):
        login.check("admin", "wrong", f"192.0.2.{number}")
    assert recorded == [("refused", 1)]
    clock.now += RECORD_EVERY_S
    login.check("admin", "wrong", "192.0.2.100")
    login.check("admin", "wrong", "192.0.2.101")
    login.end()
    login.end()
    assert recorded == [("refused", 1), ("refused", 20), ("refused", 1)]


def test_the_wait_doubles_up_to_a_quarter_of_an_hour(clock: Clock) -> None:
    limit = RateLimit(clock)
    waits = []
    for _ in range(FREE_FAILURES + 14):
        limit.failed("192.0.2.1")
        waits.append(limit.wait_s("192.0.2.1"))
    assert waits[FREE_FAILURES - 1 : FREE_FAILURES + 2] == pytest.approx([1, 2, 4])
    assert waits[-1] == pytest.approx(MAX_BACKOFF_S)


def test_neighbours_in_one_ipv6_network_share_their_failures(clock: Clock) -> None:
    limit = RateLimit(clock)
    for number in range(FREE_FAILURES):
        limit.failed(f"2001:db8::{number}")
    assert limit.wait_s("2001:db8::ffff") > 0
    assert limit.wait_s("2001:db8:0:1::1") == 0


@pytest.mark.parametrize("other", ["dark mode", "a:b=1", "{x}=[1, 2]", 'q="un;closed', "ü=é", "=", "k=ä b,c"])
def test_cookies_of_other_programs_do_not_hide_the_session(other: str) -> None:
    for cookies in (f"{other}; almena=token-1", f"almena=token-1; {other}"):
        assert session_token(Headers({"cookie": cookies}), "almena") == "token-1"
    assert session_token(Headers({"cookie": other}), "almena") is None


def test_sessions_end_by_idleness_by_age_and_by_logging_out(login: Login, clock: Clock) -> None:
    token = login.open()
    assert login.valid(token)
    assert not login.valid("another")
    clock.now += IDLE_S - 1
    assert login.valid(token)
    clock.now += IDLE_S + 1
    assert not login.valid(token)

    token = login.open()
    for _ in range(int(SESSION_S / IDLE_S * 2)):
        clock.now += IDLE_S / 2
        assert login.valid(token)
    clock.now += 1
    assert not login.valid(token)

    token = login.open()
    login.close(token)
    assert not login.valid(token)
