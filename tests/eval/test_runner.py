from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import mteb
import pandas as pd
import pytest
from mteb.cache import ResultCache
from rich.console import Console
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense

from mrl_text import MatryoshkaEncoder
from mrl_text.eval import sweep
from mrl_text.eval import tasks as eval_tasks
from mrl_text.eval.encoders import model_meta
from mrl_text.eval.figures import draw_curve
from mrl_text.eval.grid import Variant
from mrl_text.eval.tables import print_report
from mrl_text.eval.tasks import TaskLoader
from mrl_text.models import find_model
from tests.eval.conftest import TINY_TASKS, TinyRetrieval
from tests.eval.task_types import by_mteb

DIMS = [8, 16, 32]
PLAIN: dict[str, Any] = {"precisions": ["float32"], "controls": []}
GRID = len(DIMS) * 6 + len(DIMS) + 2 * 3  # sizes at six precisions, PCA, random dimensions with three seeds


@pytest.mark.slow
def test_every_score_equals_plain_mteb_with_a_truncated_model(
    tiny_bert: Path, tiny_tasks: list[str], tmp_path: Path
) -> None:
    scores = sweep([str(tiny_bert)], tiny_tasks, output=tmp_path, dims=DIMS, **PLAIN).scores
    assert len(scores) == len(DIMS) * len(tiny_tasks)
    for row in scores.itertuples():
        plain = SentenceTransformer(str(tiny_bert), truncate_dim=row.dim)
        result = by_mteb(plain, TINY_TASKS[row.task]())
        assert row.score == pytest.approx(result.get_score(), abs=1e-4), (row.task, row.dim)
        assert row.bytes == 4 * row.dim


@pytest.mark.slow
def test_each_text_is_encoded_once_whatever_the_number_of_sizes(
    tiny_bert: Path, tiny_tasks: list[str], tmp_path: Path
) -> None:
    counts = [
        sweep([str(tiny_bert)], tiny_tasks, output=tmp_path / str(len(dims)), dims=dims, cache="none").encoded
        for dims in (DIMS, DIMS[-1:])
    ]
    assert counts[0] == counts[1]
    assert sum(counts[0].values()) > 50


