"""Hard negatives, mined once per model, data and options."""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict

from mrl_text.embedding_cache import fingerprint
from mrl_text.encoder import MatryoshkaEncoder
from mrl_text.files import cache_dir, write_atomically
from mrl_text.training.recipe import MiningConfig, SourceConfig

logger = logging.getLogger(__name__)

_SCORES_AT_ONCE = 1 << 26  # similarities held at a time: 256 MB


def mine_sources(
    data: Dataset | DatasetDict,
    sources: Sequence[SourceConfig],
    model: MatryoshkaEncoder,
    *,
    prompts: Mapping[str, str] | None = None,
    batch_size: int = 64,
) -> Dataset | DatasetDict:
    """:func:`mine_negatives` for the sources that ask for it; the others stay as they are."""
    parts = {"the data": data} if isinstance(data, Dataset) else data
    mined = DatasetDict(parts)
    for (name, part), source in zip(parts.items(), sources, strict=True):
        if config := source.mine_negatives:
            mined[name] = mine_negatives(part, config, model, name=name, prompts=prompts, batch_size=batch_size)
    return mined["the data"] if isinstance(data, Dataset) else mined


def mine_negatives(
    data: Dataset,
    config: MiningConfig,
    model: MatryoshkaEncoder,
    *,
    name: str = "the data",
    prompts: Mapping[str, str] | None = None,
    batch_size: int = 64,
    cache: Path | None = None,
) -> Dataset:
    """Give every pair negatives: positives of other rows that the model places near the anchor.

    sentence-transformers' ``mine_hard_negatives`` does the work; the result stays on disk. Rows come out in the order
    of their anchors' first appearance. Those for which there are too few candidates are left out and counted.

    Args:
        prompts: column -> text put before its texts, as in training.
        cache: folder; None is ``negatives`` under the cache directory.

    Returns:
        Columns ``anchor``, ``positive``, ``negative``, ``negative_2``...

    Raises:
        ValueError: there are negatives already, or no row has enough candidates.
    """
    if data.column_names != ["anchor", "positive"]:
        raise ValueError(f"{name}: mine_negatives is for pairs, and the columns are {', '.join(data.column_names)}")
    prompts = dict(prompts or {})
    file = (cache or cache_dir() / "negatives") / f"{_key(data, config, model, prompts)}.parquet"
    mined = _mined_before(file)
    if mined is not None:
        logger.info("%s: hard negatives mined before, from %s", name, file)
    else:
        logger.info("%s: mining %d hard negatives for each of %d rows", name, config.num, len(data))
        mined = _mine(data, config, model, prompts, batch_size)
        stream = io.BytesIO()
        pq.write_table(mined.data.table, stream)
        try:
            write_atomically(file, stream.getvalue())
        except OSError as error:  # minutes of mining are worth more than the next run's start
            logger.warning("%s: the negatives cannot be kept in %s (%s)", name, file.parent, error.strerror)
    if not len(mined):
        raise ValueError(
            f"{name}: no row of {len(data)} has {config.num} candidates for negatives: lower mine_negatives.num,"
            " range_min or relative_margin, or raise range_max"
        )
    if dropped := len(data) - len(mined):
        logger.warning("%s: %d of %d rows have too few hard negatives and are left out", name, dropped, len(data))
    return mined


def _mined_before(file: Path) -> Dataset | None:
    """What is kept of an earlier run; None where nothing is, or where it is damaged, which is said."""
    try:
        mined = Dataset(pq.read_table(file))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:  # pyarrow's errors are of both kinds
        logger.warning("%s is damaged (%.100s): negatives are mined again", file, " ".join(str(error).split()))
        return None
    return mined


def _mine(
    data: Dataset, config: MiningConfig, model: MatryoshkaEncoder, prompts: Mapping[str, str], batch_size: int
) -> Dataset:
    from sentence_transformers.util import mine_hard_negatives

    was_training = model.training
    mined = mine_hard_negatives(
        data,
        model,
        anchor_column_name="anchor",
        positive_column_name="positive",
        num_negatives=config.num,
        **config.model_dump(exclude={"num"}),
        query_prompt=prompts.get("anchor", ""),
        corpus_prompt=prompts.get("positive", ""),
        output_format="n-tuple",
        batch_size=batch_size,
        faiss_batch_size=max(1, min(16384, _SCORES_AT_ONCE // len(data))),
        verbose=False,
    )
    model.train(was_training)
    return mined.rename_column("negative_1", "negative")


def _key(data: Dataset, config: MiningConfig, model: MatryoshkaEncoder, prompts: Mapping[str, str]) -> str:
    settings = f"{fingerprint(model)}\0{config.model_dump_json()}\0{sorted(prompts.items())}\0"
    digest = hashlib.blake2b(settings.encode(), digest_size=16)
    for column in data.column_names:
        for text in data[column][:]:
            digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()
