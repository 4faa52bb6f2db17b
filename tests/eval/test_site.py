"""The leaderboard site: its figures against their sources, its page as a parser and as a browser see it."""

from __future__ import annotations

import base64
import csv
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mrl_text.eval.grid import Cell, Line
from mrl_text.eval.leaderboard import load_results
from mrl_text.eval.pairs import paired
from mrl_text.eval.published import packaged, packaged_results
from mrl_text.eval.site import LARGEST, read_sources, render_site, write_site
from mrl_text.eval.statistics import RESAMPLES, Estimate
from tests.conftest import invoke
from tests.eval.test_results import MODEL, OTHER, PCA, MadeUpSweep, interval_of, queries, share_kept

TUNED = {"Search": queries(0.6), "Questions": queries(0.5, seed=3)}
RIVAL = {"Search": queries(0.64, seed=5)}
SHARES = {Cell(64): 1.0, Cell(16): 0.9, Cell(16, "int8"): 0.88, Cell(64, "binary"): 0.8}
PUBLISHED = """model,width,dim,precision,comparison,task,tasks,type,metric,main_score_x100,retention_x100,source,note
vendor/large,1024,1024,,,Search,1,Retrieval,ndcg_at_10,70,,https://vendor.example/card,table 1
vendor/large,1024,1024,,,Questions,1,Retrieval,ndcg_at_10,60,,https://vendor.example/card,table 1
vendor/large,1024,256,int4,,Search,1,Retrieval,ndcg_at_10,63,,https://vendor.example/card,table 1
vendor/large,1024,256,int4,,Questions,1,Retrieval,ndcg_at_10,57,,https://vendor.example/other,table 2
vendor/large,1024,128,,,Search,1,Retrieval,ndcg_at_10,56,,https://vendor.example/card,table 1
vendor/small,512,128,binary,symmetric,Nine sets (9 tasks),9,mixed,mean,,91.5,https://small.example/blog,<b>&amp;
"""


def scores_of(line: Line, cell: Cell, task: str) -> np.ndarray:
    whole = (TUNED if line == MODEL else RIVAL)[task]
    return share_kept(whole, SHARES[cell], noise=0.0 if cell == Cell(64) else 0.02)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Results of two models, one of which lacks a task, with a control; and a table of published figures."""
    folder = tmp_path_factory.mktemp("sources")
    sweep = MadeUpSweep(folder / "results")
    for line, tasks in ((MODEL, TUNED), (OTHER, RIVAL)):
        for task in tasks:
            sweep.curve({cell: scores_of(line, cell, task) for cell in SHARES}, line, task)
    sweep.curve({16: queries(0.4)}, PCA)
    sweep.curve({64: 0.7, 16: 0.6}, task="Pairs", kind="STS", metric="cosine_spearman")
    (folder / "published.csv").write_text(PUBLISHED, encoding="utf-8")
    return sweep.save(), folder / "published.csv"


@pytest.fixture(scope="module")
def site(sources: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    write_site(folder, *read_sources([sources[0]], [sources[1]]))
    return folder


class Page(HTMLParser):
    """Elements with attributes, and the text of cells row by row, as a parser that is not the browser's sees them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.rows: list[list[str]] = []
        self.data = ""
        self._in = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.elements.append((tag, found))
        self._in = "data" if found.get("id") == "data" else tag if tag in ("td", "th", "a", "br") else ""
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self._in = ""

    def handle_data(self, data: str) -> None:
        if self._in == "data":
            self.data += data
        elif self._in and self.rows:
            self.rows[-1][-1] += f" {data}" if self._in == "br" else data


def opened(site: Path) -> tuple[Page, dict[str, Any]]:
    page = Page((site / "index.html").read_text(encoding="utf-8"))
    return page, json.loads(page.data)


def rows_of(data: Mapping[str, Any]) -> dict[tuple[str, str], list[Any]]:
    """Cell and set -> what the page has."""
    return {(data["cells"][cell]["id"], data["sets"][place]["id"]): rest for cell, place, *rest in data["rows"]}


