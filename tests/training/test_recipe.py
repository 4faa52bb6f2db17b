from __future__ import annotations

import re
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from sentence_transformers import SentenceTransformerTrainingArguments

from mrl_text.training.columns import Needs
from mrl_text.training.recipe import ModelConfig, Recipe
from mrl_text.training.recipe_files import load_recipe, recipe_description, recipe_text, shipped_recipes

SHIPPED = [
    "2d",
    "bert-base-nli",
    "independent",
    "minilm-distill",
    "minilm-nli",
    "quickstart",
    "retrieval",
    "rotation",
    "static",
    "sts",
]

MINIMAL: dict[str, Any] = {
    "model": {"name": "someone/some-model"},
    "data": {"train": [{"source": "pairs.csv"}]},
    "loss": {"dims": [8, 16, 32]},
}

Writer = Callable[[Any], str]


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    """Write a recipe file and return its name; a mapping is written as YAML, a text as it is."""

    def to_file(content: Any) -> str:
        file = tmp_path / "mine.yaml"
        file.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
        return str(file)

    return to_file


def one_line_error(name: str, overrides: list[str] | None = None) -> str:
    """The message of the ``ValueError`` that loading raises."""
    with pytest.raises(ValueError) as caught:
        load_recipe(name, overrides or [])
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"static": 64, "rotation": True}}, "static begins from nothing and has no use for rotation"),
        ({"model": {"static": 64, "max_seq_length": 9}}, "has no use for max_seq_length"),
        ({"model": {"static": 64}, "loss": {"name": "self_distillation"}}, "no base to distil from or to rotate"),
    ],
)
def test_a_static_model_has_no_base(changes: dict[str, dict[str, Any]], message: str) -> None:
    sections = {name: {**MINIMAL[name], **changes.get(name, {})} for name in MINIMAL}
    with pytest.raises(ValidationError, match=message):
        Recipe.model_validate(sections)


def test_the_shipped_recipes_are_the_files_of_the_folder() -> None:
    assert list(shipped_recipes()) == SHIPPED
    in_package = [item.name for item in files("mrl_text.recipes").iterdir()]
    assert sorted(name for name in in_package if name.endswith(".yaml")) == [f"{name}.yaml" for name in SHIPPED]


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_recipe_is_valid_and_says_what_its_file_says(name: str) -> None:
    recipe = load_recipe(name)
    written = yaml.safe_load(recipe_text(name))
    assert recipe.description == recipe_description(name) == " ".join(written["description"].split())
    assert recipe.model.name == written["model"]["name"]
    dims = [64] if name == "independent" else written["loss"]["dims"]  # there it is the model's width, named once
    assert recipe.loss.dims == dims == sorted(recipe.eval.dims)
    assert recipe.training == written.get("training", {})
    assert [source.source for source in recipe.data.train] == [item["source"] for item in written["data"]["train"]]
    assert recipe.eval.tasks == written["eval"]["tasks"]


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_recipe_has_training_arguments_that_the_trainer_takes(name: str, tmp_path: Path) -> None:
    training = load_recipe(name).training
    arguments = SentenceTransformerTrainingArguments(output_dir=str(tmp_path), report_to="none", **training)
    assert {key: getattr(arguments, key) for key in training} == training


def test_the_size_of_an_independent_model_is_chosen_once() -> None:
    recipe = load_recipe("independent", ["model.width=32"])
    assert (recipe.model.width, recipe.loss.dims, recipe.eval.dims) == (32, [32], [32])


