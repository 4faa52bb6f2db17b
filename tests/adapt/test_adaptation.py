"""The matrix on disk and in use."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg

from mrl_text.adapt import Adaptation, load_adaptation
from mrl_text.codes import Codec


@pytest.fixture
def adaptation() -> Adaptation:
    matrix = scipy.linalg.qr(np.random.default_rng(0).normal(size=(12, 12)))[0].astype(np.float32)
    return Adaptation(matrix, (4, 12), "rotation", {"texts": 7}, Codec.plain(12))


def test_transform_multiplies_cuts_and_normalises(adaptation: Adaptation) -> None:
    vectors = np.random.default_rng(1).normal(size=(5, 12)).astype(np.float32)
    cut = (vectors.astype(np.float64) @ adaptation.matrix.astype(np.float64))[:, :4]
    expected = cut / np.linalg.norm(cut, axis=1, keepdims=True)
    np.testing.assert_allclose(adaptation.transform(vectors, 4), expected, atol=1e-6)
    np.testing.assert_allclose(adaptation.transform(vectors[0], 4), expected[0], atol=1e-6)
    assert adaptation.transform(vectors).shape == (5, 12)
    assert not adaptation.transform(np.zeros((1, 12), np.float32)).any()


@pytest.mark.parametrize("shape", [(5, 11), (11,), (2, 3, 12), ()])
def test_vectors_of_another_width_are_refused(adaptation: Adaptation, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"12|shape"):
        adaptation.transform(np.zeros(shape, np.float32))


def test_saved_and_loaded(adaptation: Adaptation, tmp_path: Path) -> None:
    adaptation.save(tmp_path / "sub" / "rotation.npy")
    plain = np.load(tmp_path / "sub" / "rotation.npy")  # what anyone can read
    np.testing.assert_array_equal(plain, adaptation.matrix)
    assert json.loads((tmp_path / "sub" / "rotation.json").read_text())["dims"] == [4, 12]
    loaded = load_adaptation(tmp_path / "sub" / "rotation.npy")
    np.testing.assert_array_equal(loaded.matrix, adaptation.matrix)
    assert (loaded.dims, loaded.method, dict(loaded.facts)) == ((4, 12), "rotation", {"texts": 7})
    assert loaded.codec is not None
    np.testing.assert_array_equal(loaded.codec.scales, Codec.plain(12).scales)
    (tmp_path / "sub" / "rotation.codec.json").unlink()  # an older version wrote none
    assert load_adaptation(tmp_path / "sub" / "rotation.npy").codec is None


def test_a_name_without_npy_is_refused(adaptation: Adaptation, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"try .*rotation\.npy"):
        adaptation.save(tmp_path / "rotation.bin")


def test_what_is_no_adaptation_is_refused(adaptation: Adaptation, tmp_path: Path) -> None:
    file = tmp_path / "m.npy"
    with pytest.raises(FileNotFoundError, match=r"m\.npy"):
        load_adaptation(file)
    adaptation.save(file)
    file.with_suffix(".json").unlink()
    with pytest.raises(FileNotFoundError, match=r"m\.json not found"):
        load_adaptation(file)
    for content in ("not json", "[]", "{}", '{"method": "rotation"}'):
        file.with_suffix(".json").write_text(content)
        with pytest.raises(ValueError, match="are no adaptation"):
            load_adaptation(file)
    file.with_suffix(".json").write_text('{"method": "magic", "dims": [4]}')
    with pytest.raises(ValueError, match="'magic'"):
        load_adaptation(file)
    file.with_suffix(".json").write_text('{"method": "pca", "dims": [13]}')
    with pytest.raises(ValueError, match="from 1 to 12"):
        load_adaptation(file)
    file.with_suffix(".json").write_text('{"method": "pca", "dims": [4]}')
    Codec.plain(8).save(file.with_suffix(".codec.json"))
    with pytest.raises(ValueError, match=r"m\.codec\.json is for 8 numbers"):
        load_adaptation(file)
    file.with_suffix(".codec.json").unlink()
    np.save(file, adaptation.matrix[:5])
    with pytest.raises(ValueError, match="square"):
        load_adaptation(file)
    np.save(file, np.array([{"a": 1}]), allow_pickle=True)
    with pytest.raises(ValueError, match="are no adaptation"):
        load_adaptation(file)