def test_every_measured_figure_is_that_of_the_items(site: Path) -> None:
    _, data = opened(site)
    found = rows_of(data)
    for line, tasks in ((MODEL, TUNED), (OTHER, RIVAL)):
        for cell, task in itertools.product(SHARES, tasks):
            score, low, high, share, kept_low, kept_high, n, missing, sources, _ = found[
                f"{line.model}@{line.revision}/{cell.dim}x{cell.precision}" + ("-asymmetric" if cell.few_bits else ""),
                f"task:{task}",
            ]
            values, whole = scores_of(line, cell, task), scores_of(line, Cell(64), task)
            assert score == pytest.approx(values.mean(), abs=1e-6)
            assert share == pytest.approx(values.mean() / whole.mean(), abs=1e-6)
            spread = 1.984 * values.std(ddof=1) / math.sqrt(len(values))  # Student's t, 99 degrees of freedom
            assert [low, high] == pytest.approx([values.mean() - spread, values.mean() + spread], abs=0.2 * spread)
            assert kept_low <= share <= kept_high
            assert (n, missing, sources) == (100, [], [])
    both = found[f"{MODEL.model}@{MODEL.revision}/16xfloat32", "type:Retrieval"]
    assert both[0] == pytest.approx(fmean(scores_of(MODEL, Cell(16), task).mean() for task in TUNED), abs=1e-6)


def test_published_figures_and_their_means_are_those_of_the_table(site: Path) -> None:
    _, data = opened(site)
    found = rows_of(data)
    full, cut = (found[f"published:vendor/large/{cell}", "type:Retrieval"] for cell in ("1024xfloat32", "256xint4"))
    assert [full[0], full[3], cut[0], cut[3]] == pytest.approx([0.65, 1, 0.6, 0.6 / 0.65], abs=1e-6)
    assert cut[1:3] == [None, None]
    assert cut[8] == ["https://vendor.example/card", "https://vendor.example/other"]
    mean_alone = found["published:vendor/small/128xbinary-symmetric", "published:Nine sets (9 tasks)"]
    assert (mean_alone[0], mean_alone[3], mean_alone[8]) == (None, 0.915, ["https://small.example/blog"])
    assert all(line["published"] == line["id"].startswith("published:") for line in data["lines"])


def test_a_mean_needs_all_tasks_of_its_set_and_says_which_are_missing(site: Path) -> None:
    _, data = opened(site)
    sets, found = {one["id"]: one for one in data["sets"]}, rows_of(data)
    assert sets["all"]["tasks"] == ["Search", "Questions", "Pairs"]
    assert sets["type:Retrieval"]["tasks"] == ["Search", "Questions"]
    for (cell, name), (score, low, high, share, _, _, _, missing, *_) in found.items():
        known = {task for task in sets[name]["tasks"] if found.get((cell, f"task:{task}"), [None])[0] is not None}
        if sets[name]["kind"] == "mean":
            assert missing == [task for task in sets[name]["tasks"] if task not in known]
            assert (score is None) == bool(missing)
        if missing:
            assert (score, low, high, share) == (None, None, None, None)
    assert found[f"{OTHER.model}@{OTHER.revision}/64xfloat32", "type:Retrieval"][7] == ["Questions"]
    assert found["published:vendor/large/128xfloat32", "type:Retrieval"][7] == ["Questions"]


def test_the_plain_table_has_every_figure_of_the_data(site: Path) -> None:
    page, data = opened(site)

    def text(value: float | None, low: float | None, high: float | None) -> str:
        if value is None:
            return "–"
        return f"{100 * value:.2f}" + ("" if low is None else f" [{100 * low:.2f}, {100 * (high or 0):.2f}]")

    wanted = []
    for cell, place, score, low, high, share, kept_low, kept_high, _, missing, *_ in data["rows"]:
        one = data["cells"][cell]
        kept = f"lacks {', '.join(missing)}" if missing else text(share, kept_low, kept_high)
        line = next(line for line in data["lines"] if line["id"] == one["line"])
        wanted.append((line["label"], f"{one['bytes']:,}", one["stored"], kept, text(score, low, high), place))
    shown = [row for row in page.rows[1:] if len(row) > 1]
    plain = [
        tuple(
            re.sub(r" *(measured here|published,).*", "", row[0]) if i == 0 else cell for i, cell in enumerate(row[:5])
        )
        for row in shown
    ]
    assert sorted(plain) == sorted(row[:5] for row in wanted)
    assert len([row for row in page.rows[1:] if len(row) == 1]) == len({row[5] for row in wanted})
    published = [row for row in shown if "not measured by us" in row[0]]
    assert len(published) == sum(data["lines"][0]["id"] != "" and bool(row[10]) for row in data["rows"])


