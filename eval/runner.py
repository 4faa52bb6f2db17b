"""The one-pass evaluation: every model, every task, every size and precision, each text encoded once."""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mteb
import numpy as np
import pandas as pd
from filelock import FileLock
from mteb.abstasks import AbsTaskRetrieval
from mteb.cache import ResultCache
from mteb.results import TaskResult
from tqdm import tqdm

from mrl_text.api.options import ApiOptions
from mrl_text.choices import AutoBackend, Dtype
from mrl_text.embedding_cache import EmbeddingCache
from mrl_text.files import check_writable, write_atomically
from mrl_text.loading import cached, check_computing, shared_folder
from mrl_text.models import ModelSource
from mrl_text.progress import progress_bar
from mrl_text.truncation import Precision

from .encoders import (
    BLOCK,
    SAMPLE,
    Blocks,
    Call,
    CellEncoder,
    Corpus,
    RecordingSearch,
    corpus_calls,
    model_meta,
    with_hamming,
)
from .given_vectors import VectorSource
from .grid import CONTROLS, EVALUATED_PRECISIONS, Comparison, Control, SweepPlan, Variant, plan_lines
from .items import collect_items, from_predictions, read_facts, write_items
from .reference import check_references
from .results import KEY_COLUMNS, TABLE, Results, items_file, with_new_columns
from .tasks import TaskLoader

logger = logging.getLogger(__name__)


class SweepResult(Results):
    """Scores of a sweep and where they are kept.

    ``encoded``: texts that were encoded in this process, by model name. ``failed``: task -> why it was not evaluated,
    or not to its end.
    """

    def __init__(self, scores: pd.DataFrame, folder: Path, encoded: dict[str, int], failed: dict[str, str]) -> None:
        super().__init__(scores, [folder])
        self.folder = folder
        self.encoded = encoded
        self.failed = failed


