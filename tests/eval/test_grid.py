from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mrl_text.encoder import MatryoshkaEncoder
from mrl_text.eval.grid import (
    COMPARISONS,
    EVALUATED_PRECISIONS,
    RANDOM_SEEDS,
    Cell,
    Control,
    Dtype,
    Line,
    SweepPlan,
    Variant,
    plan_cells,
    plan_lines,
)


@pytest.fixture(autouse=True)
def without_network_or_weights(without_network: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan is made from names and configuration files."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a plan needs no weights")

    monkeypatch.setattr("sentence_transformers.SentenceTransformer.__init__", refuse)


def model_folder(folder: Path, width: int | None = 64, **about: Any) -> str:
    """The configuration files of a model, which is all that a plan reads."""
    folder.mkdir(parents=True)
    config = {"model_type": "bert", "made_for": folder.name, **({"hidden_size": width} if width else {})}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"mrl_text": about}), encoding="utf-8")
    return str(folder)


@pytest.fixture
def base(tmp_path: Path) -> str:
    return model_folder(tmp_path / "base")


@pytest.fixture
def tuned(tmp_path: Path, base: str) -> str:
    return model_folder(tmp_path / "tuned", base_model=base, matryoshka_dims=[16, 32])


def kinds(plans: list[SweepPlan]) -> list[tuple[str, str, str]]:
    return [(plan.line.model, plan.line.role, plan.line.method) for plan in plans]


def only(plans: list[SweepPlan]) -> SweepPlan:
    (plan,) = plans
    return plan


@pytest.mark.parametrize(
    ("cell", "size"),
    [
        (Cell(384), 1536),
        (Cell(384, "float16"), 768),
        (Cell(384, "int8"), 384),
        (Cell(384, "binary"), 48),
        (Cell(12, "binary"), 2),
        (Cell(384, "int2"), 96),
        (Cell(100, "int4", "symmetric"), 50),
        (Cell(256, "binary", rescore=10), 32),
        (Cell(384, "PQ32"), 32),
        (Cell(384, "RaBitQ"), 56),  # these three as measured with FAISS 1.15
        (Cell(384, "RaBitQ2"), 116),
        (Cell(384, "RaBitQ4"), 212),
    ],
)
def test_a_cell_knows_its_bytes(cell: Cell, size: int) -> None:
    assert cell.bytes == size


def test_cells_order_by_size() -> None:
    assert sorted([Cell(64), Cell(8, "int8"), Cell(16)], reverse=True) == [Cell(64), Cell(16), Cell(8, "int8")]


@pytest.mark.parametrize(
    ("line", "label"),
    [
        (Line("sentence-transformers/all-MiniLM-L6-v2", "r"), "all-MiniLM-L6-v2"),
        (Line("local/mine", "r"), "mine"),
        (Line("someone/base", "r", "control"), "base (untrained base)"),
        (Line("local/mine", "r", "control", "pca"), "mine (PCA)"),
        (Line("local/mine", "r", "control", "random"), "mine (random dimensions)"),
    ],
)
def test_a_line_is_named_after_its_model_and_what_was_done_to_it(line: Line, label: str) -> None:
    assert line.label == label


def test_the_experiment_of_a_variant_says_what_it_is() -> None:
    model = Line("someone/model", "r")
    plain, coarse = Variant(model, Cell(64)), Variant(Line("someone/model", "r", dtype="bfloat16"), Cell(64))
    assert plain.experiment == {"embed_dim": 64}
    assert coarse.experiment == {"embed_dim": 64, "dtype": "bfloat16"}
    coded = {"embed_dim": 64, "output_dtypes": "int8"}  # what mteb itself means by it codes queries, too
    assert Variant(model, Cell(64, "int8", "symmetric")).experiment == coded
    assert Variant(model, Cell(64, "int8")).experiment == {**coded, "comparison": "asymmetric"}
    assert Variant(model, Cell(64, "int8", rescore=10)).experiment == {
        **coded,
        "comparison": "asymmetric",
        "rescore": 10,
    }
    pca, random = (Line("someone/model", "r", "control", method) for method in ("pca", "random"))
    assert Variant(pca, Cell(8)).experiment == {"embed_dim": 8, "reduction": "pca"}
    assert Variant(random, Cell(8), 2).experiment == {"embed_dim": 8, "reduction": "random-2"}
    assert Variant(random, Cell(8), 2).slug == "embed_dim_8__reduction_random-2"