def test_a_minimal_recipe_takes_the_defaults(write: Writer) -> None:
    recipe = load_recipe(write(MINIMAL))
    assert recipe.loss.name == "nested_infonce"
    assert (recipe.loss.weights, recipe.loss.scale, recipe.loss.mini_batch_size) == (None, 20.0, None)
    assert recipe.training == {}
    assert recipe.data.train[0].split == "train"
    assert recipe.data.validation == []


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("modle.name=x", "modle: unknown key; did you mean 'model'?"),
        ("model.nam=x", "model.nam: unknown key; did you mean 'name'?"),
        ("data.trian=[]", "data.trian: unknown key; did you mean 'train'?"),
        ("data.train[0].sorce=x", "data.train.0.sorce: unknown key; did you mean 'source'?"),
        ("data.validation=[{source: a.csv, colums: [a, b]}]", "colums: unknown key; did you mean 'columns'?"),
        ("loss.scales=5", "loss.scales: unknown key; did you mean 'scale'?"),
        ("eval.task=[STSBenchmark]", "eval.task: unknown key; did you mean 'tasks'?"),
        ("training.lerning_rate=1", "lerning_rate: unknown training argument; did you mean 'learning_rate'?"),
        ("loss.temperature=5", "loss.temperature: unknown key; known: codes_from, dims, "),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(write: Writer, override: str, nearest: str) -> None:
    assert nearest in one_line_error(write(MINIMAL), [override])


@pytest.mark.parametrize(
    ("section", "wrong", "right"), [("", "modle", "model"), ("loss", "dim", "dims"), ("model", "nmae", "name")]
)
def test_a_misspelt_required_key_is_called_unknown_and_not_missing(
    write: Writer, section: str, wrong: str, right: str
) -> None:
    changed = {name: dict(value) for name, value in MINIMAL.items()}
    keys: dict[str, Any] = changed[section] if section else changed
    keys[wrong] = keys.pop(right)
    assert f"did you mean {right!r}?" in one_line_error(write(changed))


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("training.learning_rate=1e-4", "training.learning_rate", 1e-4),
        ("training.bf16=true", "training.bf16", True),
        ("training.lr_scheduler_type=cosine", "training.lr_scheduler_type", "cosine"),
        ("loss.dims=[32, 64, 128, 256, 380]", "loss.dims", [32, 64, 128, 256, 380]),
        ("loss.weights=[1,0.5,2e-1,0,4]", "loss.weights", [1, 0.5, 0.2, 0, 4]),
        ("model.max_seq_length=null", "model.max_seq_length", None),
        ("data.train[0].source=pairs.csv", "data.train.0.source", "pairs.csv"),
        ("data.train[0].columns=[a,b]", "data.train.0.columns", ["a", "b"]),
        ("eval.tasks=[]", "eval.tasks", []),
        ("model.name=./a=b", "model.name", "./a=b"),
        ("model.name='1e-4'", "model.name", "1e-4"),
        (" model.dropout =0.5", "model.dropout", 0.5),
    ],
)
def test_an_override_sets_one_value_and_leaves_the_rest(override: str, path: str, value: Any) -> None:
    expected = load_recipe("minilm-nli").model_dump()
    *parents, last = path.split(".")
    node: Any = expected
    for part in parents:
        node = node[int(part) if part.isdigit() else part]
    assert node.get(last) != value
    node[last] = value
    assert load_recipe("minilm-nli", [override]).model_dump() == expected


def test_overrides_replace_whole_lists_and_the_last_one_wins() -> None:
    overrides = ["data.train=[{source: a.csv}, {source: b.csv}]", "loss.scale=5", "loss.scale=6"]
    recipe = load_recipe("quickstart", overrides)
    assert [source.model_dump(exclude_defaults=True) for source in recipe.data.train] == [
        {"source": "a.csv"},
        {"source": "b.csv"},
    ]
    assert recipe.loss.scale == 6


