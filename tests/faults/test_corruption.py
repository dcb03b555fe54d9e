"""Damaged checkpoints: none is ever loaded, and a run goes on from the newest whole one, or refuses.

In: real files, truncated, zeroed, flipped, deleted, added, replaced. Out: what `load`, `launch` and
`jaxtrain verify` make of them. Knows nothing of kills; `test_kill.py` has those.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import jaxtrain
from jaxtrain import ConfigError
from jaxtrain.runs import checkpoint, manager
from jaxtrain.runs.checkpoint import Damaged
from jaxtrain.runs.launch import launch
from jaxtrain.tools import cli
from tests.faults.processes import Drift, arrays, rows
from tests.helpers import tiny

TRIALS = 1000
ENV = "tests.helpers:Walk"  # by name, so that the command line can build it again


def listing(directory, but=()):
    """Everything below a directory: the sha256 of files, where links lead, and directories."""
    found = {}
    for path in sorted(Path(directory).rglob("*")):
        name = path.relative_to(directory).as_posix()
        if path.is_symlink():
            found[name] = f"link to {os.readlink(path)}"
        elif path.is_file():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            found[name] = "directory"
    return {name: what for name, what in found.items() if name not in but}


# ---- the faults: each changes one checkpoint, never into what it was, and says what it did


def files(place):
    return sorted(path for path in place.rglob("*") if path.is_file() and not path.is_symlink())


def truncated(place, rng):
    path = rng.choice(files(place))
    size = rng.randrange(path.stat().st_size)
    os.truncate(path, size)
    return f"{path.name} cut to {size} bytes"


def zeroed(place, rng):
    path = rng.choice(files(place))
    path.write_bytes(bytes(path.stat().st_size))
    return f"{path.name} zeroed"


def flipped(place, rng):
    path = rng.choice(files(place))
    data = bytearray(path.read_bytes())
    at, bit = rng.randrange(len(data)), rng.randrange(8)
    data[at] ^= 1 << bit
    path.write_bytes(data)
    return f"{path.name}: bit {bit} of byte {at} flipped"


def lengthened(place, rng):
    path = rng.choice(files(place))
    with path.open("ab") as file:
        file.write(rng.choice([b"\0", b"\n", b" ", rng.randbytes(100)]))
    return f"{path.name} lengthened"


def deleted(place, rng):
    path = rng.choice(files(place))
    path.unlink()
    return f"{path.name} deleted"


def added(place, rng):
    inside = [path for path in (place, *place.rglob("*")) if path.is_dir()]
    path = rng.choice(inside) / rng.choice(["x", ".hidden", "manifest.json~", "d\n", "00000", "ä"])
    path.write_bytes(rng.choice([b"", b"x"]))
    return f"{path.relative_to(place)} added"


def emptied(place, rng):
    shutil.rmtree(place)
    place.mkdir()
    return "emptied"


def foreign(place, rng):
    shutil.rmtree(place)
    (place / "photos").mkdir(parents=True)
    (place / "photos" / "1.jpg").write_bytes(rng.randbytes(100))
    if rng.random() < 0.5:
        (place / "manifest.json").write_text("{}\n")
    return "another's directory"


def linked(place, rng):
    """The same bytes, but somebody else's to change."""
    path = rng.choice(files(place))
    outside = place.parent / f"elsewhere-{path.name}"
    shutil.move(path, outside)
    path.symlink_to(outside if rng.random() < 0.8 else place.parent / "nothing")
    return f"{path.name} a link"


def swapped(place, rng):
    """Whole files, at each other's place."""
    a, b = rng.sample([p for p in files(place) if p.name not in ("manifest.json", "manifest.sha256")], 2)
    if a.read_bytes() == b.read_bytes():
        return truncated(place, rng)
    data = a.read_bytes()
    a.write_bytes(b.read_bytes())
    b.write_bytes(data)
    return f"{a.name} and {b.name} swapped"


def a_file(place, rng):
    shutil.rmtree(place)
    place.write_bytes(rng.randbytes(10))
    return "a file in its place"


FAULTS = [truncated, zeroed, flipped, lengthened, deleted, added, emptied, foreign, linked, swapped, a_file]


def test_a_thousand_damaged_checkpoints_are_all_detected(tmp_path):
    held = {
        "state.agent['policy']": np.arange(6, dtype=np.float32).reshape(2, 3),
        "state.clock": np.int32(7).reshape(()),
        "state.key": np.arange(2, dtype=np.uint32),
        "state.done": np.zeros(3, bool),
        "state.empty": np.zeros((0, 2)),
    }
    whole = tmp_path / "whole"
    checkpoint.save(whole, held, {"env_steps": 7, "logs": {}})
    rng, missed = random.Random(0), []
    detected = dict.fromkeys(FAULTS, 0)
    for trial in range(TRIALS):
        home = tmp_path / "trial"
        place = home / "one"
        shutil.copytree(whole, place)
        if trial % 100 == 0:  # a copy is as good as the original: what follows is due to the fault
            assert checkpoint.load(place)[1]["env_steps"] == 7
        fault = FAULTS[trial % len(FAULTS)]
        done = fault(place, rng)
        try:
            checkpoint.load(place)
            missed.append(f"{trial}: {done}")
        except Damaged as error:
            assert str(error), done
            detected[fault] += 1
        except Exception as error:
            missed.append(f"{trial}: {done}: {type(error).__name__}: {error}")
        shutil.rmtree(home)
    kinds = ", ".join(f"{fault.__name__} {count}" for fault, count in detected.items())
    print(f"\n{sum(detected.values())}/{TRIALS} damaged checkpoints detected: {kinds}")
    assert not missed, "\n".join([f"{len(missed)} of {TRIALS} not detected:", *missed[:20]])


