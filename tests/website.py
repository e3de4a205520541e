"""A web server on this machine that breaks off, lies and refuses as a test asks it to."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Site:
    """Files by name, how requests are treated, and what was asked (``requests``)."""

    def __init__(self, address: str):
        self.address = address
        self.files: dict[str, bytes] = {}
        self.requests: list[dict] = []
        self.status: dict[str, int] = {}
        self.breaks: list[int] = []  # body bytes after which the coming replies are cut off
        self.ranges = True
        self.etag: str | None = '"one"'
        self.content_type = "application/octet-stream"
        self.encoding: str | None = None
        self.announces_length = True

    def url(self, name: str) -> str:
        return f"{self.address}/{name}"


class _Server(ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        """Stay silent: clients that hang up are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        site, name = self.server.site, self.path.lstrip("/")
        site.requests.append({"name": name, **{k.lower(): v for k, v in self.headers.items()}})
        body = site.files.get(name)
        status = site.status.get(name, 200 if body is not None else 404)
        if status != 200:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start, whole = 0, len(body)
        wanted = self.headers.get("Range")
        if wanted and site.ranges and self.headers.get("If-Range") in (None, site.etag):
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
        else:
            self.send_response(200)
        if site.announces_length:
            self.send_header("Content-Length", str(whole - start))
        if site.etag:
            self.send_header("ETag", site.etag)
        if site.encoding:
            self.send_header("Content-Encoding", site.encoding)
        self.send_header("Content-Type", site.content_type)
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        self.wfile.write(body[start : start + site.breaks.pop(0) if site.breaks else whole])


@contextmanager
def served() -> Iterator[Site]:
    server = _Server(("127.0.0.1", 0), _Handler)
    server.site = Site(f"http://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server.site
    server.shutdown()
    server.server_close()