@pytest.mark.parametrize(
    "override",
    [
        "nonsense",
        "=3",
        " =3",
        "data.train[5].source=a.csv",
        "data.train[x].source=a.csv",
        "data.train.source=a.csv",
        "loss.dims=[32,",
        "model.name='open",
    ],
)
def test_an_override_that_cannot_be_applied_is_named(override: str) -> None:
    assert override in one_line_error("minilm-nli", [override])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.train[5].source=a.csv", "data.train is a list of 1, counted from data.train[0]"),
        ("data.train[-2].source=a.csv", "data.train is a list of 1, counted from data.train[0]"),
        ("data.train.source=a.csv", "data.train is a list of 1, counted from data.train[0]"),
        ("data.validation[0].source=a.csv", "data.validation is a list of 0: give it whole, data.validation=[...]"),
        ("loss.dims[9]=3", "loss.dims is a list of 5, counted from loss.dims[0]"),
    ],
)
def test_an_entry_that_a_list_does_not_have_is_refused_with_those_it_has(override: str, message: str) -> None:
    assert one_line_error("minilm-nli", [override]) == f"override {override!r}: {message}"


def test_a_folder_that_is_no_run_is_called_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"is a folder without recipe.yaml, and so no run: name a recipe file$"):
        load_recipe(str(tmp_path))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("loss=null", "loss: "),
        ("loss.dims=64", "loss.dims: "),
        ("loss.dims=[]", "dims is empty"),
        ("loss.dims=[0,8,16]", "got 0"),
        ("loss.dims=[8,16.5,32]", "loss.dims.1: "),
        ("loss.dims=[8,16,8]", "names a size twice"),
        ("loss.weights=[1,2]", "weights has 2 values for 3 dims"),
        ("loss.weights=[1,2,-1]", "loss.weights.2: "),
        ("loss.scale=0", "loss.scale: "),
        ("loss.name=triplet", "loss.name: "),
        ("loss.mini_batch_size=0", "loss.mini_batch_size: "),
        ("data.train=[]", "data.train: "),
        ("data.train[0].columns=[]", "columns is empty: name anchor and positive"),
        ("data.train[0].packages=[numpy]", "belong to source 'docstrings'"),
        ("data.train[0].limit=0", "data.train.0.limit: "),
        ("model.name=null", "model.name: "),
        ("model.name=${nowhere}", "nowhere"),
        ("model.dropout=1", "model.dropout: "),
        ("training=5", "training: "),
        ("training.output_dir=runs/mine", "chosen with --output"),
        ("training.resume_from_checkpoint=runs/mine", "continue a run with --resume"),
        ("training.prompts={anchor: 'q: '}", "name them in model.prompts"),
        ("training.warmup_ratio=0.2", "warmup_ratio=0.2: give the share as training.warmup_steps, such as 0.1"),
        ("training.push_to_hub=true", "share the finished model, with its card, by mrl-text push"),
        ("training.label_smoothing_factor=0.1", "label_smoothing_factor=0.1: has no effect on a sentence encoder"),
        ("training.neftune_noise_alpha=5", "cannot add noise to token embeddings"),
        ("training.data_seed=7", "training.seed decides the order of the rows, too"),
        ("eval.dims=[a]", "eval.dims.0: "),
    ],
)
def test_a_wrong_value_is_refused_with_its_place_and_the_file(write: Writer, override: str, message: str) -> None:
    file = write(MINIMAL)
    error = one_line_error(file, [override])
    assert error.startswith(f"{file}: ")
    assert message in error


@pytest.mark.parametrize("content", ["- model\n- loss", "42", "true", "3.5"])
def test_a_recipe_that_is_no_mapping_is_refused(write: Writer, content: str) -> None:
    file = write(content)
    assert one_line_error(file) == f"{file}: a recipe is a mapping with model, data and loss"


@pytest.mark.parametrize("content", ["", "null", "just words"])
def test_a_recipe_without_sections_is_refused(write: Writer, content: str) -> None:
    file = write(content)
    assert one_line_error(file).startswith(f"{file}: ")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("model:\n  name: x\n name: y\n", 3),
        ("model: {name: x}\nloss: [8, 16\ndata: {}\n", 3),
        ("model:\n\tname: x\n", 2),
        ("model:\n  name: x\n  name: y\n", 3),
    ],
    ids=["indentation", "bracket", "tab", "same-key-twice"],
)
def test_what_is_no_yaml_is_refused_with_file_and_line(write: Writer, content: str, line: int) -> None:
    file = write(content)
    error = one_line_error(file)
    assert error.startswith(f"{file}: ")
    assert f"line {line}" in error


