"""The benchmark scripts with tiny settings, on torch."""

import csv
import dataclasses
import importlib
import os
import pathlib
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from small_networks import shrunk

from focalnets import train
from focalnets.presets.load import build_architecture
from focalnets.training.recipe import load_recipe

BENCHMARKS = pathlib.Path(__file__).parents[1] / "benchmarks"

if keras.backend.backend() != "torch":
    pytest.skip("peers and scaling are measured on torch", allow_module_level=True)


@pytest.fixture
def run(tmp_path):
    """Function that runs a script. It returns the output, and rows of each result file by its first word."""

    def run(script, *arguments):
        environment = {**os.environ, "FOCALNETS_RESULTS": str(tmp_path), "KERAS_BACKEND": "torch"}
        command = [sys.executable, BENCHMARKS / script, *map(str, arguments)]
        ran = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        tables = {}
        for path in tmp_path.glob("*.csv"):
            with path.open() as file:
                tables[path.name.split("_")[0]] = list(csv.DictReader(file))
        return ran.stdout, tables

    return run


def assert_times(rows):
    for row in rows:
        assert 0 < float(row["min_s"]) <= float(row["median_s"]) <= float(row["max_s"]), row


@pytest.mark.slow
def test_bench_ops_writes_rows(run):
    printed, tables = run("bench_ops.py", "--rounds", 1, "--backends", "torch", "--shapes", "2,5,7,8,2")
    rows = tables["ops"]
    assert_times(rows)
    assert len(rows) == 6
    assert {row["direction"] for row in rows} == {"forward", "forward+backward"}
    assert {row["ratio_to_ours"] for row in rows if row["what"] == "focal_context"} == {"1.0"}
    assert "left out" not in printed


@pytest.mark.slow
def test_bench_models_compares_contenders(run):
    names = ("focalnets-torch", "plain-keras-torch", "tutorial-tensorflow")
    small = ("--network", "focalnet_pico", "--batch", 2, "--rounds", 1)
    printed, tables = run("bench_models.py", "--task", "training", *small, "--contenders", *names)
    ours, plain = tables["models"]
    assert_times((ours, plain))
    assert (ours["what"], plain["what"]) == names[:2]
    assert ours["parameters"] == plain["parameters"]
    assert (ours["ratio"], ours["ratio_to"], plain["ratio_to"]) == ("1.0", names[0], names[0])
    for row in (ours, plain):
        assert 0 < float(row["fraction_of_peak"]) < 1
        # The first step allocates gradients and the two slots of AdamW.
        assert float(row["peak_extra_mb"]) > 3 * 4 * int(row["parameters"]) / 1e6
        assert float(row["warmup_s"]) <= float(row["ready_s"])
    assert "left out: tutorial-tensorflow (supports only the network tutorial)" in printed


@pytest.mark.slow
def test_bench_scaling_fits_exponents(run, tmp_path):
    small = ("--sides", 8, 16, "--channels", 32, "--rounds", 1, "--directions", "forward")
    _, tables = run("bench_scaling.py", *small)
    rows, fits = tables["scaling"], tables["scaling-fits"]
    assert_times(rows)
    assert sorted({int(row["positions"]) for row in rows}) == [64, 256]
    assert len(rows) == 6
    assert fits[0]["what"] == "focal modulation"
    assert all(np.isfinite(float(fit["time_exponent"])) for fit in fits)  # small layers: may be 0
    assert list(tmp_path.glob("scaling_*.png"))


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)