def test_every_variant_has_an_experiment_and_a_folder_of_its_own(tuned: str) -> None:
    dtypes: tuple[Dtype, ...] = ("float32", "bfloat16")
    variants = [
        variant
        for dtype in dtypes
        for plan in plan_lines([tuned], dtype=dtype, comparisons=COMPARISONS)
        for cell in plan.cells
        for variant in plan.line.variants(cell)
    ]
    # 3 sizes in 2 kinds of floats and 4 of codes, the latter compared in 2 ways; base and PCA at 3 sizes, random
    # dimensions at the 2 below full width
    assert len(variants) == 2 * (3 * (2 + 4 * 2) + 3 + 3 + 2 * len(RANDOM_SEEDS))
    folders = {(variant.line.slug, variant.slug) for variant in variants}
    experiments = {(v.line.model, v.line.revision, json.dumps(v.experiment, sort_keys=True)) for v in variants}
    assert len(folders) == len(experiments) == len(variants)
    assert not any("/" in part for folder in folders for part in folder)


def test_a_lines_folder_tells_models_versions_and_computing_types_apart() -> None:
    lines = [
        Line("someone/model", "r1"),
        Line("someone/model", "r2"),
        Line("other/model", "r1"),
        Line("someone/model", "r1", dtype="float16"),
    ]
    assert len({line.slug for line in lines}) == len(lines)
    # what needs no other weights shares their embeddings
    assert {Line("someone/model", "r1", "control", method).slug for method in ("pca", "random")} == {lines[0].slug}


def test_random_dimensions_are_drawn_once_per_seed() -> None:
    line = Line("someone/model", "r", "control", "random")
    assert [variant.seed for variant in line.variants(Cell(8))] == list(RANDOM_SEEDS)
    assert len(set(RANDOM_SEEDS)) == 3
    assert [variant.seed for variant in Line("someone/model", "r").variants(Cell(8))] == [None]


def test_what_is_measured_on_a_corpus_counts_as_fitted() -> None:
    model, pca = Line("someone/model", "r"), Line("someone/model", "r", "control", "pca")
    fitted = {kind: Variant(model, Cell(8, kind)).fitted for kind in EVALUATED_PRECISIONS}
    assert [kind for kind, one in fitted.items() if one] == ["int8", "int4", "int2"]
    assert Variant(pca, Cell(8)).fitted


def test_a_model_is_followed_by_its_controls(tuned: str, base: str) -> None:
    plans = plan_lines([tuned])
    assert kinds(plans) == [
        ("local/tuned", "model", "truncation"),
        ("local/base", "control", "truncation"),
        ("local/tuned", "control", "pca"),
        ("local/tuned", "control", "random"),
    ]
    assert [plan.source.path for plan in plans] == [tuned, base, tuned, tuned]
    assert len({plan.line.revision for plan in plans}) == 2
    assert all(plan.line.dtype == "float32" for plan in plans)


def test_a_model_has_every_size_and_precision_largest_first(tuned: str) -> None:
    plan = plan_lines([tuned], dims=[8, 16, 16], precisions=["binary", "float32"])[0]
    assert plan.dims == (8, 16, 64)
    assert plan.cells == tuple(Cell(dim, kind) for dim in (64, 16, 8) for kind in ("float32", "binary"))


def test_what_is_coded_is_compared_in_every_way_asked_for_and_floats_in_one() -> None:
    found = plan_cells([16, 8], ["float32", "int2"], COMPARISONS)
    assert found == [
        Cell(dim, kind, comparison)
        for dim in (16, 8)
        for kind, comparison in (("float32", "asymmetric"), ("int2", "asymmetric"), ("int2", "symmetric"))
    ]
    assert plan_cells([8], ["float16"]) == [Cell(8, "float16")]
    assert plan_cells([8], ["float32", "int8"], ["symmetric"]) == [Cell(8), Cell(8, "int8", "symmetric")]
    assert EVALUATED_PRECISIONS == ("float32", "float16", "int8", "int4", "int2", "binary")