def test_a_file_that_is_no_text_is_refused_with_its_name(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_bytes(b"\xff\xfe\x00")
    assert str(file) in one_line_error(str(file))


@pytest.mark.parametrize("name", ["mine.yaml", "mine.yml", "folder/mine"])
def test_a_missing_file_is_called_missing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"^no recipe file at {name}$"):
        load_recipe(name)


def test_an_unknown_name_is_refused_with_the_nearest_shipped_one() -> None:
    for load in (load_recipe, recipe_text, recipe_description):
        with pytest.raises(ValueError, match=r"^no recipe named 'quikstart'; did you mean 'quickstart'\?$"):
            load("quikstart")


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["loss.weights=[1,2,3]", "loss.dims=[8,16,24]", "loss.distill_weights=null"],
        ["training.learning_rate=1e-4", "training.bf16=false", "model.name='1e-4'", "description='a: b # c'"],
        ["data.train=[{source: a.csv, columns: [a, b, c], limit: 3}]", "training={}", "eval={}"],
    ],
    ids=["as-shipped", "loss", "numbers-and-texts", "data"],
)
def test_a_recipe_written_as_yaml_is_the_same_recipe_again(write: Writer, name: str, overrides: list[str]) -> None:
    recipe = load_recipe(name, overrides)
    text = recipe.to_yaml()
    again = load_recipe(write(text))
    assert again == recipe
    assert again.to_yaml() == text


def test_a_recipe_is_written_with_its_defaults_so_that_a_later_version_reads_the_same() -> None:
    written = yaml.safe_load(Recipe.model_validate(MINIMAL).to_yaml())
    assert written["model"] == ModelConfig(**MINIMAL["model"]).model_dump()
    assert written["model"].items() >= {"dropout": None, "prompts": {}, "blend": 1.0}.items()
    assert written["loss"].items() >= {"dims": [8, 16, 32], "name": "nested_infonce", "scale": 20.0}.items()
    assert Recipe.model_validate(written) == Recipe.model_validate(MINIMAL)