def sweep(
    models: Sequence[str | ModelSource],
    tasks: Sequence[str] = (),
    *,
    output: str | Path,
    dims: Sequence[int] | None = None,
    precisions: Sequence[Precision] = EVALUATED_PRECISIONS,
    comparisons: Sequence[Comparison] = ("asymmetric",),
    rescore: int = 0,
    controls: Sequence[Control] = CONTROLS,
    cache: str | Path | None = None,
    pca_texts: Sequence[str] | None = None,
    keep_going: bool = False,
    batch_size: int = 32,
    device: str | None = None,
    backend: AutoBackend = "torch",
    dtype: Dtype = "float32",
    layers: Sequence[int] | None = None,
    trust_remote_code: bool = False,
    api: ApiOptions | None = None,
    references: Sequence[str | Path] = (),
    **choice: Any,
) -> SweepResult:
    """Evaluate models on mteb tasks at every size and precision from one encoding pass per text.

    Texts are encoded once at full width; each size is a slice of that, each precision a rounding of the slice.
    Results that ``output`` already holds for the same model revision, data revision and mteb version are not computed
    again, so an interrupted sweep continues where it stopped.

    Args:
        models: names or folders, see :func:`mrl_text.models.find_any_model`; or vectors in their place, see
            :func:`mrl_text.eval.given_vectors.read_vector_task`.
        tasks: mteb task names, or ``DocstringRetrieval``.
        output: folder for everything: ``results/`` in mteb's own layout, ``items/`` with per-item scores, and the tidy
            table ``scores.csv`` and ``scores.parquet``. Several sweeps may share it.
        dims: sizes to evaluate; None takes the trained sizes of a Matryoshka model and halvings of the width down
            to 16 of any other. Full width is always evaluated, since retention is measured against it, and sizes
            beyond a model's width are left out for that model.
        precisions: what vectors are stored in. Codes of few bits are those of :class:`mrl_text.codes.Codec`, fitted on
            the task's corpus side.
        comparisons: ``asymmetric`` compares float32 queries with what the codes stand for, as search engines do;
            ``symmetric`` codes queries, too: ``binary`` is compared by Hamming distance, and ``int8`` takes the range
            of each dimension from the task's corpus side, as sentence-transformers does. Where a task has no queries,
            all of its texts are coded.
        rescore: evaluates every cell in two stages besides, in tasks that search: so many candidates for each of ten
            results are found by what is stored, and put in order by full width in float32.
        controls: lines to compare with. ``base``: for a model that names the base it was trained from, that base
            truncated the same way; ``pca``: principal components, fitted on the task's corpus side or ``pca_texts``;
            ``random``: random dimensions, mean of three seeds; all of these in float32. ``pq`` and ``rabitq``: FAISS's
            quantisers, fitted on the task's corpus side, with float32 queries; ``pq`` takes up to half a minute for
            each size.
        cache: folder of full-width embeddings; None is the one that all commands share, ``"none"`` keeps none:
            embeddings live in memory until their task is done.
        pca_texts: texts to fit PCA on.
        keep_going: a task that cannot run, or fails, is reported and left out, instead of stopping the sweep.
        batch_size, device: as for :func:`mrl_text.loading.cached`.
        backend: what computes the models, as for :func:`mrl_text.loading.load`.
        dtype: what the models compute in. bfloat16 is faster where the processor has it and differs from
            float32 in the second decimal of a score; results of different types are kept apart.
        layers: numbers of transformer layers to evaluate besides all of them, each a line of its own with its own
            encoding pass (:meth:`mrl_text.MatryoshkaEncoder.truncate_layers`), beside the base cut to the same depth.
            Numbers beyond a model's are left out for that model.
        trust_remote_code: allow code that comes with the models and their bases to run.
        api: of models ``openai:NAME``, where that is and how it is asked; None takes what the environment says.
        references: tables of published scores that :func:`~mrl_text.eval.reference.read_references` will read, checked
            before anything is computed.
        **choice: more about the tasks: ``benchmark``, ``data``, ``read``, ``as_``, ``languages``, ``subsets``,
            ``splits`` and ``mirror``, as for :class:`~mrl_text.eval.tasks.TaskLoader`.

    Raises:
        FileNotFoundError: model or data not there.
        ValueError: unknown task, impossible size or depth (below 1, or beyond every model's), no model; what an API
            refuses.
        ConnectionError: an API does not answer.
        OSError: the output or the cache folder cannot be written.
    """
    folder = Path(output)
    check_computing(backend, dtype, device)
    plans = plan_lines(
        models,
        dims=dims,
        precisions=precisions,
        comparisons=comparisons,
        rescore=rescore,
        controls=controls,
        backend=backend,
        dtype=dtype,
        device=device,
        layers=layers,
        trust_remote_code=trust_remote_code,
        api=api,
    )
    check_references(references, {plan.line.model for plan in plans})
    loader = TaskLoader(tasks, keep_going=keep_going, **choice)
    if rescore and not any(isinstance(loader.prototype(name), AbsTaskRetrieval) for name in loader.names):
        raise ValueError(f"rescore={rescore} is for tasks that search, and none of these does: leave rescore out")
    check_writable(folder, "choose another output folder")
    run = _Sweep(folder, loader, cache, pca_texts, keep_going, batch_size, device)
    run.open_cache(plans[0])  # refuses a folder that cannot be written
    run.evaluate(plans)
    if not run.rows:
        raise ValueError("no task could be evaluated: " + "; ".join(f"{k}: {v}" for k, v in run.failed.items()))
    result = SweepResult(pd.DataFrame(run.rows), folder, run.encoded, run.failed)
    result.scores = result.table()
    _write_table(folder, result.scores)
    return result


@dataclass
class _Sweep:
    """One sweep in progress."""

    folder: Path
    tasks: TaskLoader
    cache: str | Path | None
    pca_texts: Sequence[str] | None
    keep_going: bool
    batch_size: int
    device: str | None

    def __post_init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.encoded: dict[str, int] = {}
        self.failed = dict(self.tasks.left_out)

    def evaluate(self, plans: Sequence[SweepPlan]) -> None:
        """Evaluate every line on every task; the lines of one model share its embeddings."""
        self.results = ResultCache(cache_path=self.folder)  # which makes the folder
        models: dict[str, list[SweepPlan]] = {}
        for plan in plans:
            models.setdefault(plan.line.slug, []).append(plan)
        groups = list(models.values())
        total = len(self.tasks.names) * len(_variants(plans))
        with progress_bar(total=total, desc="Evaluating", unit="result") as bar:
            for group in groups:
                line = group[0].line
                cache = self.open_cache(group[0])
                for name in self.tasks.names:
                    done = bar.n
                    if name not in self.failed:
                        self._evaluate_or_report(group, cache, name, bar)
                    bar.update(done + len(_variants(group)) - bar.n)
                    if self.cache == "none":
                        cache.forget()
                    if group is groups[-1]:
                        self.tasks.release(name)
                self.encoded[line.model] = self.encoded.get(line.model, 0) + cache.encoded
        self.rows = [row for row in self.rows if row["task"] not in self.failed]

    def open_cache(self, plan: SweepPlan) -> EmbeddingCache:
        """The embeddings of a line's model; errors of :func:`mrl_text.loading.cached`."""
        if isinstance(plan.source, VectorSource):
            return plan.source.cache()
        folder = shared_folder() if self.cache is None else None if self.cache == "none" else Path(self.cache)
        where: dict[str, Any] = {"device": self.device, "batch_size": self.batch_size, "folder": folder}
        return cached(plan.source, **plan.line.computing, layers=plan.line.layers, **where)

    def _evaluate_or_report(self, group: Sequence[SweepPlan], cache: EmbeddingCache, name: str, bar: tqdm) -> None:
        try:
            _TaskOnModel(self, group[0].source, cache, name).evaluate(_variants(group), bar)
        except Exception as error:
            if not self.keep_going:
                raise
            self.failed[name] = " ".join(str(error).split()) or type(error).__name__
            logger.warning("%s is left out: %s", name, self.failed[name])