def test_full_width_in_float32_is_always_there_and_only_once(tuned: str) -> None:
    plan = plan_lines([tuned], dims=[16], precisions=["int8"], controls=[])[0]
    assert plan.cells == (Cell(64), Cell(64, "int8"), Cell(16, "int8"))
    assert only(plan_lines([tuned], dims=[64], precisions=["float32"], controls=[])).cells == (Cell(64),)


def test_controls_are_planned_in_float32_and_random_dimensions_below_full_width(tuned: str) -> None:
    cells = {plan.line.method: plan.cells for plan in plan_lines([tuned]) if plan.line.role == "control"}
    assert cells["truncation"] == cells["pca"] == (Cell(64), Cell(32), Cell(16))
    assert cells["random"] == (Cell(32), Cell(16))
    alone = plan_lines([tuned], dims=[64])
    assert [plan.line.method for plan in alone] == ["truncation", "truncation", "pca"]


@pytest.mark.parametrize(
    ("controls", "methods"),
    [([], []), (["base"], ["truncation"]), (["pca"], ["pca"]), (["random", "pca"], ["pca", "random"])],
)
def test_controls_are_chosen_by_name(controls: list[Control], methods: list[str], tuned: str) -> None:
    plans = plan_lines([tuned], controls=controls)
    assert [plan.line.method for plan in plans if plan.line.role == "control"] == methods


def test_a_model_without_a_base_has_no_base_to_compare_with(base: str) -> None:
    assert [plan.line.method for plan in plan_lines([base])] == ["truncation", "pca", "random"]


@pytest.mark.parametrize(
    ("width", "dims"), [(384, (24, 48, 96, 192, 384)), (64, (16, 32, 64)), (33, (16, 33)), (16, (16,)), (8, (8,))]
)
def test_a_model_that_names_no_sizes_is_halved_down_to_16(width: int, dims: tuple[int, ...], tmp_path: Path) -> None:
    assert plan_lines([model_folder(tmp_path / "plain", width)])[0].dims == dims


def test_trained_sizes_are_taken_and_full_width_added(tuned: str) -> None:
    assert plan_lines([tuned])[0].dims == (16, 32, 64)


