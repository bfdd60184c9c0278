"""Settings, all from the environment. The defaults suit one machine with nothing else installed.

Every variable is described in docs/operations.md and `.env.example`.
"""

import os
import re
import warnings
from pathlib import Path

import dj_database_url
from django.core.exceptions import ImproperlyConfigured

from engine.classifier.request import ORIGIN
from sentinelle.env import (
    env_amount,
    env_bool,
    env_choice,
    env_int,
    env_list,
    env_location,
    env_path,
    env_share,
    env_str,
    env_url,
)
from sentinelle.home import Home
from sentinelle.storages import storages

BASE_DIR = Path(__file__).resolve().parent.parent
HOME = Home(env_path("SENTINELLE_HOME", BASE_DIR / "var"))
DEMO = HOME.is_demo

SECRET_KEY = env_str("SECRET_KEY") or HOME.secret_key
if not SECRET_KEY:
    raise ImproperlyConfigured(
        "SECRET_KEY is not set. Set it to 50 random characters, or start with `make run`, "
        f"which makes the home {HOME.root} with a key of its own; it stays when that is stopped."
    )
# Behind TLS unless this is a home on one machine, which speaks HTTP on loopback.
HTTPS = env_bool("HTTPS", not HOME.exists)
DEBUG = False

HOST = env_str("HOST", "127.0.0.1")
PORT = env_int("PORT", 8000, 1, 65535)
ALLOWED_HOSTS = env_list("ALLOWED_HOSTS", ["localhost", "127.0.0.1", "[::1]"])
CSRF_TRUSTED_ORIGINS = env_list("CSRF_TRUSTED_ORIGINS", [])

# --- What Sentinelle is about --------------------------------------------------------------
MODEL_NAME = "fraud"
MODEL_VERSION = env_str("MODEL_VERSION", "latest").removeprefix("v")
_VERSION = r"latest|\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?"
if not re.fullmatch(_VERSION, MODEL_VERSION):
    raise ImproperlyConfigured(
        f"MODEL_VERSION is {MODEL_VERSION!r}; expected “latest” or a version such as 1.0.0."
    )
BUCKET_NAME = env_str("BUCKET_NAME")
_STORE = f"gs://{BUCKET_NAME}" if BUCKET_NAME else ""
ARTIFACTS_DIR = env_location(
    "ARTIFACTS_DIR", f"{_STORE}/artifacts" if _STORE else str(HOME.artifacts)
)
DATA_DIR = env_location("DATA_DIR", f"{_STORE}/data" if _STORE else str(HOME.data))
RUNS_DIR = env_location("RUNS_DIR", f"{_STORE}/runs" if _STORE else str(HOME.runs))
# Bundles of a bucket are kept here, those that were used last.
BUNDLE_CACHE = HOME.cache / "bundles"
BUNDLE_CACHE_MB = env_int("BUNDLE_CACHE_MB", 2048, 0, 1_000_000)
# How far ahead of this server's clock a transaction may be dated (docs/api.md).
MAX_CLOCK_AHEAD_SECONDS = 300
# How old what a server believes about the champion and about keys may be.
LIVE_REFRESH_SECONDS = 0.5
KEY_CACHE_SECONDS = 2.0
# How many classifiers a web process keeps loaded.
LIVE_CLASSIFIERS = env_int("LIVE_CLASSIFIERS", 4, 1, 1000)
# Google service accounts that may call: an ID token for this audience, and each account's scopes.
GOOGLE_ID_TOKEN_AUDIENCE = env_str("GOOGLE_ID_TOKEN_AUDIENCE")
GOOGLE_CALLERS = {
    email: scopes.split("+")
    for email, _, scopes in (
        entry.partition("=") for entry in env_list("GOOGLE_CALLERS", [], r"[^=\s]+@[^=\s]+=[a-z+]+")
    )
}
GOOGLE_CERTIFICATES_URL = "https://www.googleapis.com/oauth2/v1/certs"
RATE_LIMIT = env_str("RATE_LIMIT")
if RATE_LIMIT and not re.fullmatch(r"[1-9]\d*/(s|m|h|d)", RATE_LIMIT):
    raise ImproperlyConfigured(f"RATE_LIMIT is {RATE_LIMIT!r}; expected such as 100/s or 5000/m.")
# Of what the models block, the share that is let through so that the truth is learnt.
CONTROL_SHARE = env_share("CONTROL_SHARE", most=0.05)
TRAINING_LEASE_SECONDS = 30
# How long a program may give no sign of life, and how long until its first.
TRAINING_SILENCE_SECONDS = 600
TRAINING_FIRST_SIGN_SECONDS = 1800
# How long a place or a bucket that does not answer is asked again.
TRAINING_PATIENCE_SECONDS = 900

