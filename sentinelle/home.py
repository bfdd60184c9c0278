"""The home folder: where one machine keeps everything that Sentinelle writes.

    db.sqlite3  valkey.sock  secret_key  demo  artifacts/  data/  runs/  uploads/  logs/
    cache/

`secret_key` exists in a home made by `make run` or `make demo`; `demo` only in one made by
`make demo`, and opens the API to this machine without a key.
"""

import os
import secrets
from pathlib import Path

# sun_path holds 108 bytes on Linux and 104 on macOS, with the closing zero.
SOCKET_PATH_LIMIT = 103


class Home:
    """Paths below one home folder, and the two facts that it keeps."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.artifacts = root / "artifacts"
        self.data = root / "data"
        self.runs = root / "runs"
        self.uploads = root / "uploads"
        self.logs = root / "logs"
        self.cache = root / "cache"
        self.database = root / "db.sqlite3"
        self.valkey_socket = root / "valkey.sock"
        self._secret_key = root / "secret_key"
        self._demo = root / "demo"

    @property
    def is_demo(self) -> bool:
        return self._demo.exists()

    @property
    def secret_key(self) -> str:
        """The key made with the home; empty when there is none."""
        return self._secret_key.read_text().strip() if self._secret_key.exists() else ""

    @property
    def exists(self) -> bool:
        return self._secret_key.exists()

    def create(self, *, demo: bool) -> None:
        """Make the folders and the secret key. A demo home is so from its beginning: an existing
        home is never opened."""
        fresh = not self.exists
        for folder in (self.root, self.artifacts, self.data, self.runs, self.logs, self.cache):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if fresh:
            self.root.chmod(0o700)
            if demo:
                self._demo.touch(mode=0o600)
            else:
                self._demo.unlink(missing_ok=True)  # of a demo that never got as far as a key
            temporary = self.root / f".secret_key.{os.getpid()}"
            temporary.touch(mode=0o600)
            temporary.write_text(secrets.token_urlsafe(50))
            temporary.rename(self._secret_key)