def unpacked(data: Mapping[str, Any], name: str, first: str, second: str) -> tuple[float, float] | None:
    for group in data["pairs"].get(name, []):
        if {first, second} <= set(group["cells"]):
            i, j = group["cells"].index(first), group["cells"].index(second)
            order = list(itertools.combinations(range(len(group["cells"])), 2))
            low, high = (
                np.frombuffer(base64.b64decode(group["bounds"]), "<i2").reshape(-1, 2)[order.index((i, j))] / 1e4
            )
            return float(low), float(high)
    return None


def test_paired_intervals_are_those_of_the_library_and_of_theory(site: Path, sources: tuple[Path, Path]) -> None:
    _, data = opened(site)
    results, _ = read_sources([sources[0]], [sources[1]])
    assert results is not None
    first, second = f"{MODEL.model}@{MODEL.revision}/64xfloat32", f"{OTHER.model}@{OTHER.revision}/16xfloat32"
    interval = results.compare("Search", MODEL, 64, OTHER, 16)
    assert unpacked(data, "task:Search", first, second) == pytest.approx((interval.low, interval.high), abs=6e-5)
    apart = scores_of(MODEL, Cell(64), "Search") - scores_of(OTHER, Cell(16), "Search")
    spread = 1.984 * apart.std(ddof=1) / math.sqrt(len(apart))
    expected = (apart.mean() - spread, apart.mean() + spread)
    assert unpacked(data, "task:Search", first, second) == pytest.approx(expected, abs=0.2 * spread)
    assert unpacked(data, "type:Retrieval", first, second) is None  # the other lacks a task
    assert "task:Pairs" not in data["pairs"]  # there is nothing to resample
    assert not any(
        "published" in cell for groups in data["pairs"].values() for group in groups for cell in group["cells"]
    )


def test_only_scores_of_the_same_draws_are_paired() -> None:
    rng = np.random.default_rng(0)
    made = {
        name: Estimate(0.5, rng.normal(0.5, 0.05, RESAMPLES), dof, 10, frozenset({draws}))
        for name, draws, dof in (("a", "x", 9.0), ("b", "x", math.inf), ("c", "y", 9.0), ("d", "x", 9.0))
    }
    made["e"] = Estimate(0.5, None, math.inf, 0)
    [group] = paired(made)
    assert group.cells == ["a", "b", "d"]
    for (one, other), (low, high) in zip(itertools.combinations(group.cells, 2), group.bounds, strict=True):
        interval = (made[one] - made[other]).interval()
        assert interval is not None
        assert [low, high] == [round(1e4 * interval.low), round(1e4 * interval.high)]


def test_tables_beside_the_page_have_the_scores_and_no_path(site: Path, sources: tuple[Path, Path]) -> None:
    _, data = opened(site)
    for line in data["lines"]:
        if line["published"]:
            continue
        text = (site / line["file"]).read_text(encoding="utf-8")
        rows = list(csv.DictReader(text.splitlines()))
        assert {row["model"] for row in rows} == {line["model"]}
        assert str(sources[0].parent) not in text
        if line["role"] == "model":
            found = {(row["task"], row["dim"], row["precision"]): float(row["score"]) for row in rows}
            owner = MODEL if line["model"] == MODEL.model else OTHER
            assert found["Search", "16", "int8"] == pytest.approx(scores_of(owner, Cell(16, "int8"), "Search").mean())
    assert str(sources[0].parent) not in (site / "index.html").read_text(encoding="utf-8")
    again = read_sources([], [site / "published.csv"])[1]
    assert [(one.key, one.score, one.kept) for one in again] == [
        (one.key, one.score, one.kept) for one in read_sources([], [sources[1]])[1]
    ]