def test_every_bit_of_the_manifest_and_its_digest_counts(tmp_path):
    place = tmp_path / "one"
    checkpoint.save(place, {"x": np.arange(3)}, {"env_steps": 7})
    flips = 0
    for name in ("manifest.json", "manifest.sha256"):
        data = (place / name).read_bytes()
        for at in range(len(data)):
            (place / name).write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
            with pytest.raises(Damaged, match=r"manifest\.json has changed"):
                checkpoint.read_manifest(place)
            flips += 1
        (place / name).write_bytes(data)
    checkpoint.load(place)
    print(f"\n{flips}/{flips} flipped bits detected")


# ---- a run whose checkpoints are damaged


@dataclass(frozen=True)
class Whole:
    """A run that nothing happened to."""

    config: jaxtrain.Config
    directory: Path
    rows: list
    arrays: dict

    def copy(self, to):
        shutil.copytree(self.directory, to)
        return to

    def same(self, directory):
        return arrays(directory) == self.arrays and rows(directory) == self.rows


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    config = tiny(
        updates=6,
        env=ENV,
        algorithm=Drift(),
        evaluation={"every": 24, "num_episodes": 2},
        logging={"every": 8, "sinks": ["jsonlines"]},
        checkpoint={"every": 16, "keep_last": 99},
    )
    directory = tmp_path_factory.mktemp("unbroken") / "run"
    launch(config, directory, seed=3, cache=False)
    return Whole(config, directory, rows(directory), arrays(directory))


def checkpoints(directory):
    return list(manager.found(directory / "checkpoints").values())


def relaunched(whole, directory):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ending = launch(whole.config, directory, cache=False)
    return ending, [str(w.message) for w in caught if w.category is RuntimeWarning]


QUICK = (truncated, flipped)


@pytest.mark.parametrize(
    "fault", [pytest.param(f, marks=() if f in QUICK else pytest.mark.slow) for f in FAULTS]
)
def test_a_damaged_checkpoint_is_set_aside_with_one_warning_and_the_run_ends_as_unbroken(
    whole, tmp_path, fault
):
    directory = whole.copy(tmp_path / "run")
    *older, newest = checkpoints(directory)
    fault(newest, random.Random(1))
    # A fault may leave what it moved away behind; it is no checkpoint.
    for path in newest.parent.glob("elsewhere-*"):
        shutil.move(path, tmp_path / path.name)
        for link in newest.rglob("*"):
            if link.is_symlink():
                link.unlink()
                link.symlink_to(tmp_path / path.name)
    damaged = listing(newest) if newest.is_dir() else newest.read_bytes()
    ending, said = relaunched(whole, directory)
    assert ending.resumed_at == int(older[-1].name)
    assert len(said) == 1, said
    assert newest.name in said[0] and "is damaged" in said[0] and f"{newest.name}.set-aside" in said[0]
    aside = newest.with_name(f"{newest.name}.set-aside")
    assert (listing(aside) if aside.is_dir() else aside.read_bytes()) == damaged
    assert whole.same(directory)
    assert ending.checkpoint == newest and checkpoint.verify(newest)
    assert relaunched(whole, directory)[1] == []  # said once


def test_two_damaged_ones_make_two_sentences_and_the_run_ends_as_unbroken(whole, tmp_path):
    directory = whole.copy(tmp_path / "run")
    *older, second, newest = checkpoints(directory)
    rng = random.Random(2)
    zeroed(second, rng)
    emptied(newest, rng)
    ending, said = relaunched(whole, directory)
    assert ending.resumed_at == int(older[-1].name)
    assert sorted(
        name for text in said for name in (second.name, newest.name) if f"checkpoint {name}" in text
    )
    assert len(said) == 2 and whole.same(directory)


def test_a_checkpoint_directory_that_is_a_link_is_set_aside_as_any_damaged_one(whole, tmp_path):
    """Not passed over in silence, and not in the way of the checkpoint that belongs there."""
    directory = whole.copy(tmp_path / "run")
    newest = checkpoints(directory)[-1]
    shutil.move(newest, tmp_path / "moved")
    newest.symlink_to(tmp_path / "moved")
    before = listing(tmp_path / "moved")
    _, said = relaunched(whole, directory)
    assert len(said) == 1 and newest.name in said[0]
    assert whole.same(directory) and listing(tmp_path / "moved") == before


