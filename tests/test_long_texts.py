"""What is left out of a long text changes no token that a model reads."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from mrl_text import MatryoshkaEncoder
from mrl_text.long_texts import Shortener, own_tokenizer

LIMIT = 20
LEARNED = [
    "the cat sits on the mat and the dog runs",
    "Größe, café: naïve déjà vu; it's they're 1,000,000 and 3.14",
    "東京都に住んでいます。猫はマットの上に座っています。日本語の文章には空白がありません。",
    "def main(): return [x ** 2 for x in range(10)]",
    "GATTACA ACGTACGTTAGC AAAA aaaa aaaaaaaa     \n\n\n   \t",
    "русский текст и ещё немного слов हिन्दी में कुछ शब्द",
] * 3


def _trained(model: Any, trainer: Any, normalizer: Any = None, pre_tokenizer: Any = None) -> Tokenizer:
    tokenizer = Tokenizer(model)
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.train_from_iterator(LEARNED, trainer)
    tokenizer.add_tokens(["New York", "<mask>", "    "])
    return tokenizer


def word_piece() -> Tokenizer:
    """As BERT's."""
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=["[UNK]"], show_progress=False)
    model = models.WordPiece(unk_token="[UNK]")
    return _trained(model, trainer, normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer())


def byte_level() -> Tokenizer:
    """As GPT-2's and RoBERTa's."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=450, initial_alphabet=alphabet, show_progress=False)
    return _trained(models.BPE(), trainer, None, pre_tokenizers.ByteLevel(add_prefix_space=False))


def grouped_digits() -> Tokenizer:
    """Byte-level with digits grouped by three from the right, which looks ahead to the end of a number."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=450, initial_alphabet=alphabet, show_progress=False)
    split = pre_tokenizers.Split(Regex(r"\d{1,3}(?=(?:\d{3})*(?!\d))|\p{L}+|\s+(?!\S)|\s+|[^\s\p{L}\d]+"), "isolated")
    byte = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return _trained(models.BPE(), trainer, None, pre_tokenizers.Sequence([split, byte]))


def without_words() -> Tokenizer:
    """As Gemma's: the whole text is one word."""
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<unk>"], show_progress=False)
    return _trained(models.BPE(unk_token="<unk>", fuse_unk=True), trainer, normalizers.Replace(" ", "▁"))


def unigram() -> Tokenizer:
    """As XLM-R's."""
    trainer = trainers.UnigramTrainer(vocab_size=300, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False)
    normal = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    return _trained(models.Unigram(), trainer, normal, pre_tokenizers.Metaspace())


TOKENIZERS = [word_piece, byte_level, grouped_digits, without_words, unigram]
NASTY = {
    "one letter": "a" * 6_000,
    "two letters": "ab" * 3_000,
    "no blanks": "".join(random.Random(0).choices("ACGT", k=6_000)),
    "base64": "".join(random.Random(1).choices("ABCDEFabcdef0123456789+/", k=6_000)),
    "a number": "7" * 6_001,
    "numbers": "1234567 " * 1_000,
    "Japanese": LEARNED[2] * 150,
    "Japanese without stops": "日本語の文章には空白がありません" * 400,
    "blanks": " " * 20_000 + "the cat",
    "blanks and words": ("the" + " " * 500) * 200,
    "blanks behind": "the cat" + " " * 20_000,
    "lines": "\n\r\n" * 3_000,
    "tabs": "\t \u3000\u00a0" * 1_500,
    "NUL": "\0" * 6_000 + "the cat",
    "NUL inside": "the\0cat " * 1_500,
    "emoji": "🐈‍⬛👩‍👩‍👧🇩🇪" * 700,
    "marks on one letter": "e" + "\u0301" * 6_000 + " the cat",
    "marks": "e\u0301o\u0308 " * 1_500,
    "Hindi": "हिन्दी में कुछ शब्द " * 300,
    "Hangul in parts": "\u1112\u1161\u11ab" * 1_500,
    "half-width": "ｶﾞｷﾞ" * 1_500,
    "ligatures": "ﬁﬃ㌖" * 1_500,
    "signs": "=" * 6_000,
    "apostrophes": "it're they's " * 500,
    "added tokens": "New York <mask>    New York" * 300,
    "one long word": "cat " * 30 + "x" * 6_000 + " the cat sits",
    "unknown": "\U0001f9ff" * 6_000,
}


