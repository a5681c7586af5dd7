"""A stand-in for the Hugging Face hub on this machine, for the hub's real client: what `HF_ENDPOINT` names.

It serves folders as repositories, each with one commit on the branch `main`, and keeps a list of what it was asked for.
"""

import contextlib
import hashlib
import http.server
import json
import re
import shutil
import threading
from pathlib import Path

COMMIT = "c0ffee" * 6 + "beef"


class Hub:
    """Serves `folder/owner/name` as the repository owner/name, on an address of this machine.

    Attributes:
        asked: (method, path) of every request so far.
        commits: by branch, what a test may move.
        broken_after: bytes of a file after which its connection is closed, as by a network that fails; None is never.
    """

    def __init__(self, folder, address="127.0.0.1"):
        self.folder, self.asked, self.commits, self.broken_after = Path(folder), [], {"main": COMMIT}, None
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = http.server.ThreadingHTTPServer((address, 0), handler)
        self.url = f"http://{address}:{self._server.server_port}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def sent(self, ending=""):
        """How often each file was sent whose name ends so."""
        names = [path.rpartition("/")[2] for method, path in self.asked if method == "GET" and "/resolve/" in path]
        return {name: names.count(name) for name in names if name.endswith(ending)}

    def environment(self, home):
        """Variables of processes that have this hub, with their own cache of it."""
        return {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}


class _Handler(http.server.BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def log_message(self, *_):
        pass

    def _answer(self, *, body):
        path = self.path.partition("?")[0]
        self.hub.asked.append((self.command, path))
        if found := re.fullmatch(r"/api/(?:models|datasets)/([\w.-]+/[\w.-]+)/(revision|tree)/([\w.-]+)", path):
            repository, kind, revision = found.groups()
            self._about(self.hub.folder / repository, kind, revision)
        elif found := re.fullmatch(r"/(?:datasets/)?([\w.-]+/[\w.-]+)/resolve/([\w.-]+)/(.+)", path):
            repository, revision, name = found.groups()
            self._file(self.hub.folder / repository / name, revision, body=body)
        else:
            self._say(404, b"", {})

    def _commit(self, revision):
        return self.hub.commits.get(revision, revision if revision in self.hub.commits.values() else None)

    def _about(self, folder, kind, revision):
        commit = self._commit(revision)
        if not folder.is_dir():
            return self._say(404, b"", {"X-Error-Code": "RepoNotFound"})
        if commit is None:
            return self._say(404, b"", {"X-Error-Code": "RevisionNotFound"})
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        tree = [
            {
                "type": "file",
                "path": path.relative_to(folder).as_posix(),
                "size": path.stat().st_size,
                "oid": _etag(path),
            }
            for path in files
        ]
        about = {"id": "/".join(folder.parts[-2:]), "sha": commit, "siblings": [{"rfilename": f["path"]} for f in tree]}
        return self._say(200, json.dumps(tree if kind == "tree" else about).encode(), {})

    def _file(self, path, revision, *, body):
        commit = self._commit(revision)
        if commit is None or not path.is_file():
            code = "EntryNotFound" if path.parent.is_dir() and commit else "RepoNotFound"
            return self._say(404, b"", {"X-Error-Code": code})
        headers = {"ETag": f'"{_etag(path)}"', "X-Repo-Commit": commit}
        if not body:
            return self._say(200, path.read_bytes(), headers)
        self.send_response(200)
        for name, value in {**headers, "Content-Length": str(path.stat().st_size)}.items():
            self.send_header(name, value)
        self.end_headers()
        with path.open("rb") as file, contextlib.suppress(ConnectionError):
            if self.hub.broken_after is None:
                return shutil.copyfileobj(file, self.wfile)
            self.wfile.write(file.read(self.hub.broken_after))
        self.close_connection = True
        return None

    def _say(self, code, content, headers):
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


def _etag(path):
    return hashlib.sha1(path.read_bytes()).hexdigest()
