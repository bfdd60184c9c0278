"""Google service accounts as callers: real tokens, signed here, certificates over real HTTP."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth import crypt, jwt

from scoring import google_tokens
from tests.scoring.conftest import Api
from tests.scoring.requests import request

AUDIENCE = "https://sentinelle.example.com"
EMAIL = "backend@project.iam.gserviceaccount.com"


def key_pair() -> tuple[crypt.RSASigner, str]:
    """A signer with the key id “k1”, and its public key as PEM."""
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return crypt.RSASigner.from_string(pem, "k1"), public.decode()


SIGNER, PUBLIC = key_pair()


def token(signer: crypt.RSASigner = SIGNER, **claims: Any) -> str:
    now = int(time.time())
    payload = {
        "iss": "https://accounts.google.com",
        "aud": AUDIENCE,
        "email": EMAIL,
        "email_verified": True,
        "iat": now,
        "exp": now + 600,
    } | claims
    return jwt.encode(signer, payload).decode()


@pytest.fixture
def google(settings: Any) -> Iterator[list[int]]:
    """A server of certificates; the list grows by one for each time it is asked."""
    asked: list[int] = []

    class Certificates(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(1)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"k1": PUBLIC}).encode())

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Certificates)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    settings.GOOGLE_CERTIFICATES_URL = f"http://127.0.0.1:{server.server_port}"
    settings.GOOGLE_ID_TOKEN_AUDIENCE = AUDIENCE
    settings.GOOGLE_CALLERS = {EMAIL: ["score"]}
    google_tokens.certificates.__init__()
    yield asked
    server.shutdown()
    server.server_close()


def ask(api: Api, bearer: str) -> Any:
    return api.post("/score", request(), Authorization=f"Bearer {bearer}")


def test_a_known_account_may_score_and_certificates_are_kept(api: Api, google: list[int]) -> None:
    assert ask(api, token()).status_code == 200
    assert ask(api, token(iat=int(time.time()) - 1)).status_code == 200
    assert len(google) == 1


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": "https://elsewhere.example.com"},
        {"iss": "https://accounts.evil.example"},
        {"email": "stranger@project.iam.gserviceaccount.com"},
        {"email_verified": False},
        {"email": None},
        {"exp": 1_700_000_000, "iat": 1_600_000_000},
    ],
    ids=lambda claims: next(iter(claims)),
)
def test_a_token_that_is_not_for_us_is_refused(
    api: Api, google: list[int], claims: dict[str, Any]
) -> None:
    answer = ask(api, token(**claims))
    assert answer.status_code == 401
    assert answer.json()["code"] == "UNAUTHENTICATED"


@pytest.mark.parametrize("bearer", ["", "x", "a.b.c", "..", "é", "e30.e30.e30"])
def test_what_is_no_token_is_refused(api: Api, google: list[int], bearer: str) -> None:
    assert ask(api, bearer).status_code == 401


def test_a_token_signed_by_another_is_refused(api: Api, google: list[int]) -> None:
    other, _ = key_pair()
    assert ask(api, token(other)).status_code == 401


def test_scopes_hold_for_accounts_too(api: Api, google: list[int], settings: Any) -> None:
    settings.GOOGLE_CALLERS = {EMAIL: ["read"]}
    assert ask(api, token()).status_code == 403


def test_when_google_is_silent_the_answer_is_503(
    api: Api, google: list[int], settings: Any
) -> None:
    settings.GOOGLE_CERTIFICATES_URL = "http://127.0.0.1:9"
    answer = ask(api, token())
    assert (answer.status_code, answer.json()["code"]) == (503, "IDENTITY_UNAVAILABLE")


def test_tokens_are_refused_where_none_are_expected(api: Api) -> None:
    assert ask(api, token()).status_code == 401
