"""Counting tokens as the model reads them."""

from __future__ import annotations

from types import SimpleNamespace

from mrl_text.serving.embedder import _token_counter


def test_a_tokenizer_in_python_counts_special_tokens_too():
    from transformers import CanineTokenizer

    tokenizer = CanineTokenizer()
    texts = ["the cat", "Größe", ""]
    counted = _token_counter(SimpleNamespace(tokenizer=tokenizer))(texts)  # type: ignore[arg-type]
    assert counted == [len(tokenizer(text)["input_ids"]) for text in texts] == [9, 7, 2]