@pytest.mark.slow
def test_interleave_reports_contenders_that_fail(scripts, tmp_path):
    import measure

    good = tmp_path / "good.py"
    good.write_text("import measure; measure.serve(lambda: None, note='fine')")
    dies = tmp_path / "dies.py"
    # Two steps warm up, one measures the length of a step, one is the first round.
    dies.write_text(
        "import measure, time\nsteps = []\n"
        "def step():\n"
        "    time.sleep(0.1); steps.append(0)\n"
        "    if len(steps) > 4: raise SystemExit('too many')\n"
        "measure.serve(step)"
    )
    environment = {"PYTHONPATH": str(BENCHMARKS)}
    commands = {
        "good": ([sys.executable, str(good)], environment),
        "absent": ([sys.executable, "-c", "import no_such_module"], {}),
        "dies": ([sys.executable, str(dies)], environment),
    }
    measured, left_out = measure.interleave(commands, rounds=3)
    assert list(measured) == ["good"]
    assert len(measured["good"].seconds[""]) == 3
    assert measured["good"].facts == {"note": "fine"}
    assert left_out == {
        "absent": "ModuleNotFoundError: No module named 'no_such_module'",
        "dies": "too many",
    }


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="only Linux can reset the peak")
def test_interleave_measures_memory_of_steps(scripts, tmp_path):
    """Memory that was freed before the first step does not count."""
    import measure

    script = tmp_path / "takes.py"
    script.write_text(
        "import measure\nbytearray(200_000_000)\nmeasure.serve(lambda: bytearray(50_000_000), warmup=1)"
    )
    measured, _ = measure.interleave(
        {"it": ([sys.executable, str(script)], {"PYTHONPATH": str(BENCHMARKS)})}, rounds=1
    )
    assert 45 < measured["it"].peak_extra_mb < 60


def test_crossing_and_exponent_of_known_curves(scripts):
    from bench_scaling import crossing, exponent

    sides = (10, 20, 40, 80)
    linear = [{"positions": s * s, "median_s": 5e-3 * s * s} for s in sides]
    quadratic = [{"positions": s * s, "median_s": 1e-5 * s**4} for s in sides]
    assert (exponent(linear, "median_s"), exponent(quadratic, "median_s")) == (1.0, 2.0)
    assert crossing(linear, quadratic, "median_s") == 500
    assert crossing(quadratic, linear, "median_s") == "not less at the largest common size"
    assert crossing(linear[2:], quadratic[2:], "median_s") == "less everywhere"


def in_order_of_use(network):
    """Variables of our network in the order of stock Keras layers."""
    parts = ("norm1", "modulation/f/", "modulation/focal", "modulation/h", "modulation/proj", "norm2", "fc")
    blocks = {}
    for variable in network.trainable_variables:
        blocks.setdefault(variable.path.split("/")[0], []).append(variable)
    for name, variables in blocks.items():
        if "block" in name:
            variables = [variable for part in parts for variable in variables if part in variable.path]
        yield from variables


@pytest.mark.slow
@pytest.mark.parametrize("name", ["focalnet_tiny_lrf", "focalnet_small_iso", "focalnet_nano", "tutorial"])
def test_plain_keras_equals_focalnets(scripts, name):
    """With equal weights, the logits are equal."""
    import plain_keras

    row = shrunk(name)
    shape = (64, 64, row.channels)
    ours, plain = build_architecture(row), plain_keras.build(row.backbone, shape, row.num_classes)
    generator = np.random.default_rng(0)
    for copy, value in zip(plain.trainable_variables, in_order_of_use(ours), strict=True):
        value.assign(0.5 * generator.standard_normal(value.shape))
        copy.assign(value)
    x = generator.standard_normal((2, *shape)).astype("float32")
    expected, found = (network.predict_on_batch(x) for network in (ours, plain))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.fixture