def test_a_checkpoint_under_anothers_name_is_damage(whole, tmp_path):
    """One of an earlier moment, copied over the newest: every byte fits its manifest."""
    directory = whole.copy(tmp_path / "run")
    first, *_, newest = checkpoints(directory)
    shutil.rmtree(newest)
    shutil.copytree(first, newest)
    with pytest.raises(Damaged, match="is of 0 env steps"):
        for path in checkpoints(directory)[:-1]:
            shutil.rmtree(path)
        manager.newest_good(directory / "checkpoints")
    with pytest.raises(ConfigError, match="no checkpoint of it is whole"):
        launch(whole.config, directory, cache=False)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_run_without_a_whole_checkpoint_refuses_says_what_to_do_and_touches_nothing(whole, tmp_path, fault):
    directory = whole.copy(tmp_path / "run")
    rng = random.Random(3)
    for path in checkpoints(directory):
        fault(path, rng)
    before = listing(directory, but=["lock"])
    with pytest.raises(ConfigError) as error:
        launch(whole.config, directory, cache=False)
    message = str(error.value)
    assert "no checkpoint of it is whole" in message
    assert "restore one from a backup, or begin anew in another directory. Nothing was changed" in message
    for path in checkpoints(directory):
        assert path.name in message
    assert listing(directory, but=["lock"]) == before


def test_a_run_whose_checkpoints_were_deleted_is_not_begun_anew_in_silence(whole, tmp_path):
    for remove in (lambda place: shutil.rmtree(place), lambda place: [*map(shutil.rmtree, place.iterdir())]):
        directory = whole.copy(tmp_path / f"run{len(list(tmp_path.iterdir()))}")
        remove(directory / "checkpoints")
        before = listing(directory, but=["lock"])
        with pytest.raises(ConfigError, match="its log goes on, but checkpoints/ is empty; restore one"):
            launch(whole.config, directory, cache=False)
        assert listing(directory, but=["lock"]) == before


# ---- jaxtrain verify


def verify(capsys, *arguments):
    code = cli.main(["verify", *map(str, arguments)])
    return code, capsys.readouterr()


def test_verify_has_a_line_for_each_checkpoint_and_changes_nothing(whole, tmp_path, capsys):
    directory = whole.copy(tmp_path / "run")
    names = [path.name for path in checkpoints(directory)]
    manifests = [checkpoint.read_manifest(path) for path in checkpoints(directory)]
    values = [manifest["best"]["value"] for manifest in manifests]
    before = listing(directory)
    code, said = verify(capsys, directory)
    assert code == 0 and [line.split() for line in said.out.splitlines()] == [
        [name, "whole", manifest["reason"], *(["evaluation/return_mean", f"{value:g}"] if value else [])]
        for name, manifest, value in zip(names, manifests, values, strict=True)
    ]
    assert any(values) and not all(values)
    done = flipped(checkpoints(directory)[1], random.Random(4)).partition(":")[0]
    before = listing(directory)
    code, said = verify(capsys, directory)
    lines = said.out.splitlines()
    assert code == 1 and len(lines) == len(names)
    assert [line for line in lines if line.split()[1] != "whole"] == [lines[1]]
    assert lines[1].startswith(names[1]) and done in lines[1]
    assert listing(directory) == before
    shutil.rmtree(directory / "checkpoints")
    code, said = verify(capsys, directory)
    assert (code, said.out.splitlines()) == (1, ["no checkpoint yet"])
    code, said = verify(capsys, tmp_path / "nothing")
    assert code == 2 and "holds no run" in said.err and "nothing" in said.err


def test_replay_says_the_same_bits_or_names_the_first_array_that_differs(whole, tmp_path, capsys):
    directory = whole.copy(tmp_path / "run")
    before, after = (int(path.name) for path in checkpoints(directory)[-2:])
    code, said = verify(capsys, directory, "--replay")
    assert code == 0
    assert said.out.splitlines()[-1].startswith(f"replay from {before} to {after} env steps: the same bits")
    newest = checkpoints(directory)[-1]
    held, manifest = checkpoint.load(newest)
    name = next(n for n in held if n.startswith("state.agent") and "value" in n)
    held[name] = np.asarray(jnp.nextafter(jnp.asarray(held[name]), jnp.inf))  # the last bit of one array
    shutil.rmtree(newest)
    facts = {n: x for n, x in manifest.items() if n not in ("format", "arrays", "files")}
    checkpoint.save(newest, held, facts)
    code, said = verify(capsys, directory, "--replay")
    lines = said.out.splitlines()
    assert code == 1 and all(line.split()[1] == "whole" for line in lines[:-1])
    assert lines[-1].startswith(f"replay from {before} to {after} env steps: differs, first in {name}")


def test_replay_needs_two_whole_checkpoints_and_says_so(whole, tmp_path, capsys):
    directory = whole.copy(tmp_path / "run")
    for path in checkpoints(directory)[1:]:
        shutil.rmtree(path)
    code, said = verify(capsys, directory, "--replay")
    assert code == 2 and "needs two whole checkpoints" in said.err
