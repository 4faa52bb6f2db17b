"""What a server refuses: malformed requests, wrong tokens, too much at once. Raw HTTP, so that nothing is repaired."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.serving.conftest import KEY, Running

JSON = {"content-type": "application/json"}


def ask(
    server: Running,
    body: Any = None,
    *,
    method: str = "POST",
    path: str = "/v1/embeddings",
    headers: dict[str, str] | None = None,
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    content = json.dumps(body).encode() if isinstance(body, dict) else body
    connection.request(method, path, content, JSON if headers is None else headers)
    response = connection.getresponse()
    answer = response.read()
    connection.close()
    return response.status, {name.lower(): value for name, value in response.getheaders()}, answer


def good(**changes: Any) -> dict[str, Any]:
    return {"input": ["the cat"], "model": "tiny", **changes}


BODIES: list[tuple[str, Any, int, str]] = [
    ("broken JSON", b'{"input": ["the cat"', 400, "not JSON"),
    ("no body", b"", 400, "not JSON"),
    ("no object", b'["the cat"]', 400, "JSON object"),
    ("a number for a body", b"7", 400, "JSON object"),
    ("not UTF-8", b'{"input": "caf\xe9", "model": "tiny"}', 400, "not UTF-8"),
    ("UTF-16", '{"input": "the cat", "model": "tiny"}'.encode("utf-16"), 400, "not UTF-8"),
    ("half a surrogate pair", b'{"input": "\\ud83d", "model": "tiny"}', 400, "surrogate"),
    ("NaN", b'{"input": "the cat", "model": "tiny", "dimensions": NaN}', 400, "NaN"),
    ("infinite", b'{"input": [Infinity], "model": "tiny"}', 400, "Infinity"),
    ("duplicate key", b'{"input": "a", "input": "b", "model": "tiny"}', 400, "the key 'input' twice"),
    ("nested too deep", b"[" * 100_000, 400, "nested too deep"),
    ("deep inside", b'{"input": ' + b"[" * 5_000 + b"]" * 5_000 + b', "model": "tiny"}', 400, ""),
    ("a huge number", b'{"input": "a", "model": "tiny", "dimensions": ' + b"9" * 5_000 + b"}", 400, "number"),
    ("no input", {"model": "tiny"}, 400, "'input' is missing"),
    ("no model", {"input": "the cat"}, 400, "'model' is missing"),
    ("null input", good(input=None), 400, "got null"),
    ("empty list", good(input=[]), 400, "empty list"),
    ("empty text", good(input=["the cat", ""]), 400, "input[1] is empty"),
    ("one empty text", good(input=""), 400, "is empty"),
    ("object for a text", good(input={"text": "the cat"}), 400, "an object"),
    ("true for a text", good(input=[True]), 400, "true or false"),
    ("fraction for a text", good(input=[1.5]), 400, "a number"),
    ("mixed list", good(input=["the cat", 7]), 400, "input[1]"),
    ("null in the list", good(input=["the cat", None]), 400, "null"),
    ("nested lists", good(input=[["the cat"]]), 400, "must be a text"),
    ("token ids", good(input=[1, 2, 3]), 400, "token ids"),
    ("lists of token ids", good(input=[[1, 2], [3]]), 400, "token ids"),
    ("too many inputs", good(input=["a"] * 101), 400, "at most 100"),
    ("too long", good(input="a" * 300_000), 413, "200000 bytes"),
    ("zero dimensions", good(dimensions=0), 400, "from 1 to 32, the model's width, got 0"),
    ("negative dimensions", good(dimensions=-1), 400, "from 1 to 32, the model's width, got -1"),
    ("too many dimensions", good(dimensions=33), 400, "from 1 to 32, the model's width, got 33"),
    ("enormous dimensions", good(dimensions=10**400), 400, "from 1 to 32"),
    ("fractional dimensions", good(dimensions=16.0), 400, "integer, got 16.0"),
    ("dimensions in words", good(dimensions="16"), 400, "integer, got '16'"),
    ("true dimensions", good(dimensions=True), 400, "integer, got True"),
    ("unknown encoding", good(encoding_format="hex"), 400, "'float' or 'base64', got 'hex'"),
    ("unknown output_dtype", good(output_dtype="int4"), 400, "'binary' or 'ubinary', got 'int4'"),
    ("model is no text", good(model=7), 400, "string, got 7"),
    ("unknown model", good(model="gpt"), 404, "'tiny' is"),
    ("a very long model name", good(model="x" * 100_000), 404, "not served"),
    ("misspelt field", good(dimension=16), 400, "did you mean 'dimensions'"),
    (
        "unknown input_type",
        good(input_type="passage"),
        400,
        "input_type: input should be 'query' or 'document', got 'passage'",
    ),
    (
        "deep where a name should be",
        b'{"input": "a", "model": ' + b"[" * 900 + b"]" * 900 + b"}",
        400,
        "string, got [[[...]]]",
    ),
    ("a name in half", b'{"input": "a", "model": "tiny", "\\ud83d": 1}', 400, "half of a surrogate pair"),
    ("unknown prompt", good(prompt_name="x" * 10_000), 400, "no prompt"),
]


@pytest.mark.parametrize(("body", "status", "reason"), [row[1:] for row in BODIES], ids=[row[0] for row in BODIES])
def test_malformed_body(server, body, status, reason):
    found, headers, answer = ask(server, body)
    assert found == status
    _check_error(headers, answer, reason)


def test_other_malformed_requests(server):
    for changes, status, reason in [
        ({"method": "GET"}, 405, "'/v1/embeddings' does not take the method 'GET': use POST"),
        ({"method": "DELETE"}, 405, "method"),
        ({"path": "/v1/models"}, 405, "'/v1/models' does not take the method 'POST': use GET"),
        ({"path": "/v1/embedding"}, 404, "there is no path '/v1/embedding': POST to /v1/embeddings, /rerank, "),
        ({"path": "/v1/embeddings/"}, 404, "path"),
        ({"path": "/docs"}, 404, "path"),
        ({"path": "/v1/models/other", "method": "GET"}, 404, "served"),
        ({"headers": {}}, 415, "Content-Type"),
        ({"headers": {"content-type": "text/plain"}}, 415, "'Content-Type: application/json', not 'text/plain'"),
        ({"headers": {**JSON, "content-encoding": "gzip"}}, 415, "compressed, and 'gzip' says it is"),
    ]:
        found, headers, answer = ask(server, good(), **changes)
        assert found == status, changes
        _check_error(headers, answer, reason)


def _check_error(headers: dict[str, str], answer: bytes, reason: str) -> None:
    error = json.loads(answer)["error"]
    assert headers["content-type"] == "application/json"
    assert error.keys() == {"message", "type", "param", "code"}
    assert reason in error["message"]
    assert len(answer) < 500  # never the input
    assert b"Traceback" not in answer and b'File "' not in answer


def test_a_body_without_length_is_cut_off(server):
    chunk = b"%x\r\n%s\r\n" % (10_000, b"a" * 10_000)
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        head = "POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        connection.sendall(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(25):  # never the end of the body
            connection.sendall(chunk)
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_malformed_http(server):
    for sent in (b"hello\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 200_000 + b"\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
            connection.sendall(sent)
            answer = connection.recv(1000)
        assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 431 "))
        assert b"Traceback" not in answer


def test_nothing_of_it_reached_the_log(server):
    assert ask(server, good())[0] == 200  # and the server still works
    assert "Traceback" not in server.log
    assert "the cat" not in server.log


def test_a_wrong_token_learns_nothing(guarded):
    right = {**JSON, "authorization": f"Bearer {KEY}"}
    assert ask(guarded, good(), headers=right)[0] == 200
    assert ask(guarded, good(), headers={**JSON, "authorization": f"bearer {KEY}"})[0] == 200  # as RFC 9110 has it
    answers = set()
    for authorization in (
        "",
        "Bearer",
        "Bearer wrong",
        f"Bearer {KEY}x",
        f"Bearer {KEY[:-1]}",
        f"Basic {KEY}",
        KEY,
        "ÿ",
    ):
        headers = {**JSON, **({"authorization": authorization} if authorization else {})}
        for method, path, body in [
            ("POST", "/v1/embeddings", good()),
            ("POST", "/v1/embeddings", b"{"),
            ("POST", "/v1/embeddings", good(input="a" * 300_000)),
            ("GET", "/v1/embeddings", None),
            ("GET", "/v1/models", None),
            ("GET", "/v1/models/tiny", None),
            ("GET", "/metrics", None),
            ("GET", "/openapi.json", None),
            ("GET", "/docs", None),
            ("GET", "/no-such-path", None),
            ("OPTIONS", "/", None),
        ]:
            status, found, answer = ask(guarded, body, method=method, path=path, headers=headers)
            found.pop("date")
            answers.add((status, tuple(sorted(found.items())), answer))
    assert len(answers) == 1
    status, _, answer = answers.pop()
    assert status == 401
    assert b"tiny" not in answer and b"32" not in answer
    _check_error({"content-type": "application/json"}, answer, "API key")


def test_a_token_is_asked_for_before_the_body_is_read(guarded):
    with socket.create_connection(("127.0.0.1", guarded.port), timeout=20) as connection:
        connection.sendall(b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n")  # and no body
        assert connection.recv(1000).startswith(b"HTTP/1.1 401 ")


def test_health_is_open_and_says_nothing(guarded):
    status, _, answer = ask(guarded, method="GET", path="/health")
    assert (status, json.loads(answer)) == (200, {"status": "ok"})


def test_token_protects_metrics_and_hides_the_description(guarded):
    right = {"authorization": f"Bearer {KEY}"}
    status, _, answer = ask(guarded, method="GET", path="/metrics", headers=right)
    assert status == 200 and b"mrl_text_requests_total" in answer
    assert ask(guarded, method="GET", path="/openapi.json", headers=right)[0] == 404


def test_open_server_describes_itself(server):
    status, _, answer = ask(server, method="GET", path="/openapi.json", headers={})
    assert status == 200
    assert (
        "dimensions"
        in json.loads(answer)["paths"]["/v1/embeddings"]["post"]["requestBody"]["content"]["application/json"][
            "schema"
        ]["properties"]
    )


def test_token_ids_of_the_models_own_tokenizer(slow: Running, tiny_bert: Path):
    from transformers import AutoTokenizer

    server = slow
    ids = AutoTokenizer.from_pretrained(str(tiny_bert))(["the cat sits", "a dog"])["input_ids"]
    as_text = json.loads(ask(server, good(input=["the cat sits", "a dog"]))[2])
    as_ids = json.loads(ask(server, good(input=ids))[2])
    assert as_ids["data"] == as_text["data"]
    assert json.loads(ask(server, good(input=ids[0]))[2])["data"][0] == as_text["data"][0]
    for wrong in ([10**6], [-1], [[5], [10**6]]):
        status, headers, answer = ask(server, good(input=wrong))
        assert status == 400
        _check_error(headers, answer, "outside")
