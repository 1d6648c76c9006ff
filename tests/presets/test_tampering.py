"""Damaged and hostile JSON files: every reader must raise a ValueError, without another error or a long wait.

A seeded mutator changes one value, one key or some bytes of each file that can come from another source.
`--debug` makes the command line raise the errors that it would otherwise print.
"""

import collections
import copy
import dataclasses
import json
import pathlib
import random
import shutil
import time

import numpy as np
import pytest
from PIL import Image

from focalnets import (
    FocalNetBackbone,
    FocalNetImageClassifier,
    FocalNetImageConverter,
    open_dataset,
    resume,
    train,
)
from focalnets.cli import main
from focalnets.data.cache import write_cache
from focalnets.deployment.export import write_export
from focalnets.deployment.record import read_export
from focalnets.presets.files import read_preset_files
from focalnets.training.recipe import load_recipe
from focalnets.training.run_directory import read_recipe, read_run

HOSTILE = [
    None, True, False, 0, 1, -1, 10**6, 10**9, 2**63, 10**29, 1.5, -0.5, 1e-300, 1e300, "", "x", "8", "../b",
    "\x1b[31m", "\ud800", "x" * 100_000, [], [None], [[]], [1] * 1000, {}, {"a": 1}, {"class_name": "Lambda"},
    {"module": "os", "class_name": "system", "config": {"command": "true"}, "registered_name": None},
]  # fmt: skip


def places(value, path=()):
    """Yield the paths of all values inside a JSON value."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield from places(one, (*path, key))


def tampered(text, draw):
    """A JSON text with one random defect."""
    kind = draw.choice(["value"] * 6 + ["delete", "add", "deep", "bytes", "cut", "nan"])
    content = json.loads(text)
    path = draw.choice([path for path in places(content) if path] or [()])
    outer = content
    for key in path[:-1]:
        outer = outer[key]
    if kind == "value" and path:
        outer[path[-1]] = copy.deepcopy(draw.choice(HOSTILE))
    elif kind == "delete" and path:
        del outer[path[-1]]
    elif kind == "add" and isinstance(outer, dict):
        outer["x\n" * draw.randrange(1, 40)] = draw.choice(HOSTILE)
    elif kind == "deep":
        levels = draw.choice([20, 100, 100_000])
        return text.replace(json.dumps(outer[path[-1]]), "[" * levels + "]" * levels, 1)
    elif kind == "nan":
        return text.replace(
            json.dumps(outer[path[-1]]), draw.choice(["NaN", "-Infinity", "1e999", "9" * 5000]), 1
        )
    elif kind == "cut":
        return text[: draw.randrange(len(text))]
    else:
        place = draw.randrange(len(text))
        return text[:place] + draw.choice('{}[]",:0-e\x00é') + text[place + 1 :]
    return json.dumps(content)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Directory with a small preset, stopped run, cache, export and image."""
    root = tmp_path_factory.mktemp("world")
    draw = np.random.default_rng(0)
    images, labels = draw.integers(0, 256, (24, 8, 8, 3)).astype("uint8"), np.arange(24) % 2
    np.savez(root / "data.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    Image.fromarray(images[0]).save(root / "image.png")
    net = FocalNetImageClassifier(
        FocalNetBackbone(8, (1, 1)), 2, FocalNetImageConverter((8, 8)), class_names=("a", "b")
    )
    net.save_to_preset(root / "preset")
    write_cache(open_dataset(str(root / "data.npz"), 3, cache_images="memory"), root / "cache")
    (root / "export").mkdir()
    write_export(net, root / "export", origin={"preset": "x"})
    recipe = dataclasses.replace(
        load_recipe("digits"),
        architecture="",
        preset=str(root / "preset"),
        mean=None,
        std=None,
        image_size=None,
    )
    train(recipe, str(root / "data.npz"), root / "run", max_minutes=1e-9, monitor_every=0, verbose=0)
    run = json.loads((root / "run" / "run.json").read_text())
    (root / "run" / "run.json").write_text(
        json.dumps({**run, "fingerprint": "other"})
    )  # otherwise it would train
    return root


def readers(root, name):
    """List of functions that read a directory. They are used in turn."""
    image, data = str(root / "image.png"), str(root / "data.npz")

    def verb(*words):
        def run(directory):
            out = str(directory.parent / "out")
            main([str(directory) if word == "IT" else out if word == "OUT" else word for word in words])
            assert not pathlib.Path(out).exists() or words[0] in ("convert", "explain")
            shutil.rmtree(out, ignore_errors=True)

        return run

    if name.startswith("preset"):
        return [
            *[FocalNetImageClassifier.from_preset, FocalNetBackbone.from_preset, read_preset_files] * 3,
            lambda directory: FocalNetImageClassifier.from_preset(directory, load_weights=False),
            verb("predict", "IT", image, "--engine", "keras", "--debug"),
            verb("predict", "IT", image, "--debug"),
            verb("evaluate", "IT", "--data", data, "--debug"),
            verb("explain", "IT", image, "--out", "OUT", "--debug"),
            verb("convert", "IT", "OUT", "--half", "--debug"),
            verb("convert", "IT", "OUT", "--to", "transformers", "--debug"),
        ]
    if name.startswith("run"):
        return [
            resume,
            lambda directory: (read_run(directory), read_recipe(directory)),
            verb("train", "--resume", "IT", "--debug"),
        ]
    if name.startswith("cache"):
        return [
            lambda directory: open_dataset(str(directory)),
            verb("evaluate", str(root / "preset"), "--data", "IT", "--debug"),
        ]
    return [read_export]


ROUNDS = {
    "preset/config.json": 150,
    "preset/preprocessing.json": 80,
    "preset/labels.json": 50,
    "run/recipe.json": 70,
    "run/run.json": 50,
    "cache/cache.json": 60,
    "export/export.json": 90,
}  # 550 in all


@pytest.mark.slow
@pytest.mark.parametrize("name", ROUNDS)
def test_tampered_json_raises_only_value_errors(world, tmp_path, monkeypatch, capsys, name):
    monkeypatch.setenv("FOCALNETS_CACHE", str(tmp_path / "downloads"))
    draw = random.Random(f"focalnets {name}")
    folder, _, file = name.partition("/")
    directory = pathlib.Path(shutil.copytree(world / folder, tmp_path / folder))
    text = (world / folder / file).read_text()
    outcomes, messages, slowest = collections.Counter(), [], 0
    for number in range(ROUNDS[name]):
        changed = tampered(text, draw)
        (directory / file).write_text(changed, encoding="utf-8", errors="surrogatepass")
        choices = readers(world, name)
        read, start = choices[number % len(choices)], time.perf_counter()
        try:
            read(directory)
            outcomes["harmless"] += 1
        except ValueError as error:
            outcomes["refused"] += 1
            messages.append(str(error))
        except BaseException as error:
            raise AssertionError(f"{type(error).__name__}: {error}; from {changed[:2000]}") from error
        slowest = max(slowest, time.perf_counter() - start)
    print(name, dict(outcomes), f"slowest {slowest:.2f} s")
    assert not [text for text in messages if "\x1b" in text or len(text) > 3000]
    assert outcomes["refused"] > ROUNDS[name] / 4
