"""Who operates: keys, as hashes and compared in constant time, and the browsers that have shown one."""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass, field

from service.allowance import Allowance, Count
from service.api.errors import ApiError
from service.settings import AdminSettings, sha256

MAX_SESSIONS = 64
"""Browsers that are signed in at a time; the one that has been longest is signed out for one more."""
FAILURES_PER_MINUTE = 30
"""Wrong keys that are told apart from silence in the log; a right key is always taken."""


@dataclass(slots=True)
class Session:
    """A browser that has shown a key. `csrf` is in its forms only; `flash` is told with the next page."""

    name: str
    digest: bytes
    ends_at: float
    csrf: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    flash: list[tuple[str, str]] = field(default_factory=list)


class Access:
    """One for the admin application. The settings are given each time: a reload may take a key away."""

    def __init__(self) -> None:
        self._sessions: dict[bytes, Session] = {}
        self._failures = Allowance(FAILURES_PER_MINUTE, Count())

    def operator(self, settings: AdminSettings, key: str) -> tuple[str, bytes] | None:
        """Whose key this is, and its digest. Every stored hash is compared, whichever matches."""
        digest = sha256(key)
        found = None
        for each in settings.keys:
            if hmac.compare_digest(bytes.fromhex(each.sha256), digest):
                found = each.name, digest
        return found

    def failed(self, now: float) -> ApiError:
        """A wrong key was shown: what to answer. Too many are answered otherwise, and are worth no log line."""
        wait_s = self._failures.take(1, now)
        if wait_s:
            return ApiError(
                status=429,
                message="too many wrong keys",
                type="rate_limit_error",
                code="rate_limited",
                retry_after_s=wait_s,
            )
        return ApiError(status=401, message="unauthorized", type="authentication_error", code="invalid_api_key")

    def sign_in(self, settings: AdminSettings, name: str, digest: bytes, now: float) -> str:
        """A token for a browser whose operator has shown the key with this digest."""
        token = secrets.token_urlsafe(32)
        if len(self._sessions) >= MAX_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        self._sessions[sha256(token)] = Session(name, digest, now + settings.session_s)
        return token

    def session(self, settings: AdminSettings, token: str, now: float) -> Session | None:
        """The session of this token, as long as its time is not over and its key is still one."""
        session = self._sessions.get(sha256(token))
        if session is None:
            return None
        known = any(key.name == session.name and bytes.fromhex(key.sha256) == session.digest for key in settings.keys)
        if not known or now >= session.ends_at:
            self.sign_out(token)
            return None
        return session

    def sign_out(self, token: str) -> None:
        """The token is worth nothing from now on."""
        self._sessions.pop(sha256(token), None)