class _TaskOnModel:
    """One task on one model: all sizes, precisions and controls that need no other weights."""

    def __init__(self, run: _Sweep, source: ModelSource, cache: EmbeddingCache, name: str) -> None:
        self.run, self.source, self.cache, self.name = run, source, cache, name
        self.data = run.tasks.fingerprint(name)
        self._calls: list[Call] | None = None
        self._corpora: dict[str, Corpus] = {}

    def evaluate(self, variants: Sequence[Variant], bar: tqdm) -> None:
        """Evaluate what is not known yet, full width first; two stages where the task searches.

        What is fitted on the corpus side needs to know which texts that is. Any evaluation shows it; where all others
        are known from an earlier run, full width is evaluated once more, which is cheap with its texts encoded.
        """
        self._whole = variants[0]
        searches = isinstance(self.run.tasks.prototype(self.name), AbsTaskRetrieval)
        variants = [variant for variant in variants if searches or not variant.cell.rescore]
        known = {variant: self._known(variant) for variant in variants}
        for variant in variants:
            bar.set_postfix_str(f"{variant.line.label}, {self.name}, {variant.cell.label}")
            result = known[variant]
            if result is None:
                if variant.fitted and self._calls is None:
                    self._calls = self._mteb(self._whole)[0].calls
                result = self._evaluate(variant)
            self.run.rows.extend(self._rows(variant, result))
            bar.update()

    def _evaluate(self, variant: Variant) -> TaskResult:
        encoder, result, items = self._mteb(variant)
        self._calls = self._calls or encoder.calls
        facts = {"data": self._version(variant), "mteb": mteb.__version__, **self._calibration(variant, encoder)}
        write_items(items_file(self.run.folder, variant, self.name), items, facts)
        meta = encoder.mteb_model_meta
        path = self.run.results.get_task_result_path(self.name, meta)
        described = json.dumps(meta.to_dict(), default=str, indent=4)
        write_atomically(path.parent / "model_meta.json", described.encode())
        with tempfile.TemporaryDirectory() as scratch:
            result.to_disk(Path(scratch) / path.name)
            # last: a result on disk means its items are, too
            write_atomically(path, (Path(scratch) / path.name).read_bytes())
        # as it will be read when the sweep is continued: mteb rounds what it writes
        return TaskResult.from_disk(path)

    def _mteb(self, variant: Variant) -> tuple[CellEncoder, TaskResult, list[Any]]:
        task = self.run.tasks.fresh(self.name)
        encoder = self._encoder(variant)
        whole = self._encoder(self._whole) if variant.cell.rescore else None
        search = RecordingSearch(encoder, self._calls or (), whole) if isinstance(task, AbsTaskRetrieval) else None
        with tempfile.TemporaryDirectory() as scratch:
            keep = Path(scratch) if from_predictions(task) else None
            answer = mteb.evaluate(
                search or encoder,
                task,
                cache=None,
                co2_tracker=False,
                show_progress_bar=False,
                prediction_folder=keep,
                encode_kwargs={"batch_size": 32, "show_progress_bar": False},
            )
            result = answer.task_results[0]
            if encoder.by_hamming:
                for scores in (one for subsets in result.scores.values() for one in subsets):
                    with_hamming(scores, task.metadata.main_score)
            predictions = keep / task.prediction_file_name if keep else None
            items = collect_items(task, result, search, predictions, by_hamming=encoder.by_hamming)
        return encoder, result, items

    def _encoder(self, variant: Variant) -> CellEncoder:
        meta = model_meta(self.source, variant, self.cache.model.similarity_fn_name)
        return CellEncoder(self.cache, variant, meta, self._corpus)

    def _corpus(self, subset: str) -> Corpus:
        if subset not in self._corpora:
            task = self.run.tasks.prototype(self.name)
            calls = corpus_calls(task, self._calls or [], subset)
            given = [Call("", "", list(self.run.pca_texts), None, "document")] if self.run.pca_texts else None
            self._corpora[subset] = Corpus(self._blocks(calls), self._blocks(given) if given else None)
        return self._corpora[subset]

    def _blocks(self, calls: list[Call]) -> Blocks:
        """Embeddings of the texts of calls, some at a time: a corpus may have millions."""

        def blocks() -> Iterator[np.ndarray]:
            for call in calls:
                for start in range(0, len(call.texts), BLOCK):
                    yield self.cache.embed(call.texts[start : start + BLOCK], prompt=call.prompt, role=call.role)

        return blocks

    def _calibration(self, variant: Variant, encoder: CellEncoder) -> dict[str, str]:
        """On what ranges, scales or components were measured, and the ranges or scales themselves."""
        if not variant.fitted:
            return {}
        side = corpus_calls(self.run.tasks.prototype(self.name), self._calls or [], encoder.calls[0].subset)
        what = "documents" if side and side[0].role == "document" else "texts"
        count = sum(len(call.texts) for call in side)
        sampled = f"{SAMPLE:,} of " if count > SAMPLE and (variant.quantised or variant.cell.few_bits) else ""
        facts = {"calibration": f"{sampled}{count:,} {what} of the task"}
        if variant.line.method == "pca" and self.run.pca_texts:
            facts["calibration"] = f"{len(self.run.pca_texts):,} given texts"
        measured = {subset: corpus.measured(variant) for subset, corpus in self._corpora.items()}
        stated = {subset: found.tolist() for subset, found in measured.items() if found is not None}
        return {**facts, "scales" if variant.cell.few_bits else "ranges": json.dumps(stated)} if stated else facts

    def _version(self, variant: Variant) -> str:
        """What a result depends on besides model and mteb: the task's data, how it compares, the texts of PCA.

        Older versions compared bits by cosines, and rounded queries to float16, too.
        """
        if variant.by_hamming or variant.cell.precision == "float16":
            return f"{self.data}-{'hamming' if variant.by_hamming else 'asymmetric'}"
        if variant.line.method != "pca" or not self.run.pca_texts:
            return self.data
        digest = hashlib.blake2b("\0".join(self.run.pca_texts).encode(), digest_size=8)
        return f"{self.data}-{digest.hexdigest()}"

    def _known(self, variant: Variant) -> TaskResult | None:
        """The result of an earlier run, if it is whole and was measured on the same data with the same mteb."""
        meta = model_meta(self.source, variant)
        try:
            facts = read_facts(items_file(self.run.folder, variant, self.name))
            known = self.run.results.load_task_result(self.name, meta)
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, OSError):  # half a file
            logger.warning("the result of %s for %s is damaged and is computed again", self.name, meta.name)
            return None
        if known is None or (facts.get("data"), facts.get("mteb")) != (self._version(variant), mteb.__version__):
            return None
        return known if known.mteb_version == mteb.__version__ else None

    def _rows(self, variant: Variant, result: TaskResult) -> list[dict[str, Any]]:
        metadata, cell = self.run.tasks.prototype(self.name).metadata, variant.cell
        facts = read_facts(items_file(self.run.folder, variant, self.name))
        return [
            {
                **asdict(variant.line),
                "task": metadata.name,
                "type": metadata.type,
                "split": split,
                "subset": scores["hf_subset"],
                "dim": cell.dim,
                "precision": cell.precision,
                "comparison": cell.comparison,
                "rescore": cell.rescore,
                "seed": variant.seed,
                "bytes": cell.bytes,
                "calibration": facts.get("calibration", ""),
                "metric": metadata.main_score,
                "score": float(scores["main_score"]),
                "data": self.data,
            }
            for split, subsets in result.scores.items()
            for scores in subsets
        ]


def _variants(group: Sequence[SweepPlan]) -> list[Variant]:
    """Everything to evaluate of one model, full width in float32 first."""
    variants = [variant for plan in group for cell in plan.cells for variant in plan.line.variants(cell)]
    return sorted(variants, key=lambda variant: variant.line.method != "truncation")


def _write_table(folder: Path, table: pd.DataFrame) -> None:
    """Write the table, keeping the rows that other sweeps left in the folder."""
    with FileLock(folder / f".{TABLE}.lock"):
        merged = table
        file = folder / f"{TABLE}.parquet"
        if file.is_file():
            try:
                older = with_new_columns(pd.read_parquet(file))
                mine = set(map(tuple, table[KEY_COLUMNS].astype(str).to_numpy()))
                others = [tuple(row) not in mine for row in older[KEY_COLUMNS].astype(str).to_numpy()]
                merged = pd.concat([table, older[others]], ignore_index=True)
            except (ValueError, KeyError, OSError):
                logger.warning("%s was damaged; it now holds this sweep only", file)
        write_atomically(folder / f"{TABLE}.csv", merged.to_csv(index=False).encode())
        write_atomically(file, merged.to_parquet(index=False))
