"""A stand-in for Elasticsearch and OpenSearch: an index, a bulk of rows, and a search in two stages, in float64.

It reads no more of a request than it computes: what it does not know it refuses, so that a search which is answered has
in it all that the answer needs.
"""

from __future__ import annotations

import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np


class SearchServer(ThreadingHTTPServer):
    """Serves on a free port; ``requests`` has every body it was sent, by path."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[tuple[str, Any]] = []
        self.fields: dict[str, dict[str, Any]] = {}
        self.rows: dict[str, dict[str, Any]] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def create(self, body: dict[str, Any]) -> dict[str, Any]:
        self.fields = body["mappings"]["properties"]
        return {"acknowledged": True, "shards_acknowledged": True, "index": "items"}

    def bulk(self, lines: list[dict[str, Any]]) -> dict[str, Any]:
        items = []
        for action, row in zip(lines[::2], lines[1::2], strict=True):
            assert set(row) <= set(self.fields)
            for name in row:
                self._check_length(name, row[name])
            self.rows[action["index"]["_id"]] = row
            items.append({"index": {"_index": "items", "_id": action["index"]["_id"], "status": 201}})
        return {"took": 1, "errors": False, "items": items}

    def search(self, body: dict[str, Any]) -> dict[str, Any]:
        assert body.keys() == {"query", "rescore", "size", "_source"}
        [(kind, knn)] = body["query"].items()
        assert kind == "knn"
        if "field" in knn:  # Elasticsearch
            assert knn.keys() <= {"field", "query_vector", "k", "num_candidates", "filter"}
            assert knn["num_candidates"] >= knn["k"]
            field, vector = knn["field"], knn["query_vector"]
        else:
            [(field, knn)] = knn.items()
            assert knn.keys() <= {"vector", "k", "filter"}
            vector = knn["vector"]
        scores = self._cosines(field, vector, [name for name in self.rows if self._meets(name, knn.get("filter"))])
        shortlist = sorted(scores, key=scores.__getitem__, reverse=True)[: knn["k"]]
        assert body["rescore"]["window_size"] == knn["k"]
        again = body["rescore"]["query"]
        assert again["query_weight"] == 0
        assert again["rescore_query"]["script_score"]["query"] == {"match_all": {}}
        field, vector = self._script(again["rescore_query"]["script_score"]["script"])
        scores = self._cosines(field, vector, shortlist)
        best = sorted(scores, key=scores.__getitem__, reverse=True)[: body["size"]]
        hits = [{"_index": "items", "_id": name, "_score": 1 + scores[name]} for name in best]
        total = {"value": len(shortlist), "relation": "eq"}
        return {"took": 1, "timed_out": False, "hits": {"total": total, "max_score": None, "hits": hits}}

    def _script(self, script: dict[str, Any]) -> tuple[str, list[float]]:
        """The field and the vector that a script compares."""
        if script.get("lang") == "knn":
            assert script["source"] == "knn_score"
            assert script["params"]["space_type"] == self.fields[script["params"]["field"]]["space_type"]
            return script["params"]["field"], script["params"]["query_value"]
        match = re.fullmatch(r"cosineSimilarity\(params\.(\w+), '(\w+)'\) \+ 1\.0", script["source"])
        assert match
        return match[2], script["params"][match[1]]

    def _meets(self, name: str, condition: dict[str, Any] | None) -> bool:
        if condition is None:
            return True
        [(column, bounds)] = condition["range"].items()
        assert bounds.keys() == {"gte"}
        assert self.fields[column] == {"type": "integer"}
        return bool(self.rows[name][column] >= bounds["gte"])

    def _cosines(self, field: str, vector: list[float], names: list[str]) -> dict[str, float]:
        self._check_length(field, vector)
        query = np.array(vector)
        found = {}
        for name in names:
            row = np.array(self.rows[name][field])
            found[name] = float(row @ query / np.linalg.norm(row) / np.linalg.norm(query))
        return found

    def _check_length(self, name: str, value: Any) -> None:
        length = self.fields[name].get("dims", self.fields[name].get("dimension"))
        assert length is None or len(value) == length, f"a vector of {len(value)}, not {length}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: SearchServer

    def _answer(self) -> None:
        text = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        path = self.path.partition("?")[0]
        lines = [json.loads(line) for line in text.splitlines()] if path.endswith("_bulk") else [json.loads(text)]
        answers = {"_search": self.server.search, "items": self.server.create}
        try:
            last = path.rpartition("/")[2]
            body = self.server.bulk(lines) if last == "_bulk" else answers[last](lines[0])
            status = 200
        except (AssertionError, KeyError, TypeError, ValueError) as error:
            status, body = 400, {"error": {"type": "refused", "reason": repr(error)}, "status": 400}
        self.server.requests.append((path, lines if path.endswith("_bulk") else lines[0]))
        answer = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("X-Elastic-Product", "Elasticsearch")  # its client talks to nothing else
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_PUT = do_POST = _answer

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""