def test_a_real_model_is_planned_as_its_files_say(tiny_bert: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.undo()
    model = MatryoshkaEncoder(str(tiny_bert), matryoshka_dims=[8, 32], device="cpu")
    model.describe(name="moved", base_model=str(tiny_bert))
    model.save(str(tmp_path / "run" / "model"))
    plans = plan_lines([str(tmp_path / "run")])
    assert [plan.line.label for plan in plans[:2]] == ["moved", f"{tiny_bert.name} (untrained base)"]
    assert [plan.dims for plan in plans] == [(8, 32), (8, 32), (8, 32), (8,)]


def test_models_of_different_width_are_planned_at_the_sizes_they_have(tuned: str, tmp_path: Path) -> None:
    narrow = model_folder(tmp_path / "narrow", 32)
    plans = plan_lines([tuned, narrow], dims=[8, 32, 48], controls=[])
    assert [plan.dims for plan in plans] == [(8, 32, 48, 64), (8, 32)]


def test_what_appears_twice_is_planned_once(tuned: str, base: str, tmp_path: Path) -> None:
    sibling = model_folder(tmp_path / "sibling", base_model=base)
    plans = plan_lines([tuned, sibling, tuned], controls=["base"])
    assert kinds(plans) == [
        ("local/tuned", "model", "truncation"),
        ("local/base", "control", "truncation"),
        ("local/sibling", "model", "truncation"),
    ]


@pytest.mark.parametrize("first", ["tuned", "base"])
def test_a_base_that_is_asked_for_itself_is_a_model_in_every_precision(first: str, tuned: str, base: str) -> None:
    models = [tuned, base] if first == "tuned" else [base, tuned]
    plans = plan_lines(models, dims=[16, 64])
    (plan,) = (plan for plan in plans if plan.line.model == "local/base" and plan.line.method == "truncation")
    assert plan.line.role == "model"
    assert {cell.precision for cell in plan.cells} == set(EVALUATED_PRECISIONS)


def test_controls_follow_the_model_they_belong_to_even_if_its_base_is_a_model_too(tuned: str, base: str) -> None:
    own = [("model", "truncation"), ("control", "pca"), ("control", "random")]
    expected = [(name, *kind) for name in ("local/tuned", "local/base") for kind in own]
    assert kinds(plan_lines([tuned, base])) == expected


def test_copies_with_other_weights_are_models_of_their_own(base: str, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere" / "base"
    shutil.copytree(base, copy)
    assert len(plan_lines([base, str(copy)], controls=[])) == 1
    (copy / "model.safetensors").write_bytes(b"other weights")
    plans = plan_lines([base, str(copy)], controls=[])
    assert [plan.line.model for plan in plans] == ["local/base", "local/base"]
    assert plans[0].line.slug != plans[1].line.slug


def test_a_base_that_is_gone_costs_only_that_control(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    orphan = model_folder(tmp_path / "orphan", base_model=str(tmp_path / "gone"))
    assert [plan.line.method for plan in plan_lines([orphan])] == ["truncation", "pca", "random"]
    assert "local/orphan is shown without the untrained base" in caplog.text


def test_a_base_of_another_width_is_planned_up_to_its_own(tmp_path: Path) -> None:
    wide = model_folder(tmp_path / "wide", 128)
    reduced = model_folder(tmp_path / "reduced", 32, base_model=wide)
    plans = plan_lines([reduced], controls=["base"])
    assert [plan.dims for plan in plans] == [(16, 32), (16, 32, 128)]


def test_the_computing_type_holds_for_every_line(tuned: str) -> None:
    assert {plan.line.dtype for plan in plan_lines([tuned], dtype="bfloat16")} == {"bfloat16"}


def test_bad_requests_say_what_there_is(tuned: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no model given"):
        plan_lines([])
    with pytest.raises(ValueError, match="precision 'int9' is unknown; did you mean 'int8'"):
        plan_lines([tuned], precisions=["float32", "int9"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="precision 'uint8' is unknown; did you mean 'int8'"):
        plan_lines([tuned], precisions=["uint8"])
    with pytest.raises(ValueError, match="comparison 'hamming' is unknown; known: asymmetric, symmetric"):
        plan_lines([tuned], comparisons=["hamming"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="of float32, float16 none is coded: leave comparisons out"):
        plan_lines([tuned], precisions=["float32", "float16"], comparisons=["symmetric"])
    with pytest.raises(ValueError, match="precision 'PX3' is unknown: FAISS's words are PQ32, RaBitQ, RaBitQ4"):
        _ = Cell(8, "PX3").bytes
    with pytest.raises(ValueError, match="control 'umap' is unknown; known: base, pca, random"):
        plan_lines([tuned], controls=["umap"])  # type: ignore[list-item]
    with pytest.raises(FileNotFoundError, match="no model at"):
        plan_lines([str(tmp_path / "nothing" / "here")])


def test_sizes_that_no_model_has_are_refused(tuned: str, tmp_path: Path) -> None:
    narrow = model_folder(tmp_path / "narrow", 32)
    with pytest.raises(ValueError, match="dims asks for 65, but the widest of these models has 64 numbers"):
        plan_lines([narrow, tuned], dims=[16, 65])
    with pytest.raises(ValueError, match="at least 1, got 0"):
        plan_lines([tuned], dims=[0, 16])
    with pytest.raises(ValueError, match=r"whole number, got 1\.5"):
        plan_lines([tuned], dims=[1.5])  # type: ignore[list-item]


def test_the_full_width_of_a_model_that_does_not_tell_is_that_of_its_vectors(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    silent = model_folder(tmp_path / "silent", None)
    monkeypatch.setattr("mrl_text.loading.full_width", lambda source: {"local/silent": 48}[source.name])
    assert plan_lines([silent], dims=[32, 12])[0].dims == (12, 32, 48)
    assert plan_lines([silent])[0].dims == (24, 48)
    with pytest.raises(ValueError, match="dims asks for 64, but the widest of these models has 48"):
        plan_lines([silent], dims=[64])
