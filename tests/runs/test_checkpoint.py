"""One checkpoint: what comes back is what was saved, and what could not be saved leaves nothing behind."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxtrain.runs import checkpoint
from jaxtrain.runs.checkpoint import Damaged

DTYPES = ["bool", "int8", "uint8", "int16", "int32", "uint32", "int64", "float16", "bfloat16", "float32"]
DTYPES += ["float64", "complex64", "float8_e4m3fn"]
SHAPES = [(), (1,), (7,), (0,), (3, 0, 2), (2, 3, 4)]


def bits(dtype, shape, seed=0):
    """Random bits as an array, so NaNs with a payload, infinities and -0 too; bools are 0 or 1."""
    dtype = np.dtype(getattr(ml_dtypes, dtype, dtype))
    rng = np.random.default_rng(seed)
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    data = rng.integers(0, 256, (*shape, dtype.itemsize), np.uint8)
    return data.reshape(-1).view(dtype).reshape(shape)


def alike(a, b):
    assert list(a) == list(b)
    for name in a:
        assert isinstance(b[name], np.ndarray)
        assert (a[name].dtype, a[name].shape) == (b[name].dtype, b[name].shape), name
        assert a[name].tobytes() == b[name].tobytes(), name


def test_arrays_of_every_dtype_and_shape_come_back_bit_for_bit(tmp_path):
    arrays = {f"{dtype}{shape}": bits(dtype, shape) for dtype in DTYPES for shape in SHAPES}
    facts = {"env_steps": 2**40, "logs": {"metrics.jsonl": 7}, "best": None}
    manifest = checkpoint.save(tmp_path / "one", arrays, facts)
    held, said = checkpoint.load(tmp_path / "one")
    alike(arrays, held)
    assert said == manifest and said.items() >= facts.items()
    print(f"\n{len(held)}/{len(DTYPES) * len(SHAPES)} arrays bit-identical")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "uint8"])
def test_a_big_array_comes_back_bit_for_bit(tmp_path, dtype):
    size = 40_000_000 // np.dtype(getattr(ml_dtypes, dtype, dtype)).itemsize
    arrays = {"big": bits(dtype, (size,)), "small": bits(dtype, ())}
    checkpoint.save(tmp_path / "one", arrays, {})
    alike(arrays, checkpoint.load(tmp_path / "one")[0])


def test_arrays_that_are_not_contiguous_come_back_as_they_looked(tmp_path):
    whole = bits("float32", (6, 8))
    arrays = {"columns": whole[:, ::2], "turned": whole.T, "backwards": whole[::-1], "same": whole}
    checkpoint.save(tmp_path / "one", arrays, {})
    alike(arrays, checkpoint.load(tmp_path / "one")[0])


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), unique=True, max_size=5))
def test_names_may_hold_any_characters(tmp_path, names):
    names = [*names, "../x", "/etc/passwd", "", ".", "a/b", "Ä'\"\0", "n" * 300]
    arrays = {name: np.array(i) for i, name in enumerate(names)}
    checkpoint.save(tmp_path / "one", arrays, {})
    alike(arrays, checkpoint.load(tmp_path / "one")[0])
    shutil.rmtree(tmp_path / "one")
    assert list(tmp_path.iterdir()) == []


NAMES = ["h=[64,64]", "*", "?", "a\nb", "back\\slash", "gs:", "{a,b}", "%20#'\"", "ümläut", "x" * 255]


@pytest.mark.parametrize("name", [*NAMES, b"\xff\xfe".decode(errors="surrogateescape")])
def test_a_directory_may_have_any_name_that_the_file_system_allows(tmp_path, name):
    place = tmp_path / name / "checkpoints" / "one"
    arrays = {"x": bits("float32", (3, 5)), "y": bits("int8", ())}
    before = set(Path(tempfile.gettempdir()).glob("jaxtrain-*"))
    checkpoint.save(place, arrays, {}, read_back=True)
    alike(arrays, checkpoint.load(place)[0])
    assert set(Path(tempfile.gettempdir()).glob("jaxtrain-*")) == before


def test_arrays_that_are_described_alike_have_the_same_bits():
    base = bits("float32", (4,))
    others = [base.view(np.int32), base.reshape(2, 2), -base, base[:3], base[::-1]]
    described = [json.dumps(checkpoint.described(x)) for x in (base, *others)]
    assert len(set(described)) == len(described)
    assert checkpoint.described(base.copy()) == checkpoint.described(base)


def test_the_digest_of_the_manifest_is_one_that_sha256sum_reads(tmp_path):
    checkpoint.save(tmp_path / "one", {"x": np.arange(3)}, {})
    text = (tmp_path / "one" / "manifest.json").read_bytes()
    line = (tmp_path / "one" / "manifest.sha256").read_text()
    assert line == f"{hashlib.sha256(text).hexdigest()}  manifest.json\n"
    said = json.loads(text)["files"]
    for name, entry in said.items():
        data = (tmp_path / "one" / name).read_bytes()
        assert entry == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    there = {
        os.path.relpath(os.path.join(at, name), tmp_path / "one")
        for at, _, names in os.walk(tmp_path / "one")
        for name in names
    }
    assert there == {*said, "manifest.json", "manifest.sha256"}


def test_a_checkpoint_in_the_way_is_not_overwritten_and_nothing_is_left_behind(tmp_path):
    checkpoint.save(tmp_path / "one", {"x": np.arange(3)}, {"which": "first"})
    with pytest.raises(OSError, match="one") as error:
        checkpoint.save(tmp_path / "one", {"x": np.arange(4)}, {"which": "second"})
    assert error.value.filename == str(tmp_path / "one") and error.value.errno
    assert [p.name for p in tmp_path.iterdir()] == ["one"]
    assert checkpoint.load(tmp_path / "one")[1]["which"] == "first"


@pytest.mark.parametrize(
    ("arrays", "facts"),
    [
        ({"x": np.arange(3)}, {"fact": object()}),  # no JSON
        ({"x": np.array([object()])}, {}),  # an array that only pickle could write
        ({"x": np.zeros((0, 3))}, {}),  # no state of a run: nothing in it has an entry
        ({}, {}),
    ],
)
def test_what_cannot_be_saved_raises_and_leaves_nothing_behind(tmp_path, arrays, facts):
    with pytest.raises((TypeError, ValueError, OSError)):
        checkpoint.save(tmp_path / "one", arrays, facts)
    assert list(tmp_path.iterdir()) == []


def test_a_file_where_the_parent_should_be_is_named_with_its_errno(tmp_path):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(OSError, match="file/one") as error:
        checkpoint.save(tmp_path / "file" / "one", {"x": np.arange(3)}, {})
    assert error.value.filename == str(tmp_path / "file" / "one") and error.value.errno
    assert (tmp_path / "file").read_text() == "precious"


def test_the_parent_is_made(tmp_path):
    checkpoint.save(tmp_path / "a" / "b" / "one", {"x": np.arange(3)}, {})
    assert [p.name for p in (tmp_path / "a" / "b").iterdir()] == ["one"]


@pytest.mark.parametrize("at_once", [1, 10**9], ids=["one by one", "all at once"])
def test_what_orbax_does_not_give_back_makes_no_checkpoint_although_every_file_is_as_written(
    tmp_path, monkeypatch, at_once
):
    """Orbax writes less than it was given, and says nothing of it: its files are in order all the same."""
    arrays = {"x": bits("float32", (3, 5)), "none": bits("int8", (0,)), "y": bits("int8", (2,))}
    monkeypatch.setattr(checkpoint, "AT_ONCE", at_once)
    write = checkpoint._write
    monkeypatch.setattr(checkpoint, "_write", lambda place, held: write(place, {"x": held["x"]}))
    with pytest.raises(OSError, match=r"not what was written: array .* reads back as") as error:
        checkpoint.save(tmp_path / "one", arrays, {}, read_back=True)
    assert (error.value.errno, error.value.filename) == (errno.EIO, str(tmp_path / "one"))
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(checkpoint, "_write", lambda place, held: write(place, {**held, "x": -held["x"]}))
    with pytest.raises(OSError, match="not what was written: array x reads back as another one"):
        checkpoint.save(tmp_path / "one", arrays, {}, read_back=True)
    monkeypatch.setattr(checkpoint, "_write", write)
    manifest = checkpoint.save(tmp_path / "one", arrays, {}, read_back=True)
    assert checkpoint.verify(tmp_path / "one", restore=True) == manifest


def reseal(place, manifest):
    """Give a checkpoint another manifest, with the digest that belongs to it."""
    text = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
    (place / "manifest.json").write_bytes(text)
    (place / "manifest.sha256").write_text(f"{hashlib.sha256(text).hexdigest()}  manifest.json\n")


@pytest.mark.parametrize("other", [1, 3])
def test_another_format_is_named_with_the_one_that_this_version_reads(tmp_path, other):
    manifest = checkpoint.save(tmp_path / "one", {"x": np.arange(3)}, {})
    reseal(tmp_path / "one", {**manifest, "format": other})
    with pytest.raises(Damaged, match=f"is of format {other}; this version reads 2"):
        checkpoint.load(tmp_path / "one")


def test_arrays_other_than_the_manifest_says_are_damage_even_where_every_file_fits(tmp_path):
    manifest = checkpoint.save(tmp_path / "one", {"x": np.arange(3), "y": np.zeros(2)}, {})
    x, y = manifest["arrays"]["x"], manifest["arrays"]["y"]
    lies = [
        {"x": {**x, "sha256": y["sha256"]}, "y": y},
        {"x": {**x, "dtype": "float32"}, "y": y},
        {"x": {**x, "shape": [4]}, "y": y},
        {"x": y, "y": x},
        {"x": x, "y": y, "z": x},
    ]
    for arrays in lies:
        reseal(tmp_path / "one", {**manifest, "arrays": arrays})
        with pytest.raises(Damaged):
            checkpoint.load(tmp_path / "one")
    reseal(tmp_path / "one", manifest)
    assert checkpoint.load(tmp_path / "one")[1] == manifest


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"null", b"{}", b'{"format": 2}', b'{"format": 2, "files": 3}', b"\xff\xfe"]
)
def test_a_sealed_manifest_that_is_none_is_damage(tmp_path, text):
    checkpoint.save(tmp_path / "one", {"x": np.arange(3)}, {})
    reseal(tmp_path / "one", text)
    with pytest.raises(Damaged):
        checkpoint.load(tmp_path / "one")


def test_a_relative_path_is_as_good_as_an_absolute_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    held = {"a": np.arange(3.0)}
    checkpoint.save(Path("one"), held, {})
    np.testing.assert_array_equal(checkpoint.load(Path("one"))[0]["a"], held["a"])
