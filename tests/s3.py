"""S3 on this machine: moto's server in a process of its own, and a proxy that makes trouble on the way to it."""

import os
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import pytest

ROOT = Path(__file__).parents[1]

REFUSED = b"HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/xml\r\nConnection: close\r\n"
REFUSAL = b"<?xml version='1.0'?><Error><Code>InternalError</Code><Message>We encountered an error.</Message></Error>"

SERVER = """
import os, sys, threading
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

class Quiet(WSGIRequestHandler):
    def log(self, *args):
        pass

def leave_with_the_tests():
    sys.stdin.read()
    os._exit(0)

threading.Thread(target=leave_with_the_tests, daemon=True).start()

# One request at a time: moto's look whether a key is there, and its putting it there, are two steps.
server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), request_handler=Quiet)
print(server.server_port, flush=True)
server.serve_forever()
"""

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "very-secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


class Proxy:
    """Passes connections on to a server, each request in a connection of its own, and fails as it is told to.

    `errors` requests are answered with 500; `lost_answers` are passed on, and their answers replaced by a 500; every
    `drop_every`-th is dropped, by turns before it was passed on and after; while `away` is set, all are.
    """

    def __init__(self, port):
        self._target = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.errors = self.lost_answers = self.drop_every = self.seen = 0
        self.away = threading.Event()
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    @contextmanager
    def outage(self, duration_s):
        """Away from now on, and back by itself after so long."""
        self.away.set()
        timer = threading.Timer(duration_s, self.away.clear)
        timer.start()
        try:
            yield
        finally:
            timer.join()

    def close(self):
        self._listening.close()

    def _accept(self):
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        with client, suppress(OSError):
            client.settimeout(60)
            if self.away.is_set():
                return
            request = _message(client)
            if not request:
                return
            with self._lock:
                self.seen += 1
                refused, lost = self.errors > 0, self.errors == 0 and self.lost_answers > 0
                self.errors -= refused
                self.lost_answers -= lost
                turn, rest = divmod(self.seen, self.drop_every or sys.maxsize)
            if not rest and turn % 2:
                return
            if not refused:
                with socket.create_connection(("127.0.0.1", self._target)) as server:
                    server.sendall(_closing(request))
                    answer = b"".join(iter(lambda: server.recv(65536), b""))
            if refused or lost:
                answer = REFUSED + b"Content-Length: %d\r\n\r\n" % len(REFUSAL) + REFUSAL
            if rest and not self.away.is_set():
                client.sendall(answer)


def _message(client):
    """One HTTP request, whole; a client that waits for leave to send its body gets it."""
    data = b""
    while b"\r\n\r\n" not in data:
        if not (part := client.recv(65536)):
            return b""
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    headers = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    if headers.get(b"expect") == b"100-continue":
        client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    if headers.get(b"transfer-encoding") == b"chunked":
        while not body.endswith(b"0\r\n\r\n"):
            body += client.recv(65536)
    while len(body) < int(headers.get(b"content-length", 0)):
        body += client.recv(65536)
    return head + b"\r\n\r\n" + body


def _closing(request):
    head, _, body = request.partition(b"\r\n\r\n")
    kept = [line for line in head.split(b"\r\n") if not line.lower().startswith((b"connection:", b"expect:"))]
    return b"\r\n".join([*kept, b"Connection: close"]) + b"\r\n\r\n" + body


@pytest.fixture(scope="session")
def s3_server():
    """Port of a server; each worker of the tests has its own."""
    pytest.importorskip("moto")
    with subprocess.Popen(
        [sys.executable, "-c", SERVER],
        env=os.environ | ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        yield int(server.stdout.readline())
        server.kill()


@pytest.fixture
def proxy(s3_server):
    proxy = Proxy(s3_server)
    yield proxy
    proxy.close()


@pytest.fixture
def bucket(s3_server, monkeypatch):
    """URL of a new bucket, which this process and its children may use."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{s3_server}")
    return new_bucket()


def new_bucket():
    from energyaware.files_object import connected

    name = f"bucket-{uuid4().hex}"
    connected().mkdir(name)
    return f"s3://{name}"