# --- Google Cloud --------------------------------------------------------------------------
GOOGLE_CLOUD_PROJECT = env_str("GOOGLE_CLOUD_PROJECT")
GOOGLE_CLOUD_REGION = env_str("GOOGLE_CLOUD_REGION", "europe-west1")
# Where Google's APIs are, when it is not at Google: a local server in tests.
GOOGLE_API_ENDPOINT = env_url("GOOGLE_API_ENDPOINT", "", ["http", "https"])
TRAINING_JOB = env_str("TRAINING_JOB", "sentinelle-training")
TRAINING_IMAGE = env_str("TRAINING_IMAGE")
TRAINING_SERVICE_ACCOUNT = env_str("TRAINING_SERVICE_ACCOUNT")
TRAINING_VM = env_str("TRAINING_VM", "ml-training-vm")
TRAINING_VM_ZONE = env_str("TRAINING_VM_ZONE", "us-central1-a")
TRAINING_VM_TYPE = env_str("TRAINING_VM_TYPE", "e2-micro")
# The engine on Cloud Run: its database, its account and its network (docs/rollouts.md).
CLOUD_SQL_INSTANCE = env_str("CLOUD_SQL_INSTANCE")
if CLOUD_SQL_INSTANCE and not re.fullmatch(
    r"[a-z0-9.:-]+:[a-z0-9-]+:[a-z0-9-]+", CLOUD_SQL_INSTANCE
):
    raise ImproperlyConfigured(
        f"CLOUD_SQL_INSTANCE is {CLOUD_SQL_INSTANCE!r}; expected PROJECT:REGION:INSTANCE."
    )
ENGINE_SERVICE_ACCOUNT = env_str("ENGINE_SERVICE_ACCOUNT")
ENGINE_NETWORK = env_str("ENGINE_NETWORK")
ROLLOUT_POLL_SECONDS = 3.0
# How long a new revision is asked until it decides, and how long Google is asked that is silent.
ROLLOUT_PROBE_SECONDS = 240
ROLLOUT_PATIENCE_SECONDS = 900
# Another table of prices than deployments/prices.toml.
PRICES_FILE = env_str("PRICES_FILE")
# What training may cost in a calendar month, in US dollars.
BUDGET_WARN_USD = env_amount("BUDGET_WARN_USD")
BUDGET_REFUSE_USD = env_amount("BUDGET_REFUSE_USD")

# --- Django --------------------------------------------------------------------------------
INSTALLED_APPS = [
    "deployments",
    "scoring",
    "training",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "rest_framework",
    "django_celery_beat",
]
MIDDLEWARE = [
    "sentinelle.middleware.ProbeMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "sentinelle.middleware.ContentPolicyMiddleware",
]
# Front ends of other origins that may call the API from a browser.
CORS_ALLOWED_ORIGINS = env_list("CORS_ALLOWED_ORIGINS", [], ORIGIN)
if CORS_ALLOWED_ORIGINS:
    MIDDLEWARE.insert(0, "corsheaders.middleware.CorsMiddleware")
CORS_URLS_REGEX = r"^/(score|outcomes|labels|health|models|training-runs)(/|$)"
CORS_ALLOW_METHODS = ["GET", "POST"]
CORS_ALLOW_HEADERS = ["authorization", "content-type", "idempotency-key"]
CORS_EXPOSE_HEADERS = ["Idempotent-Replayed", "Dry-Run", "Location", "Retry-After"]
CORS_PREFLIGHT_MAX_AGE = 600
ROOT_URLCONF = "sentinelle.urls"
WSGI_APPLICATION = "sentinelle.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

DATABASE_URL = env_url(
    "DATABASE_URL", f"sqlite:///{HOME.database}", ["sqlite", "postgres", "postgresql"]
)
DATABASES = {"default": dj_database_url.parse(DATABASE_URL, conn_max_age=None)}
# What Cloud Run sets in the containers of a service, a job and a worker pool.
ON_CLOUD_RUN = any(
    os.environ.get(name) for name in ("K_SERVICE", "CLOUD_RUN_JOB", "CLOUD_RUN_WORKER_POOL")
)
if DATABASES["default"]["ENGINE"].endswith("sqlite3"):
    if ON_CLOUD_RUN:
        raise ImproperlyConfigured(
            "DATABASE_URL is SQLite, and a container of Cloud Run loses its disk. Set it to "
            "PostgreSQL: postgresql://sentinelle@/sentinelle?host=/cloudsql/PROJECT:REGION:INSTANCE"
            " with DB_PASSWORD from a secret (docs/deployment.md)."
        )
    DATABASES["default"]["OPTIONS"] = {
        # Take the write lock at BEGIN: a deferred one that is upgraded later fails at once.
        "transaction_mode": "IMMEDIATE",
        "timeout": 20,
        # FULL: an answered decision survives a power cut, which NORMAL does not promise in WAL.
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;",
    }
    # A file, because tests of concurrency need what a shared in-memory database does not have: WAL.
    DATABASES["default"]["TEST"] = {"NAME": str(HOME.root / "test.sqlite3")}
else:
    # Apart from the URL, so that it can come from a secret and the URL can be shown.
    DATABASES["default"]["PASSWORD"] = env_str("DB_PASSWORD", DATABASES["default"]["PASSWORD"])
    DATABASES["default"]["CONN_HEALTH_CHECKS"] = True
    # A host that vanished is noticed in seconds, not when TCP gives up after a quarter of an hour.
    DATABASES["default"]["OPTIONS"] = {
        "connect_timeout": 5,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 15_000,
    } | DATABASES["default"].get("OPTIONS", {})
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

