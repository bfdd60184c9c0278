"""The site around the API: probes, error answers, the one-time login."""

import io
import json
import sys
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import Client

from scoring.live_model import live_model

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def nothing_serves() -> None:
    live_model.forget()


def test_a_probe_may_call_by_any_name_over_plain_http(client: Client, settings: Any) -> None:
    settings.SECURE_SSL_REDIRECT = True
    settings.ALLOWED_HOSTS = ["sentinelle.example.com"]
    answer = client.get("/health", headers={"host": "10.0.0.5:8000"})
    assert answer.status_code == 503
    assert answer.json()["status"] == "unhealthy"


def test_everything_else_is_for_known_names_and_https_only(client: Client, settings: Any) -> None:
    settings.SECURE_SSL_REDIRECT = True
    settings.ALLOWED_HOSTS = ["sentinelle.example.com"]
    assert client.get("/admin/", headers={"host": "10.0.0.5:8000"}).status_code == 400
    answer = client.get("/admin/", headers={"host": "sentinelle.example.com"})
    assert answer["Location"].startswith("https://")


def test_an_unknown_address_is_a_problem(client: Client) -> None:
    answer = client.get("/score/")
    assert answer.status_code == 404
    assert answer["Content-Type"] == "application/problem+json"
    assert answer.json()["code"] == "NOT_FOUND"


def test_pages_carry_a_content_policy_and_data_does_not(client: Client) -> None:
    page = client.get("/admin/login/")
    assert "default-src 'none'; script-src 'self'; " in page["Content-Security-Policy"]
    assert "unsafe" not in page["Content-Security-Policy"]
    assert "Content-Security-Policy" not in client.get("/score/")


def test_a_content_type_that_cannot_be_parsed_is_refused() -> None:
    from sentinelle.wsgi import application

    started: list[str] = []
    environ = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/score",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "CONTENT_TYPE": "application/json; charset*=nope''x%41",
        "CONTENT_LENGTH": "2",
        "wsgi.input": io.BytesIO(b"{}"),
        "wsgi.url_scheme": "http",
        "wsgi.errors": sys.stderr,
    }
    body = b"".join(application(environ, lambda status, headers: started.append(status)))
    assert started[0].startswith(("401", "415"))
    assert "code" in json.loads(body)


def login_link() -> str:
    output = io.StringIO()
    call_command("login_link", stdout=output)
    return output.getvalue().strip().removeprefix("http://127.0.0.1:8000")


def test_a_login_link_works_once(client: Client) -> None:
    link = login_link()
    assert User.objects.get(username="admin").is_superuser
    assert client.get(link)["Location"] == "/admin/"
    assert client.get("/admin/").status_code == 200
    assert Client().get(link)["Location"] == "/admin/login/"


def test_a_new_link_ends_the_earlier_ones_once_used(client: Client) -> None:
    first, second = login_link(), login_link()
    assert client.get(second)["Location"] == "/admin/"
    assert Client().get(first)["Location"] == "/admin/login/"


@pytest.mark.parametrize("method", ["head", "post", "options"])
def test_only_opening_a_link_uses_it(client: Client, method: str) -> None:
    link = login_link()
    assert getattr(client, method)(link).status_code == 405
    assert client.get(link)["Location"] == "/admin/"


def test_a_link_of_an_account_that_was_closed_does_not_work(client: Client) -> None:
    link = login_link()
    User.objects.update(is_active=False)
    assert client.get(link)["Location"] == "/admin/login/"