@pytest.fixture(scope="module", params=TOKENIZERS, ids=lambda make: make.__name__)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    found: Tokenizer = request.param()
    return found


def check(tokenizer: Tokenizer, text: str, limit: int = LIMIT) -> str:
    whole = tokenizer.encode(text, add_special_tokens=False).ids
    shorter = Shortener(tokenizer, limit)(text)
    found = tokenizer.encode(shorter, add_special_tokens=False).ids
    assert found[:limit] == whole[:limit]
    assert (len(found) > limit) == (len(whole) > limit)
    assert len(found) == len(whole) or len(whole) > limit
    return shorter


@pytest.mark.parametrize("name", NASTY)
def test_the_same_tokens_of_nasty_texts(tokenizer: Tokenizer, name: str) -> None:
    for limit in (1, LIMIT, 257):
        check(tokenizer, NASTY[name], limit)


def test_the_same_tokens_of_random_texts(tokenizer: Tokenizer) -> None:
    generator = random.Random(0)
    parts = [
        "the",
        "cat",
        "e\u0301",
        "猫",
        "日本語",
        "。",
        " ",
        "  ",
        "\n",
        "'s",
        "'re",
        "12",
        "345",
        ",",
        "\0",
        "xyz",
        "a",
    ]
    parts += ["New York", "<mask>", "🐈", "ß", "_", "-", "\u0301", "▁", "#", "##"]
    for _ in range(60):
        some = generator.sample(parts, generator.randint(1, 8))
        text = "".join(generator.choices(some, k=generator.randint(100, 1500)))
        check(tokenizer, text, generator.choice([1, 3, LIMIT, 64]))


def test_the_same_tokens_wherever_it_is_cut(tokenizer: Tokenizer) -> None:
    text = " ".join(LEARNED)
    for start in range(60):
        check(tokenizer, text[start:], 10)


@pytest.mark.parametrize("make", TOKENIZERS)
def test_a_long_text_becomes_short(make: Any) -> None:
    tokenizer = make()
    for text in ("the cat sits on a mat. " * 3_000, "\n".join(LEARNED) * 30):
        assert len(check(tokenizer, text)) <= 8 * (LIMIT + 1) + 1000
    for name in ("Japanese", "one letter", "blanks"):
        if make is not grouped_digits:
            assert len(check(tokenizer, NASTY[name])) < 5_000, name


def test_a_prompt_stays_in_front(tokenizer: Tokenizer) -> None:
    text, shortener = "the cat sits on a mat. " * 1000, Shortener(tokenizer, LIMIT)
    for prompt in ("query: ", "a long prompt " * 40):
        shorter = prompt + shortener(text, prompt)
        whole = tokenizer.encode(prompt + text, add_special_tokens=False).ids
        assert tokenizer.encode(shorter, add_special_tokens=False).ids[:LIMIT] == whole[:LIMIT]
        assert len(shorter) < 3_000


def test_a_model_computes_the_same(tiny_bert: Path) -> None:
    model = MatryoshkaEncoder(str(tiny_bert), device="cpu")
    shortener = Shortener.of(model)
    texts = ["the cat sits " * 3000, "house " * 10_000, "cat " * 30 + "x" * 30_000 + " the cat sits", "a dog"]
    shorter = [shortener(text) for text in texts]
    assert [len(text) < 2_000 for text in shorter] == [True] * 4
    assert shorter[3] == texts[3]
    np.testing.assert_array_equal(model.encode(shorter), model.encode(texts))


def test_what_reads_every_token_or_the_last_ones_is_left_alone(tiny_bert: Path) -> None:
    model = MatryoshkaEncoder(str(tiny_bert), device="cpu")
    model.tokenizer.truncation_side = "left"
    text = "the cat sits " * 3000
    assert Shortener.of(model)(text) is text
    assert Shortener(None, 0)(text) is text


def test_its_tokenizer_is_a_copy(tiny_bert: Path) -> None:
    model = MatryoshkaEncoder(str(tiny_bert), device="cpu")
    model.encode(["the cat", "a dog sits"])  # sets padding and truncation
    own = own_tokenizer(model.tokenizer)
    assert own is not None and own.truncation is None and own.padding is None
    assert model.tokenizer.backend_tokenizer.truncation is not None