REDIS_URL = env_url("REDIS_URL", f"unix://{HOME.valkey_socket}", ["redis", "rediss", "unix"])
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": REDIS_URL,
        "OPTIONS": {"socket_timeout": 0.25, "socket_connect_timeout": 0.25},
    }
}
SESSION_ENGINE = "django.contrib.sessions.backends.db"

LANGUAGE_CODE = "en"
TIME_ZONE = env_str("TIME_ZONE", "UTC")
USE_TZ = True
FORMAT_MODULE_PATH = ["sentinelle.formats"]
STATIC_URL = "static/"
STATIC_ROOT = BASE_DIR / "staticfiles"
# Serve the admin's files from the packages themselves where nobody ran collectstatic.
WHITENOISE_USE_FINDERS = not STATIC_ROOT.exists()
warnings.filterwarnings("ignore", message="No directory at")
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]
LOGIN_URL = "admin:login"
DATA_UPLOAD_MAX_MEMORY_SIZE = 1_000_000
# Of a file that becomes a data set; larger ones are imported by command.
UPLOAD_MAX_MB = env_int("UPLOAD_MAX_MB", 500, 1, 100_000)
FILE_UPLOAD_HANDLERS = [
    "training.upload_handler.SizeLimit",
    "django.core.files.uploadhandler.MemoryFileUploadHandler",
    "django.core.files.uploadhandler.TemporaryFileUploadHandler",
]
STORAGES = storages(BUCKET_NAME, HOME.uploads)

SECURE_SSL_REDIRECT = HTTPS
SECURE_HSTS_SECONDS = 31_536_000 if HTTPS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = HTTPS
SECURE_HSTS_PRELOAD = HTTPS
SESSION_COOKIE_SECURE = HTTPS
CSRF_COOKIE_SECURE = HTTPS
X_FRAME_OPTIONS = "DENY"
if env_bool("TRUST_FORWARDED_PROTO", False):
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["scoring.authentication.ApiKeyAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["scoring.authentication.HasScope"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "EXCEPTION_HANDLER": "sentinelle.problems.exception_handler",
    "UNAUTHENTICATED_USER": None,
}

# --- Celery --------------------------------------------------------------------------------
CELERY_BROKER_URL = (
    "redis+socket://" + REDIS_URL.removeprefix("unix://")
    if REDIS_URL.startswith("unix://")
    else REDIS_URL
)
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_TASK_DEFAULT_QUEUE = "sentinelle"
# What takes minutes or hours has a queue and a worker of its own: it never keeps the short tasks
# waiting, which stop machines, look at runs elsewhere and end what nobody answers for.
CELERY_TASK_QUEUES: dict[str, dict[str, str]] = {"sentinelle": {}, "training": {}}
CELERY_TASK_ROUTES = {
    "training.tasks.run_train": {"queue": "training"},
    "training.tasks.run_schedule": {"queue": "training"},
    "training.tasks.import_upload": {"queue": "training"},
}
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_TRANSPORT_OPTIONS = {"socket_connect_timeout": 5}
CELERY_TIMEZONE = "UTC"
# No results are kept, so beat needs not have any cleared away.
CELERY_RESULT_EXPIRES = None
CELERY_BEAT_SCHEDULER = "django_celery_beat.schedulers:DatabaseScheduler"
CELERY_BEAT_SCHEDULE = {
    "fail-abandoned-runs": {
        "task": "training.tasks.fail_abandoned_runs",
        "schedule": 15.0,
        # While every worker is busy these would only pile up.
        "options": {"expire_seconds": 15},
    },
    "guard-machines": {
        "task": "training.tasks.guard_machines",
        "schedule": 60.0,
        "options": {"expire_seconds": 60},
    },
    "mend-pointers": {
        "task": "deployments.tasks.mend_pointers",
        "schedule": 60.0,
        "options": {"expire_seconds": 60},
    },
    "run-due-schedules": {
        "task": "training.tasks.run_due_schedules",
        "schedule": 15.0,
        "options": {"expire_seconds": 15},
    },
    "recover-uploads": {
        "task": "training.tasks.recover_uploads",
        "schedule": 15.0,
        "options": {"expire_seconds": 15},
    },
    "measure-deployments": {
        "task": "deployments.tasks.measure_deployments",
        "schedule": 3600.0,
        "options": {"expire_seconds": 3600},
    },
    "step-due-deployments": {
        "task": "deployments.tasks.step_due_deployments",
        "schedule": 5.0,
        "options": {"expire_seconds": 5},
    },
    "step-due-runs": {
        "task": "training.tasks.step_due_runs",
        "schedule": 5.0,
        "options": {"expire_seconds": 5},
    },
}

LOG_LEVEL = env_choice("LOG_LEVEL", "INFO", ["DEBUG", "INFO", "WARNING", "ERROR"])
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "line": {"format": "{asctime} {levelname} {name}: {message}", "style": "{"},
    },
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["console"], "level": LOG_LEVEL},
}
os.environ.setdefault("NUMBA_CACHE_DIR", str(HOME.cache / "numba"))
