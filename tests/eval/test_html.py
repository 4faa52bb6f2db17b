from __future__ import annotations

import csv
import io
import json
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from mrl_text.eval.report import write_html

BITS = {"float32": 32, "float16": 16, "int8": 8, "int4": 4, "int2": 2, "binary": 1}
LOSS = {"float32": 0.0, "float16": 0.0, "int8": 0.004, "int4": 0.008, "int2": 0.02, "binary": 0.05}
TYPES = {"Retrieval": "ndcg_at_10", "STS": "cosine_spearman", "Classification": "accuracy", "Clustering": "v_measure"}


def example(
    *,
    models: tuple[str, ...] = ("all-MiniLM-L6-v2",),
    tasks: int = 4,
    dims: tuple[int, ...] = (32, 64, 128, 256, 384),
    precisions: tuple[str, ...] = tuple(BITS),
    others: bool = True,
) -> dict[str, Any]:
    """Data of a report with made-up numbers that fall with the size as real ones do."""
    lines = [_line(f"m{index}", label, "model", "truncation") for index, label in enumerate(models)]
    if others:
        lines += [
            _line("c0", "base, truncated", "control", "truncation"),
            _line("c1", "base, PCA", "control", "pca"),
            _line("c2", "base, random numbers", "control", "random"),
            _line("r0", "text-embedding of a vendor", "reference", "truncation"),
        ]
    kinds = [(f"Task{index:02}", list(TYPES)[index % len(TYPES)]) for index in range(tasks)]
    cells = [
        _cell(line, place, dim, precision, kinds, dims[-1])
        for place, line in enumerate(lines)
        for dim in dims
        for precision in precisions
        if line["role"] == "model" or (precision == "float32" and (line["role"] == "control" or dim == dims[-1]))
    ]
    _mark_front(cells, {line["id"] for line in lines if line["role"] == "model"})
    return {
        "title": models[0] if len(models) == 1 else f"{len(models)} models",
        "version": "0.1.0",
        "keep": 0.99,
        "lines": lines,
        "tasks": [
            {"name": name, "type": kind, "metric": TYPES[kind], "items": "600 queries", "n": 600}
            for name, kind in kinds
        ],
        "caution": "",
        "cells": cells,
        "recommendations": [
            _recommendation(line, cells, scope, dims)
            for line in lines
            if line["role"] == "model"
            for scope in ("overall", *(name for name, _ in kinds))
        ],
        "notes": [
            "int8 uses ranges from 4,096 texts of the evaluated corpora.",
            "Task07 was left out: it has no data.",
        ],
    }


def _line(name: str, label: str, role: str, method: str) -> dict[str, Any]:
    return {
        "id": name,
        "label": label,
        "role": role,
        "method": method,
        "model": f"some-organisation/{label}",
        "revision": "8b3219a",
        "dtype": "float32",
    }


def _cell(
    line: Mapping[str, Any], place: int, dim: int, precision: str, kinds: list[tuple[str, str]], width: int
) -> dict[str, Any]:
    size = dim * BITS[precision] // 8
    weakness = {"model": 0.035, "control": 0.07, "reference": 0.05}[line["role"]] * (1 + 0.12 * place)
    weakness += {"pca": -0.01, "random": 0.015}.get(line["method"], 0.0)
    level = 0.66 - 0.006 * place
    kept = math.exp(-weakness * math.log2(width / dim) ** 1.6 / 2) * (1 - LOSS[precision] * (1 + 64 / dim))
    known = line["role"] != "reference"

    def measure(score: float, n: int) -> dict[str, Any]:
        half, ratio = 0.5 / math.sqrt(n), 0.25 / math.sqrt(n)
        return {
            "score": score,
            "low": score - half if known else None,
            "high": score + half if known else None,
            "retention": kept if known else None,
            "retention_low": kept - ratio if known else None,
            "retention_high": kept + ratio if known else None,
            "n": n if known else None,
        }

    tasks = {name: measure(kept * (level + 0.04 * (index % 5) - 0.08), 600) for index, (name, _) in enumerate(kinds)}
    types = {
        kind: measure(float(np.mean([tasks[name]["score"] for name, other in kinds if other == kind])), 1200)
        for kind in dict.fromkeys(kind for _, kind in kinds)
    }
    return {
        "line": line["id"],
        "dim": dim,
        "precision": precision,
        "bytes": size,
        "gb_per_100m": size / 10,
        "pareto": False,
        "overall": measure(float(np.mean([entry["score"] for entry in tasks.values()])), 2400),
        "types": types,
        "tasks": tasks,
    }


def _mark_front(cells: list[dict[str, Any]], models: set[str]) -> None:
    own = [cell for cell in cells if cell["line"] in models]
    for cell in own:
        cell["pareto"] = not any(
            other["bytes"] <= cell["bytes"]
            and other["overall"]["score"] >= cell["overall"]["score"]
            and (other["bytes"], other["overall"]["score"]) != (cell["bytes"], cell["overall"]["score"])
            for other in own
        )


