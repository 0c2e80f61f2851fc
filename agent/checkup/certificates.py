"""Certificates that the settings name: whether they are valid now, for how long, and whether key and certificate belong together."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

from cryptography import x509

from agent.checkup import Check
from agent.settings import Settings

SOON = timedelta(days=7)
CA_SOON = timedelta(days=90)
BY_CA = "a new one comes from whoever runs the CA"
BY_HAND = "`almena join` again, or renew it by hand"
BY_ITSELF = "the uplink renews it: see its log, and `almena join` again if it cannot"


def certificates(settings: Settings, now: datetime | None = None) -> list[Check]:
    """One for each file."""
    mqtt, web, dicom = settings.mqtt, settings.web, settings.dicom
    named = {
        "mqtt.tls.ca_file": mqtt.tls.ca_file if mqtt and mqtt.tls else None,
        "mqtt.tls.cert_file": mqtt.tls.cert_file if mqtt and mqtt.tls else None,
        "web.tls.cert_file": web.tls.cert_file if web.tls else None,
        "dicom.receiver.tls.cert_file": dicom.receiver.tls.cert_file if dicom and dicom.receiver.tls else None,
    }
    own = BY_ITSELF if settings.identity else BY_HAND
    advice = {name: (BY_CA, CA_SOON) if name.endswith("ca_file") else (own, SOON) for name in named}
    return [certificate(name, path, *advice[name], now) for name, path in named.items() if path]


def certificate(name: str, path: Path, how: str, soon: timedelta, now: datetime | None = None) -> Check:
    """One file, of which the certificate counts that ends first. `how` there is another one; `soon`: a warning comes so long before."""
    label, now = f"certificate {name}", now or datetime.now(timezone.utc)
    try:
        found = x509.load_pem_x509_certificates(path.read_bytes())
    except PermissionError:
        return Check(label, "ok", f"{path} is not for this user to see; `sudo almena doctor` looks")
    except (OSError, ValueError) as error:
        return Check(label, "fail", f"{path} cannot be used: {error}", "It must hold certificates in PEM.")
    first = min(found, key=lambda certificate: certificate.not_valid_after_utc)
    until, subject = first.not_valid_after_utc, first.subject.rfc4514_string()
    if now < first.not_valid_before_utc:
        text = f"{subject} is valid only from {first.not_valid_before_utc:%Y-%m-%d %H:%M} UTC, and it is {now:%Y-%m-%d %H:%M}"
        return Check(label, "fail", text, "Set the clock: no connection by TLS works before.")
    if now > until:
        return Check(label, "fail", f"{subject} expired on {until:%Y-%m-%d}", f"Is the clock right? If it is: {how}.")
    if until - now < soon:
        return Check(label, "warn", f"{subject} expires on {until:%Y-%m-%d %H:%M} UTC", f"Soon: {how}.")
    return Check(label, "ok", f"{subject}, valid until {until:%Y-%m-%d}")