def keep_run(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("keep_run")


def test_table_of_recipes_matches_stored_runs(keep_run):
    text = keep_run.README.read_text()
    assert text.split(keep_run.BEGIN)[1].split(keep_run.END)[0] == keep_run.table()


@pytest.mark.slow
def test_keep_run_stores_records(keep_run, monkeypatch, tmp_path):
    monkeypatch.setattr(keep_run.measure, "RESULTS", tmp_path / "results")
    (tmp_path / "results").mkdir()
    recipe = dataclasses.replace(load_recipe("digits"), epochs=1)
    result = train(recipe, out=tmp_path / "run", monitor_every=0, verbose=0)
    keep_run.keep(result.directory)
    (row,) = keep_run.rows()
    found = dict(zip(keep_run.COLUMNS, row, strict=True))
    assert found["recipe"] == "digits"
    assert found["epochs"] == 1
    assert found["parameters"] == "0.14 M"
    assert found["test"] == f"{result.test_accuracy:.2%}"
    assert found["validation"] == f"{max(one['val_accuracy'] for one in result.history):.2%}"
    assert found["minutes to 68.8 %"] in ("0", "never")
    stored = "".join(path.read_text() for path in (tmp_path / "results").iterdir())
    assert str(tmp_path) not in stored
    assert found["changes to the recipe"] == ""
    recipe = dataclasses.replace(recipe, ema_decay=0.5)
    again = train(recipe, out=tmp_path / "again", monitor_every=0, verbose=0)
    keep_run.keep(again.directory)
    first, second = (dict(zip(keep_run.COLUMNS, row, strict=True)) for row in keep_run.rows())
    assert first == found, "an earlier run of the same day was overwritten"
    assert second["changes to the recipe"] == "ema_decay 0.5"


@pytest.fixture
def gpu_session(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.syspath_prepend(str(pathlib.Path(__file__).parent / "models"))  # test_parity.py
    return importlib.import_module("gpu_session")


@pytest.mark.slow
@pytest.mark.parametrize(
    "part", ["ceilings", "correctness", "train_step", "depthwise", "speed", "kernel_speed"]
)
def test_gpu_session_rehearses_every_part(gpu_session, part, tmp_path):
    """Without the Triton kernels, the compiler and parts that need a GPU."""
    assert gpu_session.main(part, str(tmp_path), str(time.time() + 600), "--rehearse") == 0
    rows = []
    for path in tmp_path.iterdir():
        with path.open() as file:
            rows += csv.DictReader(file)
    assert all(row["backend"] == "torch" and "keras" in row["versions"] for row in rows)
    assert {row.get("ok", "True") for row in rows} == {"True"}
    assert_times([row for row in rows if "median_s" in row])
    if part == "speed":
        assert {"focalnets predict", "focalnets fit, 10 steps", "focalnets bare eager training"} <= {
            row["what"] for row in rows
        }


def test_gpu_session_continues_after_a_failure(gpu_session, tmp_path, capsys):
    part = gpu_session.Part(tmp_path, time.time() + 600, rehearse=True)
    calls = []

    def breaks():
        calls.append(1)
        if len(calls) > 5:  # in the second round
            raise RuntimeError("illegal memory access")

    def never():
        raise RuntimeError("not here")

    contenders = {"good": (time.time, 1), "breaks": (breaks, 1), "never": (never, 1)}
    rows = {row["what"]: row for row in gpu_session.interleaved(part, contenders, 4)}
    assert {name: row["rounds"] for name, row in rows.items()} == {"good": 4, "breaks": 1}
    printed = capsys.readouterr().out
    assert "breaks: failed in round 1 (RuntimeError: illegal memory access)" in printed
    assert "never: left out (RuntimeError: not here)" in printed
    assert "not enough time" not in printed
    late = dataclasses.replace(part, deadline=time.time() + 20)
    assert gpu_session.interleaved(late, contenders, 4, compiling=30) == []
    assert "good: left out, not enough time" in capsys.readouterr().out
    assert [row["what"] for row in gpu_session.interleaved(late, {"good": contenders["good"]}, 4)] == ["good"]


@pytest.mark.slow
def test_processes_are_compared_with_one(run):
    _, tables = run(
        "bench_processes.py",
        "equality",
        "--python",
        f"torch={sys.executable}",
        "--settings",
        "plain",
        "--counts",
        2,
    )
    (row,) = tables["processes-equality"]
    assert row["processes"] == "2"
    assert 0 < float(row["weights"]) < 1e-4
    assert "momentum" in row["worst_of_moments"] or "velocity" in row["worst_of_moments"]
    assert float(row["val_accuracy"]) < 0.01


@pytest.mark.slow
def test_bulk_jobs_are_compared(run):
    pytest.importorskip("ray.data")
    options = ("--images", 120, "--per-shard", 10, "--rounds", 1, "--engine", "keras", "--size", 32)
    printed, tables = run("bench_bulk.py", "speed", *options)
    rows = tables["bulk-speed"]
    assert [row["what"].split()[0] for row in rows] == ["one", "one", "Ray,"]
    assert all(float(row["images_per_s"]) > 0 and float(row["middle_images_per_s"]) > 0 for row in rows)
    assert max(float(row["ratio"]) for row in rows[:2]) == 1
    assert printed.count("images per second") == 3
