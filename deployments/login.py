"""A login link that works once, for the person who can read this machine's terminal."""

from django.contrib.auth import get_user_model, login
from django.contrib.auth.models import User
from django.contrib.auth.tokens import PasswordResetTokenGenerator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.views.decorators.http import require_GET


class LoginTokenGenerator(PasswordResetTokenGenerator):
    """Tokens that end with the next login, because the last login's time is part of them, and
    with `PASSWORD_RESET_TIMEOUT` (3 days)."""

    key_salt = "deployments.login"

    def _make_hash_value(self, user: User, timestamp: int) -> str:
        # Django's has the last login to the second: a link made in that second would work twice.
        return f"{super()._make_hash_value(user, timestamp)}{user.last_login!r}"


_tokens = LoginTokenGenerator()


def login_path(user: User) -> str:
    """The address that logs `user` in, once."""
    return reverse("one-time-login", args=[user.pk, _tokens.make_token(user)])


@require_GET
def one_time_login(request: HttpRequest, user_id: int, token: str) -> HttpResponse:
    """Log in with a link from `manage.py login_link`; a used or old one leads to the login page."""
    user = get_user_model().objects.filter(pk=user_id, is_active=True).first()
    if user is None or not _tokens.check_token(user, token):
        return redirect("admin:login")
    login(request, user, backend="django.contrib.auth.backends.ModelBackend")
    return redirect("admin:index")