def test_a_recipe_cannot_be_changed_in_place() -> None:
    recipe = load_recipe("quickstart")
    with pytest.raises(ValueError, match="frozen"):
        recipe.loss.scale = 5.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.batches=random", "data.batches: Input should be 'no_duplicates', 'neighbours' or 'by_length'"),
        ("data.on_leak=ignore", "data.on_leak: Input should be 'refuse', 'drop' or 'allow'"),
        ("data.train=[{source: a.csv, weight: 0}]", "data.train.0.weight: .* greater than 0"),
        (
            "data.train=[{source: a.csv, weight: 1}, {source: b.csv}]",
            "data: train: b has no weight, but others have: give it to all sources or to none",
        ),
        ("data.train=[{source: a.csv, mine_negatives: {nun: 3}}]", "unknown key; did you mean 'num'"),
        (
            "data.train=[{source: a.csv, mine_negatives: {num: 5, range_min: 10, range_max: 14}}]",
            "mine_negatives: num=5 negatives cannot be found between range_min=10 and range_max=14: widen the range",
        ),
        (
            "data.train=[{source: a.csv, columns: [a, b, c], mine_negatives: {}}]",
            "mine_negatives is for pairs: columns names a negative already",
        ),
        (
            "data.train=[{source: a.csv, columns: [a], mine_negatives: {}}]",
            "mine_negatives is for pairs: columns names one column only",
        ),
        (
            "data.validation=[{source: a.csv, columns: [a]}]",
            "data: validation: a names one column: validation finds positives by anchors",
        ),
        ("model.prompts={question: 'q: '}", "model.prompts.question"),
    ],
)
def test_a_wrong_data_option_is_refused_with_its_key(write: Writer, override: str, message: str) -> None:
    assert re.search(message, one_line_error(write(MINIMAL), [override]))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"batches": "neighbours"}, "data: batches: neighbours needs all rows at once"),
        ({"train": [{"source": "docstrings"}]}, "data: stream: docstrings are read at once"),
        ({"train": [{"source": "a.csv", "mine_negatives": {}}]}, "data: stream: mine_negatives needs all rows at once"),
    ],
)
def test_what_needs_all_rows_cannot_be_streamed(write: Writer, data: dict[str, Any], message: str) -> None:
    assert message in one_line_error(write({**MINIMAL, "data": {**MINIMAL["data"], "stream": True, **data}}))


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ({"name": "self_distillation", "distill_weight": 1}, "self_distillation does not take distill_weight: "),
        ({"name": "self_distillation", "scale": 5, "symmetric": True}, "does not take scale, symmetric: leave it out"),
        ({"name": "nested_infonce", "layers_per_step": 2}, "nested_infonce does not take layers_per_step"),
        ({"name": "nested_infonce_2d", "distill_weight": 1}, "nested_infonce_2d does not take distill_weight"),
        ({"name": "nested_infonce_2d", "mini_batch_size": 8}, "nested_infonce_2d does not take mini_batch_size"),
        ({"name": "nested_infonce_2d", "teacher": "self", "distill_scale": 5}, "not take distill_scale, teacher"),
        ({"name": "nested_infonce_2d", "reduction": "mean"}, "nested_infonce_2d does not take reduction"),
        ({"name": "nested_infonce_2d", "gather_across_devices": True}, "does not take gather_across_devices"),
        ({"name": "rotation", "distill_weight": 1}, "rotation does not take distill_weight"),
        ({"name": "rotation", "dims_per_step": 1, "teacher": "self"}, "rotation does not take dims_per_step, teacher"),
        ({"distill_weight": 1, "distill_weights": [1, 2]}, "distill_weights has 2 values for 3 dims"),
        ({"distill_weight": 1, "distill_weights": [0, 0, 0]}, "distill_weights are all zero"),
        ({"weights": [0, 0, 0]}, "weights are all zero: there would be nothing to train"),
        ({"distill_weight": -1}, "loss.distill_weight: "),
        ({"teacher": "large"}, "teacher large: none is needed at distill_weight 0: raise that"),
        ({"teacher": 3}, "loss.teacher: name a model, or several in a list, not 3"),
        ({"distill_weight": 1, "teacher": []}, "loss.teacher: name a model, or several"),
        (
            {"distill_weight": 1, "teacher": ["org/large", "self"]},
            "loss.teacher: self changes as it trains and stands alone",
        ),
        ({"distill_weight": 1, "teacher": ["base", "base"]}, "loss.teacher: a model is named twice"),
        ({"teacher": ["org/large", "base"]}, "teacher org/large, base: none is needed at distill_weight 0"),
        ({"teacher": "self", "embed_weight": 1}, "embed_weight needs a teacher other than self"),
        ({"name": "score_distillation", "cross_encoder": "base"}, "cross_encoder base: the starting model embeds"),
        (
            {"name": "score_distillation", "guide": "base", "symmetric": True},
            "guide, symmetric change nothing at",
        ),
        ({"name": "score_distillation", "precisions": ["float32", "int4"]}, "precisions are of contrast and distil"),
        ({"name": "score_distillation", "divergence": "mse"}, "loss.divergence: "),
        ({"cross_encoder": "x/y"}, "nested_infonce does not take cross_encoder"),
        ({"margin": 0.1}, "margin and margin_strategy are a guide's: name one with guide"),
        ({"guide": "base", "margin": ".inf"}, "loss.margin: "),
        ({"name": "self_distillation", "guide": "base"}, "self_distillation does not take guide"),
    ],
)
def test_an_option_that_means_nothing_to_the_loss_is_refused(write: Writer, loss: dict[str, Any], message: str) -> None:
    assert message in one_line_error(write({**MINIMAL, "loss": {**MINIMAL["loss"], **loss}}))


