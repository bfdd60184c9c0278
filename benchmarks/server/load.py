"""A cheap HTTP client for measuring servers: one thread, raw sockets, requests made beforehand."""

import selectors
import socket
import time
from collections.abc import Iterator

import numpy as np

_RECEIVE = 65_536


class Load:
    """What was measured: answers, failures and latencies, over one or more runs."""

    def __init__(self) -> None:
        self.latencies: list[float] = []  # seconds
        self.failures = 0
        self.seconds = 0.0

    def figures(self) -> dict[str, float]:
        """Answers a second, percentiles of the latency in milliseconds, and failures."""
        p50, p95, p99 = np.percentile(np.array(self.latencies) * 1e3, (50, 95, 99)).tolist()
        rate = len(self.latencies) / self.seconds
        return {"rate": rate, "p50": p50, "p95": p95, "p99": p99, "failures": self.failures}


def http_request(path: str, body: bytes, headers: dict[str, str]) -> bytes:
    """One POST as it goes over the wire."""
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def run(
    load: Load, port: int, requests: Iterator[bytes], *, connections: int, seconds: float
) -> None:
    """Keep `connections` requests under way for `seconds` and add what happened to `load`;
    anything but a 200 is a failure."""
    selector = selectors.DefaultSelector()
    for _ in range(connections):
        client = socket.create_connection(("127.0.0.1", port))
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        selector.register(client, selectors.EVENT_READ, [0.0, b""])
    started = time.perf_counter()
    for key in list(selector.get_map().values()):
        _send(key, next(requests))
    while selector.get_map():
        for key, _ in selector.select():
            status = _receive(key)
            if status is None:
                continue
            now = time.perf_counter()
            load.latencies.append(now - key.data[0])
            load.failures += status != 200
            if now - started < seconds:
                _send(key, next(requests))
            else:
                selector.unregister(key.fileobj)
                key.fileobj.close()  # type: ignore[union-attr]
    load.seconds += time.perf_counter() - started


def _send(key: selectors.SelectorKey, request: bytes) -> None:
    key.data[0] = time.perf_counter()
    key.fileobj.sendall(request)  # type: ignore[union-attr]


def _receive(key: selectors.SelectorKey) -> int | None:
    """The status of a whole answer, None while it is incomplete."""
    data = key.fileobj.recv(_RECEIVE)  # type: ignore[union-attr]
    if not data:
        raise ConnectionError("the server closed a connection")
    key.data[1] += data
    head, found, rest = key.data[1].partition(b"\r\n\r\n")
    if not found:
        return None
    length = head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0]
    if len(rest) < int(length):
        return None
    key.data[1] = b""
    return int(head[9:12])