def test_nothing_is_loaded_from_elsewhere_and_the_folder_is_small(site: Path) -> None:
    text = (site / "index.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not {tag for tag, _ in page.elements} & {"img", "iframe", "object", "embed", "video", "audio", "source"}
    assert not [tag for tag, found in page.elements if {"src", "srcset", "action", "poster", "background"} & set(found)]
    assert [found["href"] for tag, found in page.elements if tag == "link"] == ["data:,"]
    assert "default-src 'none'" in text
    script = text[text.rindex("<script>") :]
    style = text[text.index("<style>") : text.index("</style>")]
    forbidden = (
        r"@import|url\(|\bfetch\(|XMLHttpRequest|WebSocket|sendBeacon|\bimport\(|innerHTML|insertAdjacentHTML|eval\("
    )
    assert not re.search(forbidden, script + style)
    assert re.findall(r"https?://[\w.]+", script + style) == ["http://www.w3.org"]  # the name space of SVG
    links = {found["href"] for tag, found in page.elements if tag == "a"}
    assert all((site / link).is_file() for link in links if not link.startswith(("http", "#")))
    assert "<b>&amp;" not in text.split("</script>")[0].split('id="data">')[1]  # no text of a source becomes an element
    assert sum(file.stat().st_size for file in site.rglob("*") if file.is_file()) < LARGEST == 2_000_000


def test_a_page_that_is_too_large_leaves_out_pairs_first_then_is_refused(
    sources: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    read = read_sources([sources[0]], [sources[1]])
    whole = render_site(*read)
    page = Page(whole)
    pairs = len(json.dumps(json.loads(page.data)["pairs"]))
    smaller = render_site(*read, largest=len(whole.encode()) - pairs // 2)
    left_out = json.loads(Page(smaller).data)["unpaired"]
    assert left_out
    assert "left out for the size of the page, intervals of differences on: " in caplog.text
    with pytest.raises(ValueError, match="give fewer results"):
        render_site(*read, largest=10_000)


def test_few_items_are_pointed_out_with_their_set(tmp_path: Path) -> None:
    sweep = MadeUpSweep(tmp_path).curve({64: queries(0.6, 20)}).curve({64: queries(0.6, 200)}, task="Questions")
    page = Page(render_site(sweep.results(), []))
    caution = {one["id"]: one["caution"] for one in json.loads(page.data)["sets"]}
    assert caution["task:Questions"] == ""
    assert "Few items (Search: 20 queries)" in caution["task:Search"] == caution["type:Retrieval"]
    headings = [row[0] for row in page.rows if len(row) == 1]
    assert [caution["task:Search"] in heading for heading in headings] == [True, True, False]


def luminance(color: str) -> float:
    parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


# Machado, Oliveira and Fernandes 2009, severity 1: protanopia, deuteranopia, tritanopia
BLINDNESS = np.array(
    [
        np.eye(3),
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    ]
)


def lab(color: str, seen: np.ndarray) -> np.ndarray:
    parts = np.array([int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)])
    linear = np.clip(seen @ np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4), 0, 1)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ linear
    f = xyz / [0.9505, 1, 1.089]
    f = np.where(f > 0.008856, np.cbrt(f), 7.787 * f + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_colours_have_contrast_and_are_told_apart(site: Path) -> None:
    style = (site / "index.html").read_text(encoding="utf-8").partition("</style>")[0]
    modes: list[dict[str, str]] = [{}, {}]
    for block in re.finditer(
        r"(@media screen and \(prefers-color-scheme: dark\) \{\s*)?:root \{(.*?)\}", style, re.DOTALL
    ):
        found = {
            name: value if len(value) == 7 else "#" + "".join(2 * c for c in value[1:])
            for name, value in re.findall(r"--(\w+): (#\w+)", block[2])
        }
        modes[1] |= found
        if not block[1]:
            modes[0] |= found
    assert modes[0] != modes[1]
    for mode in modes:
        series = [mode[f"c{number}"] for number in range(6)]
        for paper in (mode["page"], mode["panel"], mode["wash"]):
            for ink in ("ink", "muted", "accent"):
                assert contrast(mode[ink], paper) >= 4.5, (ink, paper)
            for color in series:
                assert contrast(color, paper) >= 4.5, (color, paper)
        for one, other in itertools.combinations(series, 2):
            assert min(np.linalg.norm(lab(one, seen) - lab(other, seen)) for seen in BLINDNESS) > 15, (one, other)


def test_the_sources_are_checked(tmp_path: Path, sources: tuple[Path, Path]) -> None:
    copy = MadeUpSweep(tmp_path / "again").curve({64: 0.4}).save()
    with pytest.raises(
        ValueError,
        match=r"Search of someone/tuned at 64 x float32 comes twice with other scores, in .*again: give each",
    ):
        read_sources([sources[0], copy], [sources[1]])
    same, _ = read_sources([sources[0], sources[0]], [sources[1]])  # as the base of two models is
    once, _ = read_sources([sources[0]], [sources[1]])
    assert same.scores.equals(once.scores)
    lone = MadeUpSweep(tmp_path / "lone").curve({(64, "int8"): 0.4}).save()
    with pytest.raises(ValueError, match="no result in float32 at its largest size, 64"):
        read_sources([lone], [sources[1]])
    high = MadeUpSweep(tmp_path / "high").curve({64: 1.4}).save()
    with pytest.raises(ValueError, match=r"score of someone/tuned on Search is 1.4: it goes from -1 to 1"):
        read_sources([high], [sources[1]])
    other = tmp_path / "other.csv"
    other.write_text(PUBLISHED.replace("ndcg_at_10", "map_at_10"), encoding="utf-8")
    with pytest.raises(
        ValueError, match="Search is Retrieval and map_at_10, but was measured as Retrieval and ndcg_at_10"
    ):
        read_sources([sources[0]], [other])
    with pytest.raises(ValueError, match="nothing to show"):
        write_site(tmp_path / "site", None, [])


def test_a_table_alone_has_the_scores_and_the_intervals_of_single_tasks(
    sources: tuple[Path, Path], tmp_path: Path
) -> None:
    table = load_results([sources[0]], all_tasks=True).table()
    table.to_csv(tmp_path / "both.csv", index=False)
    results, figures = read_sources([tmp_path / "both.csv"], [sources[1]])
    write_site(tmp_path / "alone", results, figures)
    write_site(tmp_path / "whole", *read_sources([sources[0]], [sources[1]]))
    alone, whole = (rows_of(opened(tmp_path / name)[1]) for name in ("alone", "whole"))
    assert alone.keys() == whole.keys()
    for (cell, task_set), values in whole.items():
        numbers = 7 if task_set.startswith("task:") else 1  # score, interval, retention, its interval, items
        assert alone[cell, task_set][:numbers] == pytest.approx(values[:numbers], abs=1e-6)
    assert any(key[1].startswith("task:") and None not in values[:7] for key, values in alone.items())
    (tmp_path / "cut.csv").write_text("model,task\na,b\n")
    with pytest.raises(ValueError, match=r"cut\.csv has no column revision"):
        read_sources([tmp_path / "cut.csv"], [sources[1]])


def test_the_packages_own_results_are_in_order_and_as_published() -> None:
    """all-MiniLM-L6-v2's scores were published by others, at full width."""
    results, figures = read_sources(packaged_results(), [packaged()])
    assert results is not None
    published = {one.task: one.score for one in figures if one.model.endswith("all-MiniLM-L6-v2") and one.score}
    [line] = [one for one in results.lines if one.model == "sentence-transformers/all-MiniLM-L6-v2"]
    measured = {task: results.estimate(line, Cell(384), [task]) for task in results.tasks}
    both = {task: (one.value, published[task]) for task, one in measured.items() if one and task in published}
    assert {"STSBenchmark", "STS12", "STS13", "SICK-R"} <= both.keys()
    for ours, theirs in both.values():
        assert ours == pytest.approx(theirs, abs=5e-4)


def test_the_command_builds_and_checks(sources: tuple[Path, Path], command_line: None, tmp_path: Path) -> None:
    checked = invoke("leaderboard", sources[0], "--published", sources[1], "--check")
    assert (checked.exit_code, list(tmp_path.iterdir())) == (0, [])
    assert "6 figures of 2 models, all in order" in checked.stdout
    built = invoke("leaderboard", sources[0], "--published", sources[1], "--site", "out")
    assert built.exit_code == 0, built.output
    assert built.stdout.splitlines()[0] == str(Path("out/index.html"))
    score = interval_of(load_results([sources[0]], all_tasks=True).estimate(OTHER, Cell(64), ["Search"]))
    assert built.stderr.splitlines() == [
        "2 models on 3 tasks, of which every model has 1: Search",
        f"highest score: other, 64 x float32, 256 bytes, 64.00 [{100 * score.low:.2f}, {100 * score.high:.2f}]",
        "published figures of 2 models",
    ]
    assert {Path(line) for line in built.stdout.splitlines()} == {
        one for one in Path("out").rglob("*") if one.is_file()
    }
    alone = invoke("leaderboard", "--site", "published")
    assert alone.exit_code == 0, alone.output
    _, data = opened(Path("published"))
    own = {str(name) for file in packaged_results() for name in pd.read_csv(file)["model"].unique()}
    assert own and own <= {line["model"] for line in data["lines"]}
    assert len({line["model"] for line in data["lines"]} - own) >= len(list(packaged().glob("*.csv"))) - 1


# ---- in a browser


class Site:
    """The page in the browser, with the questions the tests ask."""

    def __init__(self, driver: Any, folder: Path) -> None:
        self.driver, self.address = driver, (folder / "index.html").as_uri()

    def open(self, words: str = "", width: int = 1280) -> None:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.get("about:blank")
        self.driver.get(self.address + words)

    def js(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(f"return {script}", *arguments)

    def find(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def set(self, name: str, value: str) -> None:
        self.driver.execute_script(
            "const n = document.getElementById(arguments[0]); n.value = arguments[1];"
            "for (const e of ['input', 'change']) n.dispatchEvent(new Event(e, {bubbles: true}))",
            name,
            value,
        )

    def rows(self) -> list[list[str]]:
        rows = "[...document.querySelectorAll('#board tbody tr')]"
        script = f"{rows}.map((row) => [...row.cells].map((cell) => cell.innerText))"
        return [[" ".join(cell.split()) for cell in row] for row in self.js(script)]

    def compare(self, *keys: str) -> str:
        for key in keys:
            self.driver.execute_script("document.querySelector(`[data-row='${arguments[0]}']`).click()", key)
        return self.find("#versus").text


@pytest.fixture
def browser(chromium: Any, site: Path) -> Iterator[Site]:
    page = Site(chromium, site)
    page.open()
    yield page
    assert [entry["message"] for entry in chromium.get_log("browser") if entry["level"] == "SEVERE"] == []


TUNED_ID, RIVAL_ID = f"{MODEL.model}@{MODEL.revision}", f"{OTHER.model}@{OTHER.revision}"


@pytest.mark.browser
def test_filters_narrow_the_table_and_go_into_the_address(browser: Site) -> None:
    assert "Models: 4, of which 2 were measured here and 2 have" in browser.js("document.body.textContent")
    browser.set("set", "task:Search")
    everything = browser.rows()
    assert len(everything) == 4 + 4 + 3
    browser.set("origin", "published")
    assert {row[0].split()[0] for row in browser.rows()} == {"large"}
    browser.set("bytes", "512")
    assert [row[1:5] for row in browser.rows()] == [
        ["128", "256 x int4", "90.00", "63.00"],
        ["512", "128 x float32", "80.00", "56.00"],
    ]
    browser.set("origin", "")
    browser.set("search", "tuned int8")
    [row] = browser.rows()
    assert row[1:3] == ["16", "16 x int8, float queries"]
    browser.set("search", "")
    browser.find("#models-box summary").click()
    browser.find("#models input[value='other']").click()
    assert "other" not in {row[0].split()[0] for row in browser.rows()}
    here = browser.js("location.href")
    shown = browser.rows()
    browser.open("#" + here.partition("#")[2])
    assert browser.rows() == shown
    assert browser.find("#permalink").get_attribute("href") == here
    browser.set("type", "STS")
    assert browser.js("document.getElementById('set').value") == "task:Pairs"
    browser.find("#reset").click()
    assert browser.js("location.hash") == ""


@pytest.mark.browser
def test_controls_are_one_click_away_and_look_like_no_model(browser: Site) -> None:
    browser.set("set", "task:Search")
    looks = (
        "Object.fromEntries([...document.querySelectorAll('#key li')]"
        ".map((one) => [one.innerText.trim(), one.querySelector('.line')])"
        ".map(([name, line]) => [name, [getComputedStyle(line).stroke, line.getAttribute('stroke-dasharray')]]))"
    )
    models = browser.js(looks)
    assert set(models) == {"tuned", "other", "large (published)"}
    assert len({color for color, _ in models.values()}) == 3
    browser.find("#models-box summary").click()
    assert not browser.find("#models input[value='tuned (PCA)']").is_displayed()
    browser.find("#models input[value='other']").click()
    browser.find("#beside").click()
    assert "controls=yes" in browser.js("location.hash")
    everyone = browser.js(looks)
    assert set(everyone) == {"tuned", "tuned (PCA)", "large (published)"}
    assert everyone["tuned"] == models["tuned"] != everyone["tuned (PCA)"]
    assert everyone["tuned (PCA)"][0] not in {color for color, _ in models.values()}
    assert (everyone["tuned"][1], everyone["tuned (PCA)"][1]) == (None, "7 5")
    assert "grey and dashed ones controls" in browser.find("#chart-note").text
    here = browser.js("location.hash")
    browser.find("#beside").click()
    assert set(browser.js(looks)) == {"tuned", "large (published)"}
    browser.open(here)
    assert browser.js(looks) == everyone
    browser.open("#set=task:Search&model=tuned+(PCA)")  # a link of an earlier page
    assert set(browser.js(looks)) == {"tuned (PCA)"}


@pytest.mark.browser
def test_a_column_sorts_both_ways_and_gaps_stay_at_the_end(browser: Site) -> None:
    browser.set("set", "type:Retrieval")
    head = browser.find("#board thead th:nth-child(2) button")
    for direction, factor in (("ascending", 1), ("descending", -1)):
        head.send_keys("\ue007")
        sizes = [factor * int(row[1].replace(",", "")) for row in browser.rows()]
        assert sizes == sorted(sizes)
        assert browser.find("#board thead th:nth-child(2)").get_attribute("aria-sort") == direction
        head = browser.find("#board thead th:nth-child(2) button")
    browser.find("#board thead th:nth-child(5) button").click()
    lacking = ["lacks" in " ".join(row) for row in browser.rows()]
    assert lacking == sorted(lacking)
    assert any(lacking)
    assert "Without a mean, for want of a task: " in browser.find("#about").text


@pytest.mark.browser
def test_two_cells_are_compared_with_a_paired_interval_or_plainly_without(
    browser: Site, sources: tuple[Path, Path]
) -> None:
    results, _ = read_sources([sources[0]], [sources[1]])
    assert results is not None
    browser.set("set", "task:Search")
    for first, second in (
        (f"{TUNED_ID}/64xfloat32", f"{RIVAL_ID}/16xfloat32"),
        (f"{RIVAL_ID}/16xfloat32", f"{TUNED_ID}/64xfloat32"),
    ):
        lines = [
            (MODEL if one.startswith(TUNED_ID) else OTHER, int(one.rpartition("/")[2].partition("x")[0]))
            for one in (first, second)
        ]
        interval = results.compare("Search", *lines[0], *lines[1])
        browser.open(f"#set=task:Search&a={first}~task:Search&b={second}~task:Search")
        text = browser.find("#versus .answer").text
        numbers = [float(one.replace("\u2212", "-")) for one in re.findall(r"[+\u2212]?\d+\.\d\d", text)]
        assert numbers == pytest.approx(
            [100 * value for value in (interval.mean, interval.low, interval.high)], abs=0.0101
        )
        assert "paired over 100 items" in browser.find("#versus").text
    published = "published:vendor/large/256xint4~task:Search"
    browser.open("#set=task:Search")
    text = browser.compare(f"{TUNED_ID}/64xfloat32~task:Search", published)
    assert "without an interval: a published figure comes without per-item scores" in text
    assert f"A \u2212 B: \u2212{abs(60 - 63):.2f} points on Search" in text
    assert "A takes 2 times as many bytes" in text


@pytest.mark.browser
def test_what_rounds_to_nothing_has_no_sign(browser: Site, site: Path) -> None:
    page = (site / "index.html").read_text(encoding="utf-8")
    written = " ".join(re.findall(r"^const (?:NONE|isNumber|points|withSign) = .*;$", page, re.MULTILINE))
    shown = "values.map((value) => `${points(value)} ${withSign(value)}`)"
    values = [-0.00001, 0.0, 0.00001, -0.0123, 0.0123]
    found = browser.js(f"((values) => {{ {written} return {shown}; }})(arguments[0])", values)
    assert found == ["0.00 0.00", "0.00 0.00", "0.00 0.00", "-1.23 \u22121.23", "1.23 +1.23"]


@pytest.mark.browser
def test_means_over_different_tasks_are_not_subtracted(browser: Site) -> None:
    browser.set("set", "type:Retrieval")
    text = browser.compare(f"{TUNED_ID}/64xfloat32~type:Retrieval", f"{RIVAL_ID}/64xfloat32~type:Retrieval")
    assert "No difference on Retrieval, 2 tasks: B lacks Questions." in text
    assert "A \u2212 B: \u22124.00 points" in text  # on the one task that both have
    browser.set("set", "every")
    browser.find("#versus button:last-child").click()
    text = browser.compare(
        "published:vendor/small/128xbinary-symmetric~published:Nine sets (9 tasks)",
        f"{TUNED_ID}/64xfloat32~task:Search",
    )
    assert "scores of different tasks (A: Nine sets (9 tasks); B: Search)" in text
    assert "no task in common" in text
    assert browser.js("document.querySelectorAll('#chart svg').length") == 0


@pytest.mark.browser
@pytest.mark.parametrize("width", [375, 1280])
def test_the_page_fits_its_width_and_every_control_is_reached_and_named(browser: Site, width: int) -> None:
    for words in (
        "",
        "#set=every",
        f"#set=task:Search&a={TUNED_ID}/64xfloat32~task:Search&b={RIVAL_ID}/16xfloat32~task:Search",
    ):
        browser.open(words, width)
        assert browser.js("document.documentElement.scrollWidth") <= width
        assert browser.js("document.body.scrollWidth") <= width
    controls = "a[href], button, select, input, summary, [tabindex='0']"
    unnamed = browser.js(
        f"[...document.querySelectorAll(`{controls}`)].filter((node) => node.checkVisibility()).filter((node) =>"
        " !(node.getAttribute('aria-label') || node.getAttribute('aria-labelledby') || node.innerText?.trim()"
        " || [...(node.labels || [])].some((label) => label.innerText.trim()))).map((node) => node.outerHTML)"
    )
    assert unnamed == []
    assert browser.js(f"[...document.querySelectorAll(`{controls}`)].filter((node) => node.tabIndex < 0).length") == 0
    browser.driver.execute_script("document.activeElement.blur(); window.scrollTo(0, 0)")
    seen: list[str] = []
    for _ in range(14):
        browser.driver.switch_to.active_element.send_keys("\ue004")
        seen.append(browser.js("document.activeElement.id || document.activeElement.textContent"))
        assert (
            browser.js("getComputedStyle(document.activeElement).outlineStyle") != "none"
            or browser.js("document.activeElement.type") == "radio"
        )
    assert {"set", "type", "origin", "bytes", "search", "permalink", "reset"} <= set(seen)


@pytest.mark.browser
def test_without_scripts_the_table_is_there(chromium: Any, site: Path) -> None:
    chromium.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        chromium.get((site / "index.html").as_uri())
        text = chromium.find_element("css selector", "#board").text
        assert "Nine sets (9 tasks)" in text
        assert not chromium.find_element("css selector", "#controls").is_displayed()
        assert "JavaScript is switched off" in chromium.find_element("css selector", "header").text
    finally:
        chromium.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