@pytest.mark.parametrize("name", ["nested_infonce", "self_distillation", "nested_infonce_2d", "rotation"])
def test_every_loss_takes_sizes_and_weights_alone_and_its_recipe_written_out(write: Writer, name: str) -> None:
    recipe = load_recipe(write(MINIMAL), [f"loss.name={name}", "loss.weights=[1,2,3]"])
    assert load_recipe(write(recipe.to_yaml())) == recipe  # every default is given now


@pytest.mark.parametrize(
    ("loss", "distills", "models"),
    [
        ({}, False, {}),
        ({"distill_weight": 2}, True, {"teacher": ("base",)}),
        ({"distill_weight": 2, "teacher": "self"}, True, {}),
        ({"distill_weight": 2, "teacher": "org/large"}, True, {"teacher": ("org/large",)}),
        ({"distill_weight": 2, "teacher": ["org/large", "base"]}, True, {"teacher": ("org/large", "base")}),
        ({"teacher": "base"}, False, {}),
        ({"embed_weight": 1}, False, {"teacher": ("base",)}),
        ({"name": "score_distillation"}, False, {}),
        (
            {"name": "score_distillation", "cross_encoder": "a/b", "contrast_weight": 1, "guide": "base"},
            False,
            {"guide": ("base",), "cross_encoder": ("a/b",)},
        ),
        ({"guide": "base", "margin": 0.1}, False, {"guide": ("base",)}),
        ({"guide": "org/large", "distill_weight": 1}, True, {"teacher": ("base",), "guide": ("org/large",)}),
        ({"name": "self_distillation"}, True, {"teacher": ("base",)}),
        ({"name": "self_distillation", "teacher": "self"}, True, {}),
        ({"name": "nested_infonce_2d"}, False, {}),
        ({"name": "rotation"}, False, {}),
    ],
)
def test_the_loss_says_whose_vectors_it_needs(
    write: Writer, loss: dict[str, Any], distills: bool, models: dict[str, tuple[str, ...]]
) -> None:
    recipe = load_recipe(write({**MINIMAL, "loss": {**MINIMAL["loss"], **loss}}))
    assert (recipe.loss.distills, recipe.loss.models) == (distills, models)
    assert recipe.loss.needs_teacher == ("teacher" in models)


SCORED = Needs(2, 2, "score", "alone")


@pytest.mark.parametrize(
    ("loss", "columns", "needs"),
    [
        ({}, ["a", "b"], Needs()),
        ({}, ["a", "b", "negative"], Needs()),
        ({}, ["a", "b", "score"], SCORED),
        ({"name": "self_distillation"}, ["a", "b", "label"], SCORED),
        ({"name": "matryoshka", "inner": "CoSENTLoss"}, ["a", "b", "points"], SCORED),
        ({"name": "matryoshka", "inner": "ContrastiveLoss"}, None, Needs(2, 2, "binary", "alone")),
        ({"name": "matryoshka", "inner": "BatchAllTripletLoss"}, ["a", "b"], Needs()),
    ],
)
def test_pairs_with_scores_are_validated_by_them(
    write: Writer, loss: dict[str, Any], columns: list[str] | None, needs: Needs
) -> None:
    train = [{"source": "a.csv"}]
    data = {"train": train, "validation": [{"source": "b.csv", "columns": columns}]}
    recipe = load_recipe(write({**MINIMAL, "data": data, "loss": {**MINIMAL["loss"], **loss}}))
    assert recipe.validation_needs == needs


def test_all_validation_data_has_scores_or_none(write: Writer) -> None:
    validation = [{"source": "a.csv", "columns": ["a", "b", "score"]}, {"source": "b.csv", "columns": ["a", "b"]}]
    error = one_line_error(write({**MINIMAL, "data": {**MINIMAL["data"], "validation": validation}}), [])
    assert (
        "data.validation: b has columns a, b, and validation needs two columns of texts and, in the last one" in error
    )


