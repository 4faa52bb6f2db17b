"""A corpus of real texts with judged queries, encoded once, for ``benchmarks/search.py``.

    python benchmarks/search_data.py MODEL --pairs train/*.parquet --beir cranfield scifact --docstrings 40000 -o DATA

Corpus: every distinct text of the pair files and BEIR folders, and docstrings of the installed packages. Queries: those
of the BEIR folders with their judgements, and, of each pair file with questions or paraphrases, ``--held-out`` anchors
which are taken out of the corpus; the answer to such a query is the positive of its pair (others may fit as well, which
lowers all scores alike). Of the docstrings, summaries of held-out packages ask for the rest. Interrupted, it goes on.
With ``--static`` a text is the mean of its tokens' vectors, each of which MODEL made of that token alone: minutes
instead of hours, and a worse model.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from mrl_text.docstrings import HELD_OUT_PACKAGES, load_docstrings
from mrl_text.embedding_cache import EmbeddingCache
from mrl_text.encoder import MatryoshkaEncoder

Judgements = dict[str, dict[str, int]]


def main() -> None:
    """Write vectors.npy (float16), ids.json, queries.npy and qrels.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--pairs", type=Path, nargs="*", default=[], help="Parquet with anchor and positive")
    parser.add_argument("--ask", default="medical-qa,parasci,trivia,wikiqa", help="pair files that give queries")
    parser.add_argument("--beir", type=Path, nargs="*", default=[], help="BEIR folders, jsonl or Parquet")
    parser.add_argument("--docstrings", type=int, default=40_000, help="docstring texts at most")
    parser.add_argument("--held-out", type=int, default=500, help="queries from each pair file")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--max-tokens", type=int, help="cut texts there; default: what the model reads")
    parser.add_argument("--static", action="store_true", help="means of token vectors instead of the transformer")
    parser.add_argument("--output", "-o", type=Path, required=True)
    arguments = parser.parse_args()
    corpus: dict[str, str] = {}
    queries: dict[str, str] = {}
    qrels: Judgements = {}
    for folder in arguments.beir:
        add_beir(folder, corpus, queries, qrels)
    asked = set(arguments.ask.split(","))
    pairs = {file.stem: pd.read_parquet(file) for file in arguments.pairs}
    if arguments.docstrings:
        held_out = load_docstrings(HELD_OUT_PACKAGES, limit_per_package=1000)
        found = [*held_out, *load_docstrings(exclude=HELD_OUT_PACKAGES, limit_per_package=2000, progress=True)]
        rows = [(pair.anchor, pair.positive) for pair in found]
        pairs["docstrings"] = pd.DataFrame(rows[: arguments.docstrings // 2], columns=["anchor", "positive"])
    for name, table in pairs.items():
        _add_pairs(name, table, arguments.held_out if name in asked | {"docstrings"} else 0, corpus, queries, qrels)
    asking = set(queries.values())
    corpus = {id_: text for id_, text in corpus.items() if text not in asking}
    print(f"{len(corpus):,} texts, {len(queries):,} queries")
    _encode(arguments, corpus, queries, qrels)


def add_beir(folder: Path, corpus: dict[str, str], queries: dict[str, str], qrels: Judgements) -> None:
    """Add the texts of a BEIR folder by id, its judged queries, and what they ask for."""
    documents, asked = _table(folder, "corpus"), _table(folder, "queries")
    judged = _table(folder / "qrels", "test")
    judged.columns = ["query-id", "corpus-id", "score"]
    for id_, title, text in zip(documents["_id"], documents["title"], documents["text"], strict=True):
        corpus[f"{folder.name}/{id_}"] = f"{title} {text}".strip()
    texts = dict(zip(asked["_id"].astype(str), asked["text"], strict=True))
    for query, document, score in judged.itertuples(index=False):
        if score > 0:
            queries[f"{folder.name}/{query}"] = texts[str(query)]
            qrels.setdefault(f"{folder.name}/{query}", {})[f"{folder.name}/{document}"] = int(score)


def _table(folder: Path, name: str) -> pd.DataFrame:
    if (file := folder / f"{name}.parquet").exists():
        return pd.read_parquet(file)
    if (file := folder / f"{name}.jsonl").exists():
        return pd.read_json(file, lines=True, dtype=False)
    return pd.read_csv(folder / f"{name}.tsv", sep="\t", dtype={0: str, 1: str})


def _add_pairs(
    name: str, table: pd.DataFrame, held_out: int, corpus: dict[str, str], queries: dict[str, str], qrels: Judgements
) -> None:
    """Texts of a table of pairs, each once, without the anchors that become queries."""
    ids: dict[str, str] = {}
    columns = [column for column in ("anchor", "positive", "negative") if column in table]
    for text in (text.strip() for column in columns for text in table[column] if text and text.strip()):
        ids.setdefault(text, f"{name}/{len(ids)}")
    positives = set(table["positive"].str.strip())
    usable = np.flatnonzero(~table["anchor"].str.strip().isin(positives))
    if name == "docstrings":
        usable = usable[:2000]  # held-out packages come first
    for row in np.random.default_rng(0).permutation(usable)[:held_out]:
        anchor, positive = table["anchor"][row].strip(), table["positive"][row].strip()
        if anchor in ids and positive in ids:
            queries[ids[anchor]] = anchor
            qrels[ids[anchor]] = {ids[positive]: 1}
    corpus |= {id_: text for text, id_ in ids.items() if id_ not in queries}


def _encode(arguments: argparse.Namespace, corpus: dict[str, str], queries: dict[str, str], qrels: Judgements) -> None:
    import torch

    output = arguments.output
    model = MatryoshkaEncoder(arguments.model).to(getattr(torch, arguments.dtype))
    model = _static(model) if arguments.static else model
    model.warn_when_cut = False
    if arguments.max_tokens:
        model.max_seq_length = arguments.max_tokens
    cache = EmbeddingCache(lambda: model, output / "cache")
    output.mkdir(parents=True, exist_ok=True)
    asked = cache.embed(list(queries.values()), role="query")
    texts = list(corpus.values())
    vectors = np.lib.format.open_memmap(output / "vectors.npy", "w+", np.float16, (len(texts), asked.shape[1]))
    vectors[:] = _unit(cache.embed(texts, role="document"))
    vectors.flush()
    np.save(output / "queries.npy", _unit(asked))
    (output / "ids.json").write_text(json.dumps({"corpus": list(corpus), "queries": list(queries)}))
    (output / "qrels.json").write_text(json.dumps(_known(qrels, corpus)))


def _static(model: MatryoshkaEncoder) -> MatryoshkaEncoder:
    """Token vectors of a BERT, less their mean, the rarer the longer; as model2vec distils them."""
    import torch
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    tokenizer = copy.deepcopy(model.tokenizer.backend_tokenizer)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokens = torch.arange(tokenizer.get_vocab_size())
    start, end = (torch.full_like(tokens, tokenizer.token_to_id(one)) for one in ("[CLS]", "[SEP]"))
    rows = torch.stack([start, tokens, end], dim=1).split(512)
    with torch.inference_mode():
        read = [model[0].auto_model(one, torch.ones_like(one)).last_hidden_state.mean(dim=1) for one in rows]
    unit = _unit(torch.cat(read).float().numpy())
    weights = np.log1p(np.arange(len(unit))) / np.log(len(unit))  # the vocabulary begins with what is frequent
    weights[[tokenizer.token_to_id(one) for one in ("[PAD]", "[CLS]", "[SEP]")]] = 0
    vectors = ((unit - unit.mean(axis=0)) * weights[:, None]).astype(np.float32)
    return MatryoshkaEncoder(modules=[StaticEmbedding(tokenizer, embedding_weights=vectors)], device="cpu")


def _known(qrels: Judgements, corpus: Iterable[str]) -> Judgements:
    there = set(corpus)
    return {query: {id_: score for id_, score in found.items() if id_ in there} for query, found in qrels.items()}


def _unit(vectors: np.ndarray) -> np.ndarray:
    from mrl_text.truncation import truncate

    return truncate(vectors)


if __name__ == "__main__":
    main()
