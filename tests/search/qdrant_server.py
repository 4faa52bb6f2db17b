"""A stand-in for a Qdrant server: its REST interface in front of the client's own local mode.

Bodies are read by the models that the client generates from Qdrant's published schema, which refuse unknown fields. It
finds by brute force, so it shows what is asked and how answers are read, and nothing of graphs, codes and their speed.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, TypeAdapter
from qdrant_client import QdrantClient
from qdrant_client.http import models


class StandIn:
    """The server. ``faults`` are taken one for each request, first in first out.

    A fault is a status to answer with, ``(status, headers)``, ``"drop"`` (the connection is closed unanswered) or
    ``"lose"`` (the request is carried out and the connection closed before the answer).
    """

    def __init__(self) -> None:
        self.client = QdrantClient(":memory:")
        self.requests: list[tuple[str, str, Any]] = []
        self.faults: list[Any] = []
        self.keys: list[str | None] = []
        self.statuses: list[str] = []
        self.old = False
        self._lock = threading.Lock()
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                fault = stand_in.faults.pop(0) if stand_in.faults else None
                stand_in.keys.append(self.headers.get("api-key"))
                if fault == "drop":
                    self.close_connection = True
                    return
                headers = {}
                if isinstance(fault, tuple):
                    fault, headers = fault
                if isinstance(fault, int):
                    status, answer = fault, {"status": {"error": f"a fault with status {fault}"}}
                else:
                    status, answer = stand_in.answer(self.command, self.path, body)
                if fault == "lose":
                    self.close_connection = True
                    return
                content = json.dumps(answer).encode()
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = handle_any

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, method: str, target: str, body: bytes) -> tuple[int, dict[str, Any]]:
        parts = urlsplit(target)
        path = [unquote(part) for part in parts.path.strip("/").split("/")]
        with self._lock:
            self.requests.append(
                (method, parts.path + (f"?{parts.query}" if parts.query else ""), json.loads(body or b"null"))
            )
            try:
                return 200, {"result": self._result(method, path[1], path[2:], body), "status": "ok", "time": 0.0}
            except FileExistsError as error:
                return 409, {"status": {"error": str(error)}}
            except (KeyError, ValueError) as error:
                missing = isinstance(error, KeyError) or "not found" in str(error)
                return 404 if missing else 400, {"status": {"error": str(error)}}

    def _result(self, method: str, name: str, rest: list[str], body: bytes) -> Any:
        client, done = self.client, {"operation_id": 0, "status": "completed"}

        def read(type_: Any) -> Any:
            return TypeAdapter(type_).validate_json(body)

        routes: dict[tuple[str, str], Callable[[], Any]] = {
            ("GET", "exists"): lambda: {"exists": client.collection_exists(name)},
            ("GET", ""): lambda: self._info(name),
            ("PUT", ""): lambda: self._create(name, read(models.CreateCollection)),
            ("PATCH", ""): lambda: self._update(name, read(models.UpdateCollection)),
            ("DELETE", ""): lambda: client.delete_collection(name),
            ("PUT", "index"): lambda: read(models.CreateFieldIndex) and done,
            ("PUT", "points"): lambda: client.upsert(name, self._points(read(models.PointInsertOperations))),
            ("POST", "points"): lambda: self._retrieve(name, read(models.PointRequest)),
            ("POST", "points/delete"): lambda: client.delete(name, read(models.PointsSelector)),
            ("POST", "points/count"): lambda: client.count(name, read(models.CountRequest).filter),
            ("POST", "points/scroll"): lambda: self._scroll(name, read(models.ScrollRequest)),
            ("PUT", "points/vectors"): lambda: client.update_vectors(name, read(models.UpdateVectors).points),
            ("POST", "points/query/batch"): lambda: self._query(name, read(models.QueryRequestBatch)),
        }
        if rest[:1] == ["vectors"] and not self.old:
            if method == "PUT":
                return _plain(client.create_vector_name(name, rest[1], read(models.VectorNameConfig)))
            return _plain(client.delete_vector_name(name, rest[1]))
        if (method, "/".join(rest)) not in routes:
            raise KeyError("not found")
        return _plain(routes[method, "/".join(rest)]())

    def _info(self, name: str) -> Any:
        info = _plain(self.client.get_collection(name))
        return {**info, "status": self.statuses.pop(0) if self.statuses else "green"}

    def _create(self, name: str, wanted: models.CreateCollection) -> Any:
        if self.client.collection_exists(name):
            raise FileExistsError(f"Collection `{name}` already exists!")
        metadata = None if self.old else wanted.metadata
        return self.client.create_collection(name, vectors_config=wanted.vectors, metadata=metadata)

    def _update(self, name: str, wanted: models.UpdateCollection) -> Any:
        return self.client.update_collection(name, metadata=wanted.metadata, vectors_config=wanted.vectors)

    def _points(self, wanted: Any) -> Any:
        return wanted.batch if isinstance(wanted, models.PointsBatch) else wanted.points

    def _retrieve(self, name: str, wanted: models.PointRequest) -> Any:
        return self.client.retrieve(name, wanted.ids, wanted.with_payload, wanted.with_vector or False)

    def _scroll(self, name: str, wanted: models.ScrollRequest) -> Any:
        points, following = self.client.scroll(
            name,
            wanted.filter,
            wanted.limit or 10,
            None,
            wanted.offset,
            wanted.with_payload,
            wanted.with_vector or False,
        )
        return {"points": _plain(points), "next_page_offset": following}

    def _query(self, name: str, wanted: models.QueryRequestBatch) -> Any:
        for request in wanted.searches:
            _forget_parameters(request)
        return self.client.query_batch_points(name, wanted.searches)


def _forget_parameters(stage: Any) -> None:
    """The local mode has none, and warns."""
    while stage is not None:
        stage.params = None
        stage = stage.prefetch[0] if isinstance(stage.prefetch, list) else stage.prefetch


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return json.loads(value.model_dump_json(exclude_none=True))
    return [_plain(one) for one in value] if isinstance(value, list) else value