def test_a_source_has_a_loss_of_its_own_with_the_sizes_of_all(write: Writer) -> None:
    own = [
        {"source": "a.csv"},
        {"source": "b.csv", "loss": {"name": "matryoshka", "inner": "CoSENTLoss"}},
        {"source": "c.csv", "loss": {"name": "self_distillation", "dims": [16], "weights": [2]}},
    ]
    loss = {**MINIMAL["loss"], "weights": [1, 2, 3]}
    recipe = load_recipe(write({**MINIMAL, "data": {"train": own}, "loss": loss}))
    first, second, third = recipe.losses
    assert first is recipe.loss
    assert (second.name, second.dims, second.weights) == ("matryoshka", recipe.loss.dims, [1, 2, 3])
    assert (third.name, third.dims, third.weights) == ("self_distillation", [16], [2])
    assert load_recipe(write(recipe.to_yaml())) == recipe


@pytest.mark.parametrize(
    ("source", "rest", "message"),
    [
        ({"loss": {"dims": [5]}}, {}, "its loss has dims [5], which loss.dims has not: add them there"),
        ({"loss": {"name": "rotation"}}, {}, "a rotation is for all sources"),
        ({"loss": {}}, {"data": {"stream": True}}, "a stream mixes the rows of all sources"),
        (
            {"columns": ["a", "b", "c"], "loss": {"name": "matryoshka", "inner": "CoSENTLoss"}, "mine_negatives": {}},
            {},
            "mine_negatives is for pairs",
        ),
        (
            {"loss": {"name": "matryoshka", "inner": "TripletLoss"}, "mine_negatives": {"num": 3}},
            {},
            "a has columns anchor, positive and 3 mined, and loss.inner TripletLoss needs three columns of texts",
        ),
        (
            {"source": "docstrings", "loss": {"name": "matryoshka", "inner": "TripletLoss"}},
            {},
            "docstrings has pairs, and loss.inner TripletLoss needs three columns of texts",
        ),
        (
            {},
            {"data": {"stream": True}, "loss": {"name": "matryoshka", "inner": "BatchAllTripletLoss"}},
            "groups all rows by their classes: leave stream out",
        ),
    ],
)
def test_what_a_source_asks_for_fits_its_loss(
    write: Writer, source: dict[str, Any], rest: dict[str, Any], message: str
) -> None:
    data = {"train": [{"source": "a.csv", **source}], **rest.get("data", {})}
    loss = {**MINIMAL["loss"], **rest.get("loss", {})}
    assert message in one_line_error(write({**MINIMAL, "data": data, "loss": loss}), [])


@pytest.mark.parametrize("name", ["self_distillation", "rotation"])
def test_one_column_is_enough_where_no_labels_are_needed(write: Writer, name: str) -> None:
    recipe = load_recipe(write(MINIMAL), [f"loss.name={name}", "data.train[0].columns=[text]"])
    assert recipe.data.train[0].columns == ["text"]


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], "nested_infonce"),
        (["loss.name=nested_infonce_2d"], "nested_infonce_2d"),
        (["loss.distill_weight=5"], "nested_infonce"),
    ],
)
def test_one_column_is_refused_where_a_loss_needs_pairs(write: Writer, overrides: list[str], name: str) -> None:
    error = one_line_error(write(MINIMAL), [*overrides, "data.train[0].columns=[text]"])
    assert (
        f"data.train: pairs has columns text, and loss.name {name} needs two or more columns of texts: columns: ["
        in error
    )


def test_a_rotation_has_no_use_for_mined_negatives(write: Writer) -> None:
    error = one_line_error(write(MINIMAL), ["loss.name=rotation", "data.train[0].mine_negatives={num: 1}"])
    assert "data.train: pairs: loss.name rotation has no use for mine_negatives" in error
