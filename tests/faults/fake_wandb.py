"""A server that wandb takes for its own: enough of the protocol to begin, resume and fill a run.

In: requests of wandb-core, on loopback. Out: for each run the rows by line, and how it was begun.
Knows nothing of jaxtrain. What it answers is what wandb 0.31 asks for; anything else gets an empty answer.
"""

from __future__ import annotations

import gzip
import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import urlsplit

API_KEY = "0123456789" * 4


@dataclass
class Run:
    """What the server knows of one run."""

    begun: list[dict[str, Any]] = field(default_factory=list)  # variables of each UpsertBucket with a name
    lines: dict[int, dict[str, Any]] = field(default_factory=dict)  # place in the history -> row
    replaced: list[tuple[int, dict[str, Any], dict[str, Any]]] = field(
        default_factory=list
    )  # place, old, new
    summary: str | None = None
    config: str | None = None
    complete: bool = False

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The history in the order of its lines, without wandb's clocks."""
        return [_without_clocks(self.lines[place]) for place in sorted(self.lines)]

    @property
    def steps(self) -> list[int]:
        return [row["_step"] for row in self.rows]


class FakeWandb:
    """Serve on a free port of loopback while a `with` statement lasts.

    Attributes:
      delay: seconds before each answer.
      dead: no request is answered; those under way are cut off.
      runs: by id.
      requests: how many came in, dead or not.
    """

    def __init__(self, delay: float = 0.0) -> None:
        self.delay = delay
        self.dead = False
        self.runs: dict[str, Run] = {}
        self.requests = 0
        self.changed = threading.Condition()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.fake = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to find this server, and no other."""
        port = self._server.server_address[1]
        return {
            "WANDB_BASE_URL": f"http://127.0.0.1:{port}",
            "WANDB_API_KEY": API_KEY,
            "WANDB_MODE": "online",
            "WANDB_SILENT": "true",
            "WANDB_ERROR_REPORTING": "false",
        }

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.dead = True
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def wait_for_rows(self, run: str, number: int, seconds: float = 60.0) -> None:
        """Return once a run has so many rows."""
        with self.changed:
            arrived = lambda: run in self.runs and len(self.runs[run].lines) >= number  # noqa: E731
            if not self.changed.wait_for(arrived, seconds):
                raise TimeoutError(f"{run}: not {number} rows after {seconds:g} s")

    def answer(self, path: str, body: bytes, base: str) -> Any:
        with self.changed:
            try:
                if path.endswith("/graphql"):
                    return {"data": self._graphql(json.loads(body), base)}
                if path.endswith("/file_stream"):
                    self._file_stream(path.split("/")[-2], json.loads(body))
                return {"exitcode": None, "limits": {}}
            finally:
                self.changed.notify_all()

    def _graphql(self, request: dict[str, Any], base: str) -> dict[str, Any]:
        given = request.get("variables") or {}
        project = {"id": "project", "name": "jaxtrain", "entity": {"id": "entity", "name": "me"}}
        match request.get("operationName"):
            case "Viewer":
                user = {"id": "me", "entity": "me", "username": "me", "email": "", "flags": "{}"}
                return {"viewer": {**user, "teams": {"edges": []}}}
            case "RunResumeStatus":
                return {"model": {**project, "bucket": self._resume_status(given["name"])}}
            case "UpsertBucket":
                run = self.runs.setdefault(given["name"], Run())
                run.begun.append(given)
                run.config = given["config"] or run.config
                bucket = {
                    "id": f"id-{given['name']}",
                    "name": given["name"],
                    "displayName": given["displayName"],
                    "description": None,
                    "config": run.config,
                    "sweepName": None,
                    "project": project,
                    "historyLineCount": len(run.lines),
                }
                return {"upsertBucket": {"bucket": bucket, "inserted": len(run.begun) == 1}}
            case "CreateRunFiles":
                files = [{"name": name, "uploadUrl": f"{base}/upload"} for name in given["files"]]
                return {"createRunFiles": {"runID": given["run"], "uploadHeaders": [], "files": files}}
        return {}

    def _resume_status(self, name: str) -> dict[str, Any] | None:
        run = self.runs.get(name)
        if run is None:
            return None
        last = [json.dumps(run.lines[max(run.lines)])] if run.lines else []
        return {
            "id": f"id-{name}",
            "name": name,
            "summaryMetrics": run.summary or "{}",
            "displayName": name,
            "logLineCount": 0,
            "historyLineCount": len(run.lines),
            "eventsLineCount": 0,
            "historyTail": json.dumps(last),
            "eventsTail": "[]",
            "config": run.config,
            "tags": [],
            "notes": None,
            "wandbConfig": '{"t": {}}',
        }

    def _file_stream(self, name: str, request: dict[str, Any]) -> None:
        run = self.runs.setdefault(name, Run())
        files = request.get("files") or {}
        history = files.get("wandb-history.jsonl", {"offset": 0, "content": []})
        for place, line in enumerate(history["content"], history["offset"]):
            row = json.loads(line)
            if place in run.lines:
                run.replaced.append((place, run.lines[place], row))
            run.lines[place] = row
        if "wandb-summary.json" in files:
            run.summary = files["wandb-summary.json"]["content"][-1]
        run.complete = run.complete or bool(request.get("complete"))


def _without_clocks(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in ("_runtime", "_timestamp", "_wandb")}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    fake: FakeWandb

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that was killed


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def _do(self) -> None:
        fake = self.server.fake
        with fake.changed:
            fake.requests += 1
            fake.changed.notify_all()
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        time.sleep(fake.delay)
        if fake.dead:
            self.close_connection = True
            return
        base = f"http://{self.headers['Host']}"
        answer = json.dumps(fake.answer(urlsplit(self.path).path, body, base)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST = do_PUT = _do

    def log_message(self, format: str, *args: Any) -> None:
        pass