@pytest.mark.slow
def test_a_second_run_encodes_nothing_loads_nothing_and_gives_the_same_table(
    tiny_bert: Path, tiny_tasks: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = sweep([str(tiny_bert)], tiny_tasks, output=tmp_path, dims=DIMS)
    monkeypatch.setattr("mrl_text.loading.MatryoshkaEncoder", lambda *_, **__: pytest.fail("a model was loaded"))
    second = sweep([str(tiny_bert)], tiny_tasks, output=tmp_path, dims=DIMS)
    pd.testing.assert_frame_equal(first.scores, second.scores)
    assert not any(second.encoded.values())


@pytest.mark.slow
def test_an_interrupted_run_continues_and_new_data_is_evaluated_again(
    tiny_bert: Path, tiny_tasks: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = sweep([str(tiny_bert)], tiny_tasks, output=tmp_path / "whole", dims=DIMS).scores
    evaluate, calls = mteb.evaluate, []

    def counted(*args: object, **kwargs: object) -> object:
        calls.append(1)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return evaluate(*args, **kwargs)

    monkeypatch.setattr("mrl_text.eval.runner.mteb.evaluate", counted)
    with pytest.raises(KeyboardInterrupt):
        sweep([str(tiny_bert)], tiny_tasks, output=tmp_path / "part", dims=DIMS)
    resumed = sweep([str(tiny_bert)], tiny_tasks, output=tmp_path / "part", dims=DIMS).scores
    assert len(calls) == 1 + GRID * len(tiny_tasks)
    pd.testing.assert_frame_equal(resumed, undisturbed)

    dataset = {**TinyRetrieval.metadata.dataset, "revision": "2"}
    monkeypatch.setattr(TinyRetrieval, "metadata", TinyRetrieval.metadata.model_copy(update={"dataset": dataset}))
    sweep([str(tiny_bert)], tiny_tasks, output=tmp_path / "part", dims=DIMS)
    assert len(calls) == 1 + GRID * (len(tiny_tasks) + 1)


@pytest.mark.slow
def test_the_untrained_base_is_a_line_of_its_own_and_can_be_left_out(
    trained: Path, tiny_tasks: list[str], tmp_path: Path
) -> None:
    result = sweep([str(trained)], ["TinyRetrieval"], output=tmp_path / "a")
    assert [
        (line.label.replace(result.lines[3].model.removeprefix("local/"), "base"), line.role) for line in result.lines
    ] == [
        ("moved", "model"),
        ("moved (PCA)", "control"),
        ("moved (random dimensions)", "control"),
        ("base (untrained base)", "control"),
    ]
    assert sorted(result.curve(result.lines[3])) == DIMS  # the trained sizes, since none were named
    assert {cell.precision for line in result.lines[1:] for cell in result.cells(line)} == {"float32"}
    assert len(sweep([str(trained)], ["TinyRetrieval"], output=tmp_path / "b", controls=[]).lines) == 1


@pytest.mark.slow
def test_results_are_filed_by_size_where_mteb_itself_finds_them(
    tiny_bert: Path, tiny_tasks: list[str], tmp_path: Path
) -> None:
    result = sweep([str(tiny_bert)], ["TinySTS"], output=tmp_path, dims=DIMS)
    line, source = result.lines[0], find_model(str(tiny_bert))
    for cell in result.cells(line):
        meta = model_meta(source, Variant(line, cell))
        found = ResultCache(cache_path=tmp_path).load_task_result("TinySTS", meta)
        assert found.get_score() == pytest.approx(result.estimate(line, cell).value)
    files = sorted(tmp_path.glob("results/*/*/experiments/*/TinySTS.json"))
    assert len(files) == GRID
    loaded = ResultCache(cache_path=tmp_path).load_results(tasks=["TinySTS"], load_experiments="match_name")
    assert sum(len(model.task_results) for model in loaded.model_results) == GRID


@pytest.mark.slow
def test_the_mean_of_the_per_query_scores_is_the_main_score_and_lies_in_its_interval(
    tiny_bert: Path, tiny_tasks: list[str], tmp_path: Path
) -> None:
    result = sweep([str(tiny_bert)], ["TinyRetrieval"], output=tmp_path, dims=DIMS, **PLAIN)
    for row in result.scores.itertuples():
        (file,) = tmp_path.glob(f"items/*/embed_dim_{row.dim}/TinyRetrieval.parquet")
        items = pd.read_parquet(file)
        assert len(items) == row.n == 25
        assert items["value"].mean() == pytest.approx(row.score, abs=1e-5)
        assert row.ci_low < row.score < row.ci_high
    line = result.lines[0]
    difference = result.compare("TinyRetrieval", line, 32, line, 8)
    assert difference.mean == pytest.approx(result.curve(line)[32] - result.curve(line)[8], abs=1e-5)


@pytest.mark.slow
def test_table_files_report_and_pictures_say_the_same(
    trained: Path, tiny_tasks: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = sweep([str(trained)], tiny_tasks, output=tmp_path)
    for table in (pd.read_csv(tmp_path / "scores.csv"), pd.read_parquet(tmp_path / "scores.parquet")):
        assert table["score"].tolist() == pytest.approx(result.scores["score"].tolist())
        assert set(table["dim"]) == set(DIMS)
    print_report(result, Console(width=120))
    printed = capsys.readouterr().out
    line = result.lines[0]
    for cell in result.cells(line):
        (row,) = re.findall(rf"^│ *{cell.bytes} │ +{cell.dim} │ {cell.precision} +│.*", printed, re.MULTILINE)
        assert f" {100 * result.estimate(line, cell).value:.2f} " in row
        assert f" {100 * result.retention(line, cell).value:.2f} " in row
    assert result.recommend(line, 0.99).sentence("overall") in printed
    png, svg = draw_curve(result)
    assert png.read_bytes().startswith(b"\x89PNG")
    text = svg.read_text()
    assert "moved" in text
    assert "(untrained base)" in text


@pytest.mark.slow
def test_bad_requests_are_refused_before_a_model_is_loaded(
    tiny_bert: Path, tiny_tasks: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mrl_text.loading.MatryoshkaEncoder", lambda *_, **__: pytest.fail("a model was loaded"))
    model = str(tiny_bert)
    with pytest.raises(ValueError, match="did you mean 'STSBenchmark'"):
        sweep([model], ["STSBenchmrk"], output=tmp_path)
    with pytest.raises(ValueError, match="dims asks for 64, but the widest of these models has 32"):
        sweep([model], ["TinySTS"], output=tmp_path, dims=[16, 64])
    with pytest.raises(ValueError, match="at least 1"):
        sweep([model], ["TinySTS"], output=tmp_path, dims=[0])
    with pytest.raises(FileNotFoundError, match=r"CQADupstackEnglishRetrieval \(the mirror .* has no data set"):
        sweep([model], ["CQADupstackRetrieval"], output=tmp_path, mirror=tmp_path)
    with pytest.raises(ValueError, match="precision 'int3' is unknown"):
        sweep([model], ["TinySTS"], output=tmp_path, precisions=["int3"])
    with pytest.raises(ValueError, match="control 'pcs' is unknown; did you mean 'pca'"):
        sweep([model], ["TinySTS"], output=tmp_path, controls=["pcs"])
    with pytest.raises(ValueError, match="no task"):
        sweep([model], [], output=tmp_path)
    with pytest.raises(FileNotFoundError, match="no model"):
        sweep([str(tmp_path / "nothing" / "here")], ["TinySTS"], output=tmp_path)
    with pytest.raises(FileNotFoundError, match="STSBenchmark"):
        sweep([model], ["STSBenchmark", "SciFact"], output=tmp_path, mirror=tmp_path)
    with pytest.raises(FileNotFoundError, match="no mirror folder"):
        sweep([model], ["STSBenchmark"], output=tmp_path, mirror=tmp_path / "absent")


def test_a_fresh_task_shares_the_data_but_not_what_an_evaluation_filtered(tiny_tasks: list[str]) -> None:
    loader = TaskLoader(["TinyRetrieval"])
    first, second = loader.fresh("TinyRetrieval"), loader.fresh("TinyRetrieval")
    assert first.dataset["default"]["test"]["corpus"] is second.dataset["default"]["test"]["corpus"]
    first.dataset["default"]["test"]["relevant_docs"]["q0"].clear()
    assert second.dataset["default"]["test"]["relevant_docs"]["q0"]
    assert first.np_rng is not second.np_rng


@pytest.mark.slow
def test_full_width_is_always_there_to_measure_retention_against(
    tiny_bert: Path, tiny_tasks: list[str], tmp_path: Path
) -> None:
    result = sweep([str(tiny_bert)], ["TinySTS"], output=tmp_path, dims=[8, 16])
    assert sorted(result.curve(result.lines[0])) == [8, 16, 32]


@pytest.mark.slow
def test_a_damaged_result_and_missing_items_are_computed_again(
    tiny_bert: Path, tiny_tasks: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = sweep([str(tiny_bert)], ["TinyRetrieval"], output=tmp_path, dims=DIMS).scores
    (result,) = tmp_path.glob("results/*/*/experiments/embed_dim_8/TinyRetrieval.json")
    result.write_text(result.read_text()[:100])
    (items,) = tmp_path.glob("items/*/embed_dim_16/TinyRetrieval.parquet")
    (broken,) = tmp_path.glob("items/*/embed_dim_32/TinyRetrieval.parquet")
    broken.write_bytes(broken.read_bytes()[:200])
    items.unlink()
    again = sweep([str(tiny_bert)], ["TinyRetrieval"], output=tmp_path, dims=DIMS)
    pd.testing.assert_frame_equal(again.scores, whole)
    assert "damaged" in caplog.text
    assert items.exists()
    assert json.loads(result.read_text())["task_name"] == "TinyRetrieval"


def test_a_changed_mirror_is_evaluated_again(tmp_path: Path) -> None:
    data = tmp_path / "mteb" / "stsbenchmark-sts"
    data.mkdir(parents=True)
    (data / "test.parquet").write_bytes(b"one")
    before = TaskLoader(["STSBenchmark"], mirror=tmp_path).fingerprint("STSBenchmark")
    assert TaskLoader(["STSBenchmark"], mirror=tmp_path).fingerprint("STSBenchmark") == before
    (data / "test.parquet").write_bytes(b"other")
    assert TaskLoader(["STSBenchmark"], mirror=tmp_path).fingerprint("STSBenchmark") != before


class OldStyleRetrieval(TinyRetrieval):
    """Keeps its parts in attributes of their own, as mteb's older tasks do."""

    def load_data(self, **kwargs: object) -> None:
        super().load_data()
        parts = self.dataset["default"]["test"]
        self.corpus = {"test": {row["id"]: {"text": row["text"]} for row in parts["corpus"]}}
        self.queries = {"test": {row["id"]: row["text"] for row in parts["queries"]}}
        self.relevant_docs = {"test": parts["relevant_docs"]}
        self.dataset = None


@pytest.mark.slow
def test_tasks_in_mtebs_older_form_give_the_same_scores(
    tiny_bert: Path, tiny_tasks: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = sweep([str(tiny_bert)], ["TinyRetrieval"], output=tmp_path / "new", dims=DIMS).scores["score"]
    monkeypatch.setitem(eval_tasks.OWN_TASKS, "TinyRetrieval", OldStyleRetrieval)
    old = sweep([str(tiny_bert)], ["TinyRetrieval"], output=tmp_path / "old", dims=DIMS).scores["score"]
    assert old.tolist() == new.tolist()


@pytest.mark.slow
def test_models_of_different_width_share_a_table(tiny_bert: Path, tiny_tasks: list[str], tmp_path: Path) -> None:
    narrow = MatryoshkaEncoder(str(tiny_bert))
    narrow.append(Dense(32, 16))
    narrow.save_pretrained(str(tmp_path / "narrow"))
    result = sweep([str(tiny_bert), str(tmp_path / "narrow")], ["TinySTS"], output=tmp_path / "out", dims=DIMS)
    sizes = [sorted({cell.dim for cell in result.cells(line)}) for line in result.lines if line.role == "model"]
    assert sizes == [[8, 16, 32], [8, 16]]


@pytest.mark.slow
def test_a_base_model_that_is_gone_costs_only_the_control(
    trained: Path, tiny_tasks: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = trained / "config_sentence_transformers.json"
    file.write_text(file.read_text().replace('"base_model": "', '"base_model": "/gone'))
    result = sweep([str(trained)], ["TinySTS"], output=tmp_path / "out", controls=["base"])
    assert [line.role for line in result.lines] == ["model"]
    assert "without the untrained base" in caplog.text