def _recommendation(
    line: Mapping[str, Any], cells: list[dict[str, Any]], scope: str, dims: tuple[int, ...]
) -> dict[str, Any]:
    own = [cell for cell in cells if cell["line"] == line["id"]]
    good = [cell for cell in own if cell["overall"]["retention"] >= 0.99]
    chosen = min(good, key=lambda cell: cell["bytes"])
    full = dims[-1] * 4
    return {
        "line": line["id"],
        "scope": scope,
        "dim": chosen["dim"],
        "precision": chosen["precision"],
        "bytes": chosen["bytes"],
        "retention": chosen["overall"]["retention"],
        "low": chosen["overall"]["retention_low"],
        "sureness": 0.962,
        "saved_bytes": full - chosen["bytes"],
        "saved_gb_per_100m": (full - chosen["bytes"]) / 10,
        "times_smaller": full / chosen["bytes"],
        "text": f"Keep {chosen['dim']} numbers as {chosen['precision']}: {chosen['bytes']} bytes instead of {full}, "
        f"with {100 * chosen['overall']['retention']:.1f} % of the full-size quality"
        f"{'' if scope == 'overall' else f' on {scope}'}.",
    }


class _Page(HTMLParser):
    """The elements of a page as a parser that is not the browser's sees them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.attributes: list[tuple[str, str, str]] = []
        self.text: dict[str, str] = {}
        self._open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self._open = [dict(attrs).get("id") or tag]

    def handle_data(self, data: str) -> None:
        if self._open:
            self.text[self._open[-1]] = self.text.get(self._open[-1], "") + data

    def handle_endtag(self, tag: str) -> None:
        self._open = []


def _written(data: Mapping[str, Any], folder: Path) -> str:
    return write_html(data, folder / "report.html").read_text(encoding="utf-8")


def test_the_data_comes_back_from_the_page(tmp_path: Path) -> None:
    data = example()
    data["notes"] = [
        "</script><script>alert(1)</script>",
        "<!-- <script>",
        "{{data}} {{title}}",
        "日本語 ½ \u2028 \\u003c",
    ]
    data["lines"][0]["label"] = "</SCRIPT >\U0001f600"
    text = _written(data, tmp_path)
    assert json.loads(_Page(text).text["data"]) == data
    assert text.count("<script") == 2  # the data's and the page's own
    assert "alert(1)</script>" not in text


def test_a_number_that_is_not_finite_becomes_null_wherever_it_stands(tmp_path: Path) -> None:
    data: dict[str, Any] = {**example(), "numbers": (math.nan, [math.inf, {"deep": -math.inf}], np.float32("nan"), 0.5)}
    assert json.loads(_Page(_written(data, tmp_path)).text["data"])["numbers"] == [
        None,
        [None, {"deep": None}],
        None,
        0.5,
    ]


def test_numpy_numbers_are_numbers(tmp_path: Path) -> None:
    data = {**example(), "numbers": [np.int64(3), np.float32(0.25), np.bool_(True), np.float64(0.1)]}
    assert json.loads(_Page(_written(data, tmp_path)).text["data"])["numbers"] == [3, 0.25, True, 0.1]


@pytest.mark.parametrize("title", ["<b>bold & brave</b>", "{{data}}", r"\1 \g<0>", "模型 \U0001f600"])
def test_the_title_is_text(tmp_path: Path, title: str) -> None:
    page = _Page(_written({**example(), "title": title}, tmp_path))
    assert page.text["title"] == title
    assert ("b", "class", "") not in page.attributes
    assert json.loads(page.text["data"])["title"] == title


def test_half_a_character_pair_in_a_label_does_not_stop_the_report(tmp_path: Path) -> None:
    data = {**example(), "title": "broken \ud83d name"}
    assert json.loads(_Page(_written(data, tmp_path)).text["data"])["title"] == "broken \ud83d name"


def test_nothing_is_loaded_from_elsewhere(tmp_path: Path) -> None:
    text = _written(example(), tmp_path)
    page = _Page(text)
    loading = [value for _, name, value in page.attributes if name in {"src", "href", "srcset", "action", "poster"}]
    assert loading == ["data:,"]  # the empty icon
    assert re.findall(r"https?://[^\s\"']*", text) == ["http://www.w3.org/2000/svg"]
    assert not re.search(
        r"@import|url\(|\bfetch\(|XMLHttpRequest|WebSocket|\bimport\(|innerHTML|insertAdjacentHTML", text
    )


def test_the_page_says_its_language_title_and_viewport_and_what_to_do_without_scripts(tmp_path: Path) -> None:
    page = _Page(_written(example(), tmp_path))
    assert ("html", "lang", "en") in page.attributes
    assert ("meta", "content", "width=device-width, initial-scale=1") in page.attributes
    assert page.text["title"] == "all-MiniLM-L6-v2"
    assert "JavaScript" in re.split("</?noscript>", _written(example(), tmp_path))[1]


def test_missing_folders_are_made_and_the_file_is_returned(tmp_path: Path) -> None:
    file = tmp_path / "new" / "folder" / "page.html"
    assert write_html(example(), file) == file
    assert list(file.parent.iterdir()) == [file]


def test_an_older_report_survives_data_that_cannot_be_written(tmp_path: Path) -> None:
    file = write_html(example(), tmp_path / "page.html")
    before = file.read_bytes()
    with pytest.raises(TypeError, match="object"):
        write_html({**example(), "notes": [object()]}, file)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


# ---- in a browser


class Report:
    """A report in the browser, with the questions the tests ask."""

    def __init__(self, driver: Any, folder: Path) -> None:
        self.driver = driver
        self.folder = folder

    def open(self, data: Mapping[str, Any], width: int = 1280, height: int = 900) -> None:
        self.resize(width, height)
        self.driver.get(write_html(data, self.folder / "report.html").as_uri())

    def resize(self, width: int, height: int) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def media(self, kind: str = "", **features: str) -> None:
        listed = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": kind, "features": listed})

    def js(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(f"return {script}", *arguments)

    def find(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def texts(self, selector: str) -> list[str]:
        return self.js("[...document.querySelectorAll(arguments[0])].map((node) => node.textContent)", selector)

    def table(self, name: str) -> list[list[str]]:
        rows = "[...document.getElementById(arguments[0]).tBodies[0].rows]"
        script = f"{rows}.map((row) => [...row.cells].map((cell) => cell.innerText))"
        return [[" ".join(cell.split()) for cell in row] for row in self.js(script, name)]

    def press(self, *keys: str) -> None:
        self.driver.switch_to.active_element.send_keys(*keys)

    def choose(self, scope: str) -> None:
        self.find(f"#scope option[value='{scope}']").click()

    def points(self) -> list[dict[str, Any]]:
        """Line, label, place and whether a ring is drawn, of every mark in the large chart."""
        return self.js(
            "[...document.querySelectorAll('#chart .point')].map((node) => ({line: node.parentNode.dataset.line,"
            " label: node.getAttribute('aria-label'), x: +node.querySelector('.halo').getAttribute('cx'),"
            " y: +node.querySelector('.halo').getAttribute('cy'), ring: !!node.querySelector('.pareto')}))"
        )

    def errors(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]


@pytest.fixture
def report(chromium: Any, tmp_path: Path) -> Iterator[Report]:
    downloads = {"behavior": "allow", "downloadPath": str(tmp_path / "downloads")}
    chromium.execute_cdp_cmd("Browser.setDownloadBehavior", downloads)
    page = Report(chromium, tmp_path)
    page.media()
    yield page
    assert page.errors() == []


def shown(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f}"


def with_range(value: str, low: float | None, high: float | None) -> str:
    return value if low is None else f"{value} [{shown(low)}, {shown(high)}]"


def percent(value: float | None) -> str:
    return "–" if value is None else f"{shown(value)} %"


def measure_of(cell: Mapping[str, Any], scope: str) -> Any:
    kind, _, name = scope.partition(":")
    return cell["overall"] if scope == "overall" else cell[f"{kind}s"].get(name)


def size_rows(data: Mapping[str, Any], budget: int, scope: str = "overall") -> list[list[str]]:
    """The table "with so many bytes", worked out from the data: of each line and precision the best that fits."""
    labels = {line["id"]: line["label"] for line in data["lines"]}
    advised = {(one["line"], one["dim"], one["precision"], one["scope"]) for one in data["recommendations"]}
    best: dict[tuple[str, str], Any] = {}
    for cell in data["cells"]:
        entry, key = measure_of(cell, scope), (cell["line"], cell["precision"])
        if entry and cell["bytes"] <= budget:
            best[key] = max((best.get(key, cell), cell), key=lambda one: measure_of(one, scope)["score"])
    order = {name: place for place, name in enumerate(labels)}
    found = sorted(best.values(), key=lambda one: (order[one["line"]], -measure_of(one, scope)["score"]))
    rows = []
    for cell in found:
        entry = measure_of(cell, scope)
        mark = (cell["line"], cell["dim"], cell["precision"], scope.partition(":")[2] or scope) in advised
        rows.append(
            [
                labels[cell["line"]] + (" recommended" if mark else ""),
                f"{cell['bytes']:,}",
                str(cell["dim"]),
                cell["precision"],
                f"{cell['gb_per_100m']:g}",
                with_range(shown(entry["score"]), entry["low"], entry["high"]),
                with_range(percent(entry["retention"]), entry["retention_low"], entry["retention_high"]),
            ]
        )
    return rows


@pytest.mark.browser
def test_the_header_says_what_is_recommended(report: Report) -> None:
    data = example(models=("first", "second"))
    report.open(data)
    overall = [one for one in data["recommendations"] if one["scope"] == "overall"]
    assert report.texts("h1") == ["2 models"]
    assert [" ".join(text.split()) for text in report.texts(".say")] == [one["text"] for one in overall]
    assert "at least 99 %" in report.find("#lead").text
    assert f"{overall[0]['times_smaller']:g}×" in report.texts(".card:first-child dd")
    assert percent(overall[0]["retention"]) in report.texts(".card:first-child dd")
    assert report.texts("#notes li") == data["notes"]
    assert report.js("performance.getEntriesByType('resource').length") == 0


@pytest.mark.browser
def test_how_sure_is_left_out_where_it_is_not_known(report: Report) -> None:
    data = example()
    report.open(data)
    assert "96.2 %" in report.texts(".card dd")
    assert "sure of the target" in report.texts(".card dt")
    for one in data["recommendations"]:  # scores of sets of tasks without those of each item
        one["sureness"] = None
    report.open(data)
    assert {"smaller", "kept"} <= set(report.texts(".card dt"))
    assert "sure of the target" not in report.texts(".card dt")


@pytest.mark.browser
def test_it_says_how_many_items_each_task_has_and_where_these_are_few(report: Report) -> None:
    data = example(tasks=2)
    report.open(data)
    assert report.table("tasks") == [
        ["Task00", "Retrieval", "nDCG@10", "600 queries"],
        ["Task01", "STS", "cosine spearman", "600 queries"],
    ]
    assert report.texts("#multiples article div")[0] == "Retrieval, nDCG@10, 600 queries"
    assert not report.find("#caution").is_displayed()
    data = example(tasks=1)
    data["tasks"][0] |= {"name": "beir", "items": "20 queries", "n": 20}
    report.open(data | {"caution": "Few items (beir: 20 queries)."})
    assert report.find("#caution").text == "Few items (beir: 20 queries)."
    assert "Measured on beir, nDCG@10, 20 queries, in 6 precisions" in report.find("#lead").text
    assert report.find("#chart-note").text.startswith("Shown: beir, nDCG@10, 20 queries. Whiskers")


@pytest.mark.browser
def test_the_slider_shows_what_can_be_had_for_so_many_bytes(report: Report) -> None:
    data = example()
    report.open(data)
    slider = report.find("#size")
    slider.send_keys("\ue011")  # Home
    budgets = sorted({cell["bytes"] for cell in data["cells"]})
    for budget in budgets:
        assert report.find("#size-now").text == f"{budget:,}"
        assert slider.get_attribute("aria-valuetext") == f"{budget:,} bytes"
        assert report.table("size-table") == size_rows(data, budget)
        slider.send_keys("\ue014")  # right
    assert (budgets[0], report.find("#size-now").text) == (4, "1,536")


@pytest.mark.browser
def test_every_scope_has_its_own_numbers_in_chart_and_table(report: Report) -> None:
    data = example(tasks=5)
    for cell in data["cells"][::3]:
        del cell["tasks"]["Task02"]
        cell["overall"] = None
    report.open(data)
    budget = int(report.find("#size-now").text.replace(",", ""))
    scopes = ["overall", *(f"type:{kind}" for kind in TYPES), *(f"task:Task{index:02}" for index in range(5))]
    assert report.js("[...document.getElementById('scope').options].map((one) => one.value)") == scopes
    for scope in scopes:
        report.choose(scope)
        assert sorted(report.table("size-table")) == sorted(size_rows(data, budget, scope))
        expected = [entry["score"] for cell in data["cells"] if (entry := measure_of(cell, scope))]
        drawn = [re.search(r"score (\S+)", point["label"])[1] for point in report.points()]  # type: ignore[index]
        assert sorted(drawn) == sorted(shown(score) for score in expected)
    report.choose("task:Task01")
    told = [one["text"] for one in data["recommendations"] if one["scope"] == "Task01"]
    assert report.find("#advice").text == f"all-MiniLM-L6-v2: {told[0]}"


@pytest.mark.browser
@pytest.mark.parametrize("metric", ["score", "retention"])
def test_marks_stand_where_the_axes_say(report: Report, metric: str) -> None:
    """Place is affine in log2(bytes) and in the value, and the tick labels lie on the same lines."""
    data = example()
    report.open(data)
    report.find(f"input[value={metric}]").click()
    pattern = r", (\d[\d,]*) bytes: score (\S+) .*retention (\S+)"
    found = [(point, re.search(pattern, point["label"])) for point in report.points()]
    across = [(math.log2(int(match[1].replace(",", ""))), point["x"]) for point, match in found if match]
    up = [(float(match[2 if metric == "score" else 3]), point["y"]) for point, match in found if match]
    ticks = report.js(
        "[...document.querySelectorAll('#chart .grid')]"
        ".map((line) => [line.nextSibling.textContent, line.getAttribute('d')])"
    )
    up += [(float(text.replace(" %", "")), float(re.findall(r",([\d.]+)H", path)[0])) for text, path in ticks]
    assert len(across) == sum(1 for cell in data["cells"] if cell["overall"][metric] is not None)
    assert len(ticks) >= 3
    whiskers = report.js("[...document.querySelectorAll('#chart .whisker')].map((one) => one.getAttribute('d'))")
    ends = [
        float(text)
        for path in whiskers
        for text in re.findall(r"M[\d.]+,([\d.]+)|V([\d.]+)", path)
        for text in text
        if text
    ]
    low, high = ("low", "high") if metric == "score" else ("retention_low", "retention_high")
    bounds = [100 * cell["overall"][key] for cell in data["cells"] for key in (low, high) if cell["overall"][key]]
    assert len(ends) == len(bounds)
    up += zip(sorted(bounds, reverse=True), sorted(ends), strict=True)
    for pairs in (across, up):
        values, places = np.array(pairs).T
        assert np.abs(np.polyval(np.polyfit(values, places, 1), values) - places).max() < 0.2
    assert np.polyfit(*np.array(across).T, 1)[0] > 0 > np.polyfit(*np.array(up).T, 1)[0]
    assert report.js("document.querySelectorAll('#chart .target').length") == (metric == "retention")


@pytest.mark.browser
def test_the_pareto_front_is_ringed(report: Report) -> None:
    data = example(models=("first", "second"))
    report.open(data)
    flagged = [cell for cell in data["cells"] if cell["pareto"]]
    ringed = [point for point in report.points() if point["ring"]]
    assert len(ringed) == len(flagged) > 3
    assert {point["line"] for point in ringed} == {cell["line"] for cell in flagged}
    report.choose("task:Task03")
    own = [(cell["bytes"], cell["tasks"]["Task03"]["score"]) for cell in data["cells"] if cell["line"][0] == "m"]
    front = [one for one in own if not any(o[0] <= one[0] and o[1] >= one[1] and o != one for o in own)]
    ringed = [point for point in report.points() if point["ring"]]
    labels = sorted(re.search(r"score (\S+)", point["label"])[1] for point in ringed)  # type: ignore[index]
    assert labels == sorted(shown(score) for _, score in front)


@pytest.mark.browser
def test_pointing_at_a_mark_shows_its_numbers(report: Report) -> None:
    from selenium.webdriver import ActionChains

    data = example()
    report.open(data)
    cell = next(
        cell for cell in data["cells"] if cell["line"] == "m0" and (cell["dim"], cell["precision"]) == (64, "int8")
    )
    assert not report.find("#tip").is_displayed()
    report.driver.execute_script("document.getElementById('chart').scrollIntoView()")
    mark = report.find("#chart [aria-label*=' 64 numbers, int8']")
    ActionChains(report.driver).move_to_element(mark).perform()
    tip, entry = report.find("#tip").text, cell["overall"]
    assert "all-MiniLM-L6-v2" in tip
    assert "64 numbers, int8, 64 bytes" in tip
    assert with_range(shown(entry["score"]), entry["low"], entry["high"]) in tip
    assert with_range(percent(entry["retention"]), entry["retention_low"], entry["retention_high"]) in tip
    ActionChains(report.driver).move_to_element(report.find("#chart-title")).perform()
    assert not report.find("#tip").is_displayed()


@pytest.mark.browser
def test_arrow_keys_move_from_mark_to_mark(report: Report) -> None:
    data = example()
    report.open(data)
    report.driver.execute_script("document.querySelector('#chart [aria-label*=\" 64 numbers, binary\"]').focus()")
    seen = []
    for key in ("\ue012", "\ue012", "\ue014", "\ue010", "\ue014", "\ue011"):  # left, left, right, End, right, Home
        report.press(key)
        seen.append(re.search(r"(\d+) numbers, binary, (\d+) bytes", report.find("#tip").text).groups())  # type: ignore[union-attr]
        assert report.js("document.activeElement.getAttribute('aria-label')").startswith(
            f"all-MiniLM-L6-v2, {seen[-1][0]} numbers, binary"
        )
        assert report.js("document.querySelectorAll('#chart [tabindex=\"0\"]').length") == 1
    assert seen == [("32", "4"), ("32", "4"), ("64", "8"), ("384", "48"), ("384", "48"), ("32", "4")]
    before = report.js("document.activeElement.parentNode.querySelectorAll('.point').length")
    report.press("\ue015")  # down: another line, nothing lost
    assert before == 5
    assert "binary" not in report.find("#tip").text
    report.press("\ue00c")  # Escape
    assert not report.find("#tip").is_displayed()


@pytest.mark.browser
def test_a_legend_button_hides_a_line_everywhere_and_brings_it_back(report: Report) -> None:
    data = example(models=("first", "second"))
    report.open(data)
    button = report.find("#legend [data-line=m1]")
    everything = len(report.points())
    for pressed in ("false", "true"):
        button.send_keys(" ")
        assert button.get_attribute("aria-pressed") == pressed
        lines = {point["line"] for point in report.points()}
        assert ("m1" in lines) == (pressed == "true")
        assert {"m0", "c0", "c1", "c2", "r0"} <= lines
        assert any(row[0].startswith("second") for row in report.table("size-table")) == (pressed == "true")
        assert report.js("document.activeElement.dataset.line") == "m1"
    assert len(report.points()) == everything
    for label in ("Hide all", "Show all"):
        report.find(f"#legend li:nth-last-child({1 if label == 'Hide all' else 2}) button").click()
        assert len(report.points()) == (0 if label == "Hide all" else everything)
    assert "Nothing to draw" not in report.find("#chart").text


def staged() -> dict[str, Any]:
    """A report with coded queries and two stages, quantisers of FAISS, and engines."""
    data = example(tasks=1)
    own = [cell for cell in data["cells"] if cell["line"] == "m0" and cell["precision"] == "binary"]
    for more, change in (({"comparison": "symmetric"}, -0.1), ({"rescore": 10, "disk": 1536}, 0.02)):
        for cell in own:
            scores = {"score": cell["overall"]["score"] + change}
            overall = {**cell["overall"], **scores}
            data["cells"].append({**cell, **more, "overall": overall, "pareto": False})
    data["lines"].append(_line("c3", "FAISS PQ", "control", "pq"))
    words = [{"line": "c3", "precision": f"PQ{cell['bytes']}"} for cell in own]
    data["cells"] += [{**cell, **word, "pareto": False} for cell, word in zip(own, words, strict=True)]
    facts = {"checked": "run", "how": "the sign", "since": "1.15", "source": "a page", "note": "A graph comes on top."}
    chosen = {"cell": "384 x binary", "bytes": 48, "disk": 0, "retention": 0.99, "lines": "<b>index</b> = 1\n"}
    return {**data, "engines": [{"name": "FAISS", "line": "m0", **facts, **chosen}]}


@pytest.mark.browser
def test_ways_to_compare_are_told_apart_and_can_be_left_out(report: Report) -> None:
    data = staged()
    report.open(data)
    assert report.texts("#kinds label") == ["float queries", "coded queries", "two stages"]
    labels = [point["label"] for point in report.points()]
    assert len(labels) == len(data["cells"])
    assert sum("64 numbers, binary, coded queries, 8 bytes" in label for label in labels) == 1
    assert sum("binary, two stages (10×, 1,536 bytes on disk), 8 bytes" in label for label in labels) == 1
    strokes = report.js(
        "[...document.querySelectorAll('#chart .series[data-line=m0] .line')]"
        ".map((line) => line.getAttribute('stroke-dasharray'))"
    )
    assert len(strokes) == len(BITS) + 2
    assert len(set(strokes)) == 3
    assert report.js("document.querySelectorAll('#chart .series[data-line=c3]').length") == 1  # PQ of all sizes
    for kind, gone in (("symmetric", "coded queries"), ("stages", "two stages")):
        report.find(f"#kinds input[value={kind}]").click()
        assert not any(gone in point["label"] for point in report.points())


@pytest.mark.browser
def test_two_stages_stand_beside_one_with_their_bytes_on_disk(report: Report) -> None:
    data = staged()
    report.open(data)
    rows = report.table("stages")
    assert [row[1] for row in rows] == ["4", "8", "16", "32", "48"]
    for row, cell in zip(rows, [one for one in data["cells"] if one.get("rescore")], strict=True):
        assert row[4:] == ["1,536", f"{cell['dim']} x binary", shown(cell["overall"]["score"])]
    assert "On disk" in report.texts("#board th button")
    assert {"coded", "float"} == {row[5] for row in report.table("size-table")}
    report.open(example())
    assert not report.find("#stages-box").is_displayed()
    assert not report.find("#engines-box").is_displayed()


@pytest.mark.browser
def test_the_lines_of_an_engine_show_on_request(report: Report) -> None:
    report.open(staged())
    (facts,) = report.table("engines")
    assert facts == ["FAISS", "48", "384 x binary", "99.00 %", "1.15", "run"]
    assert not report.find("#lines-to-paste").is_displayed()
    report.find("#engines button").send_keys(" ")
    text = report.find("#lines-to-paste").text
    assert text == "FAISS: the sign. A graph comes on top.\n\n<b>index</b> = 1\n\na page"


@pytest.mark.browser
def test_precisions_can_be_left_out(report: Report) -> None:
    report.open(example())
    report.find("#precisions input[value=binary]").click()
    labels = [point["label"] for point in report.points()]
    assert not any("binary" in label for label in labels)
    assert any("int8" in label for label in labels)
    assert all(row[3] != "binary" for row in report.table("size-table"))


def board_values(data: Mapping[str, Any], key: Callable[[Any], Any]) -> list[Any]:
    values = [key(cell) for cell in data["cells"]]
    return [value for value in values if value is not None]


@pytest.mark.browser
@pytest.mark.parametrize("way", ["click", "\ue007", " "], ids=["mouse", "enter", "space"])
def test_the_board_sorts_both_ways_with_the_unknown_last(report: Report, way: str) -> None:
    data = example(tasks=3)
    data["cells"][4]["overall"] = None
    report.open(data)
    columns: dict[str, tuple[int, Callable[[Any], Any]]] = {
        "bytes": (2, lambda cell: cell["bytes"]),
        "retention": (7, lambda cell: (cell["overall"] or {}).get("retention")),
        "task:Task01": (9, lambda cell: cell["tasks"]["Task01"]["score"]),
    }
    for key, (place, value) in columns.items():
        head = f"#board th[data-key='{key}']"
        for order in ("descending", "ascending"):
            button = report.find(f"{head} button")
            _ = button.click() if way == "click" else button.send_keys(way)
            assert report.find(head).get_attribute("aria-sort") == order
            assert report.js("document.querySelectorAll('#board th:not([aria-sort=none])').length") == 1
            cells = [row[place].replace(",", "").replace(" %", "") for row in report.table("board")]
            expected = sorted(board_values(data, value), reverse=order == "descending")
            known = [f"{one}" if key == "bytes" else shown(one) for one in expected]
            assert cells == known + ["–"] * (len(data["cells"]) - len(known))
    assert report.texts("#board th")[8:] == ["Task00", "Task01", "Task02"]


@pytest.mark.browser
def test_names_sort_from_a_to_z_first(report: Report) -> None:
    report.open(example(models=("beta", "alpha", "gamma"), others=False))
    report.find("#board th[data-key=model] button").click()
    names = [row[0] for row in report.table("board")]
    assert names == sorted(names)
    assert (names[0], names[-1]) == ("alpha", "gamma")


@pytest.mark.browser
def test_the_board_is_filtered_by_every_word(report: Report) -> None:
    data = example(models=("first", "second"))
    report.open(data)
    report.find("#filter").send_keys("SECOND  int8")
    rows = report.table("board")
    assert len(rows) == 5
    assert {(row[0], row[4]) for row in rows} == {("second", "int8")}
    assert report.find("#count").text == f"5 of {len(data['cells'])} shown"


@pytest.mark.browser
def test_the_board_shows_types_when_there_are_many_tasks(report: Report) -> None:
    data = example(tasks=9)
    report.open(data)
    assert report.texts("#board th")[8:] == list(TYPES)
    best = max(data["cells"], key=lambda cell: cell["overall"]["score"])
    assert report.table("board")[0][8:] == [shown(best["types"][kind]["score"]) for kind in TYPES]


def _download(report: Report, button: str, ending: str) -> str:
    report.find(button).click()
    file = report.folder / "downloads" / f"all-MiniLM-L6-v2{ending}"
    deadline = time.monotonic() + 20
    # the browser reserves the name with an empty file and renames the whole download onto it
    while not (file.exists() and file.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    return file.read_bytes().decode("utf-8")


@pytest.mark.browser
def test_the_csv_holds_every_measurement_once(report: Report) -> None:
    data = example(tasks=3)
    data["lines"][0]["label"] = 'quoted "name", with a comma'
    data["cells"][3]["overall"] = None
    report.open(data)
    rows = list(csv.DictReader(io.StringIO(_download(report, "#save-csv", "-scores.csv"), newline="")))
    lines = {line["id"]: line for line in data["lines"]}
    keys = ("score", "low", "high", "retention", "retention_low", "retention_high", "n")
    expected = {}
    for cell in data["cells"]:
        measures = {("overall", "overall"): cell["overall"]}
        measures |= {("type", name): entry for name, entry in cell["types"].items()}
        measures |= {("task", name): entry for name, entry in cell["tasks"].items()}
        for (scope, name), entry in measures.items():
            if entry:
                line = lines[cell["line"]]
                place = (line["label"], line["model"], line["method"], str(cell["dim"]), cell["precision"], scope, name)
                expected[place] = (cell["bytes"], cell["gb_per_100m"], *(entry[key] for key in keys))
    found = {
        tuple(row[key] for key in ("label", "model", "method", "dim", "precision", "scope", "name")): tuple(
            float(row[key]) if row[key] else None for key in ("bytes", "gb_per_100m", *keys)
        )
        for row in rows
    }
    assert len(rows) == len(expected)
    assert found == expected
    metrics = {task["name"]: task["metric"] for task in data["tasks"]}
    assert {row["name"]: row["metric"] for row in rows if row["scope"] == "task"} == metrics


@pytest.mark.browser
def test_the_json_is_the_data(report: Report) -> None:
    data = example()
    report.open(data)
    assert json.loads(_download(report, "#save-json", "-data.json")) == data


@pytest.mark.browser
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_svg_stands_alone(report: Report, theme: str) -> None:
    data = example()
    report.media(prefers_color_scheme=theme)
    report.open(data)
    report.find("#legend [data-line=c2]").click()
    drawn = len(report.points())
    text = _download(report, "#save-svg", "-chart.svg")
    root = ElementTree.fromstring(text)
    name = "{http://www.w3.org/2000/svg}"
    assert root.tag == f"{name}svg"
    assert "var(" not in text
    assert "class=" not in "".join(re.findall(r"<path[^>]*>", text))
    labels = {node.text for node in root.iter(f"{name}text")}
    assert {line["label"] for line in data["lines"]} - labels == {"base, random numbers"}
    assert set(BITS) <= labels
    assert len([node for node in root.iter(f"{name}g") if node.get("role") == "img"]) == drawn
    assert {"light": "stroke:rgb(0, 114, 178)", "dark": "stroke:rgb(43, 147, 209)"}[theme] in text


def _extreme(kind: str) -> dict[str, Any]:
    if kind == "one cell":
        return example(tasks=1, dims=(384,), precisions=("float32",), others=False)
    if kind == "long names":
        return example(models=("a" * 90, "wörter-in-einem-langen-namen " * 6, "模型" * 40), tasks=9)
    if kind == "many":
        models = tuple(f"model-{index}" for index in range(8))
        return example(models=models, tasks=60, dims=(16, 32, 64, 128, 256, 512, 768))
    return example()


@pytest.mark.browser
@pytest.mark.parametrize("kind", ["usual", "one cell", "long names", "many"])
def test_a_narrow_screen_never_scrolls_sideways(report: Report, kind: str) -> None:
    report.open(_extreme(kind), 360, 740)
    for metric in ("retention", "score"):
        report.find(f"input[value={metric}]").click()
        assert report.js("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    report.driver.execute_script("document.querySelector('#chart .point').focus()")
    box = report.js("document.getElementById('tip').getBoundingClientRect().toJSON()")
    assert report.find("#tip").is_displayed()
    assert box["left"] >= 0
    assert box["right"] <= 360
    assert report.js("document.documentElement.scrollWidth") <= 360


@pytest.mark.browser
def test_the_chart_follows_the_width_of_the_window(report: Report) -> None:
    report.open(example(), 1280, 900)
    wide = max(point["x"] for point in report.points())
    report.resize(500, 800)
    report.driver.execute_async_script("const done = arguments[0]; requestAnimationFrame(() => setTimeout(done, 50))")
    assert max(point["x"] for point in report.points()) <= 500 < wide


@pytest.mark.browser
def test_sixty_tasks_and_twelve_lines(report: Report) -> None:
    data = _extreme("many")
    assert (len(data["lines"]), len(data["tasks"])) == (12, 60)
    report.open(data)
    assert report.js("document.querySelectorAll('#multiples svg').length") == 60
    assert len(report.points()) == len(data["cells"])
    strokes = report.js(
        "[...document.querySelectorAll('#legend button[data-line] .line')].map((line) =>"
        " getComputedStyle(line).stroke + getComputedStyle(line).strokeDasharray)"
    )
    assert len(set(strokes)) == 12  # no two lines look the same


@pytest.mark.browser
def test_one_cell_is_a_report(report: Report) -> None:
    report.open(_extreme("one cell"))
    assert len(report.points()) == 1
    assert len(report.table("board")) == len(report.table("size-table")) == 1
    assert not report.find("#multiples-box").is_displayed()
    assert not report.find("#scope-box").is_displayed()
    assert "1,536" in report.texts("#chart text")


@pytest.mark.browser
def test_a_small_chart_leads_to_the_large_one(report: Report) -> None:
    report.open(example())
    assert report.texts("#multiples h3") == [f"Task{index:02}" for index in range(4)]
    report.find("#multiples article:nth-child(3) button").click()
    assert report.find("#scope").get_property("value") == "task:Task02"
    assert report.find("#chart-note").text.startswith("Shown: Task02, accuracy")


@pytest.mark.browser
def test_labels_are_text_whatever_they_hold(report: Report) -> None:
    label = "<img src=x onerror=\"window.hurt=1\"> & 'quotes' {{data}} עברית \U0001f600"
    data = example(models=(label,), tasks=2)
    data["notes"] = [f"</script>{label}"]
    data["lines"][0]["id"] = "a\"] b'\\ <"
    for cell in (*data["cells"], *data["recommendations"]):
        cell["line"] = data["lines"][0]["id"] if cell["line"] == "m0" else cell["line"]
    name = "constructor"
    data["tasks"][0]["name"] = name
    for cell in data["cells"]:
        cell["tasks"][name] = cell["tasks"].pop("Task00")
    report.open(data)
    assert report.js("[window.hurt === undefined, document.images.length]") == [True, 0]
    assert report.texts("h1") == [label]
    assert report.texts("#notes li") == [f"</script>{label}"]
    for cell in data["cells"][:2]:  # these lack the task: what every object inherits is no measurement
        del cell["tasks"][name]
    report.open(data)
    report.choose(f"task:{name}")
    assert len(report.points()) == len(data["cells"]) - 2
    budgets = sorted({cell["bytes"] for cell in data["cells"]})
    report.find("#size").send_keys("\ue011", *["\ue014"] * budgets.index(64))  # Home, then right
    rows = {row[3]: row[1:3] for row in report.table("size-table") if row[0].startswith("<img")}
    assert rows["int8"] == ["64", "64"]
    assert "float16" not in rows  # 32 numbers of it, in 64 bytes, lack the task
    assert report.errors() == []
    report.find("#legend button").click()
    assert len({point["line"] for point in report.points()}) == 4
    assert report.js("window.hurt === undefined")


@pytest.mark.browser
def test_a_report_without_overall_scores_begins_with_what_there_is(report: Report) -> None:
    data = example()
    for cell in data["cells"]:
        cell["overall"] = None
        del cell["types"]["Retrieval"]
    data["recommendations"] = []
    report.open(data)
    assert report.find("#scope").get_property("value") == "type:STS"
    assert len(report.points()) == len(data["cells"])
    assert report.texts(".say") == ["No size is recommended over all tasks."]


@pytest.mark.browser
def test_the_tab_key_reaches_everything_and_shows_where_it_is(report: Report) -> None:
    report.open(example())
    report.driver.execute_script("document.activeElement.blur()")
    script = (
        "(() => { const node = document.activeElement;"
        " const shows = (one) => one && getComputedStyle(one).outlineStyle !== 'none';"
        " const halo = node.querySelector('.halo'); return [node.id || node.dataset.line || node.textContent.trim(),"
        " (node.type === 'radio' ? shows(node.nextElementSibling) : shows(node))"
        " || (!!halo && getComputedStyle(halo).stroke !== 'none')]; })()"
    )
    reached = []
    for _ in range(45):
        report.press("\ue004")
        name, visible = report.js(script)
        if report.js("document.activeElement === document.body"):
            break
        assert visible, name
        reached.append(name)
    wanted = [
        "scope",
        "m0",
        "c0",
        "c1",
        "c2",
        "r0",
        "Hide all",
        "save-csv",
        "size",
        "filter",
        "Model",
        "Score",
        "Task03",  # the column
        "Task03",  # the small chart
    ]
    assert [name for name in reached if name in wanted] == wanted
    in_chart = reached[reached.index("Hide all") + 1 : reached.index("save-svg")]
    assert len(in_chart) == 1  # one stop; arrow keys move on


CONTRAST = """(() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const linear = (v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = (color) => color.slice(0, 3).map((v) => linear(v / 255))
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const behind = (node) => { for (; node; node = node.parentElement) {
    const color = parse(getComputedStyle(node).backgroundColor);
    if (color.length === 3 || color[3] === 1) return color; }
    return [255, 255, 255]; };
  const walker = document.createTreeWalker(document.getElementById("report"), NodeFilter.SHOW_TEXT);
  const poor = [];
  let seen = 0;
  for (let text = walker.nextNode(); text; text = walker.nextNode()) {
    const node = text.parentElement; const style = getComputedStyle(node);
    if (!text.data.trim() || !node.getClientRects().length || node.closest("option, optgroup")) continue;
    const ink = light(parse(node instanceof SVGElement ? style.fill : style.color)); const paper = light(behind(node));
    const ratio = (Math.max(ink, paper) + .05) / (Math.min(ink, paper) + .05);
    seen += 1;
    if (ratio < 4.5) poor.push([text.data, ratio]);
  }
  return [seen, poor];
})()"""


@pytest.mark.browser
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_can_be_read_in_both_themes(report: Report, theme: str) -> None:
    report.media(prefers_color_scheme=theme, prefers_reduced_motion="reduce")
    report.open(example())
    report.find("input[value=retention]").click()
    report.find("#legend [data-line=c1]").click()
    report.driver.execute_script("document.querySelector('#chart .point').focus()")
    seen, poor = report.js(CONTRAST)
    assert seen > 300
    assert poor == []
    dark = report.js("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (theme == "dark")


@pytest.mark.browser
def test_motion_is_left_out_on_request(report: Report) -> None:
    report.open(example())
    script = "getComputedStyle(document.querySelector('.series')).transitionDuration"
    report.media(prefers_reduced_motion="no-preference")
    assert report.js(script) == "0.15s"
    report.media(prefers_reduced_motion="reduce")
    assert report.js(script) == "0s"


@pytest.mark.browser
def test_paper_gets_whole_tables_in_light_colours_and_no_controls(report: Report) -> None:
    report.open(example())
    report.media("print", prefers_color_scheme="dark")
    assert report.js("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    for selector in ("#scope", "#size", "#filter", "#save-csv"):
        assert not report.find(selector).is_displayed()
    assert report.js(
        "[...document.querySelectorAll('.scroll')].every((box) => getComputedStyle(box).maxHeight === 'none')"
    )
    assert report.find("#legend").is_displayed()


@pytest.mark.browser
def test_without_scripts_there_is_a_message(report: Report) -> None:
    report.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        report.open(example())
        assert "JavaScript" in report.find("noscript").text
        assert not report.find("#report").is_displayed()
    finally:
        report.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
