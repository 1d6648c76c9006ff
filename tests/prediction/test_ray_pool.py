"""Shards on a Ray cluster: the rows of one process, also when workers, machines or the driver are killed.

Each test runs a driver in a process of its own. A hook in the workers makes them slow, and notes who starts
which shard.
"""

import importlib.util
import io
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tarfile
import time

import keras
import pytest
from PIL import Image

import focalnets
from focalnets.cli import main
from focalnets.prediction.bulk import evaluate_shards, predict_shards

if any(importlib.util.find_spec(name) is None for name in ("ray", "pandas")):  # pandas: of Ray Data
    pytest.skip("no Ray Data", allow_module_level=True)
if keras.backend.backend() != "torch":
    pytest.skip("the pool does not depend on the backend", allow_module_level=True)
pytest.importorskip("pyarrow")
from pyarrow import parquet

pytestmark = pytest.mark.slow

SHARDS, IMAGES = 8, 30  # shards, and images of a shard

DRIVER = """
import json, os, sys, time
import ray
from focalnets.prediction import bulk

given = json.loads(sys.argv[1])

def prepare_worker():
    import os, time
    import ray
    from focalnets.prediction.shard_jobs import ShardWorker

    original = ShardWorker._rows

    def noted(self, index, images):
        node = ray.get_runtime_context().get_node_id()
        with open(given["log"], "a") as log:
            log.write(f"{os.getpid()} {index} {node}\\n")
        if index in given["deadly"]:
            os._exit(1)
        for row in original(self, index, images):
            time.sleep(given["delay"])
            yield row

    ShardWorker._rows = noted

hook = {"worker_process_setup_hook": prepare_worker}
options = {"include_dashboard": False, "log_to_driver": False, "runtime_env": hook}
if given["machines"] > 1:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    machines = [cluster.add_node(num_cpus=1) for _ in range(given["machines"] - 1)]
    ray.init(cluster.address, log_to_driver=False, runtime_env=hook)
    if given["lose"]:
        import threading

        def lose():
            while True:  # until the machine works on a shard
                time.sleep(0.05)
                lines = open(given["log"]).read().splitlines() if os.path.exists(given["log"]) else []
                if any(line.endswith(machines[0].node_id) for line in lines):
                    break
            time.sleep(0.3)
            cluster.remove_node(machines[0], allow_graceful=False)

        threading.Thread(target=lose, daemon=True).start()
else:
    ray.init("local", num_cpus=2, **options)
try:
    result = getattr(bulk, given["function"])(
        given["preset"], given["manifest"], given["out"], engine="keras", ray="auto", **given["more"]
    )
    print("@", json.dumps([result.images, result.unreadable, result.skipped, result.accuracy]), flush=True)
finally:
    ray.shutdown()
    if given["machines"] > 1:
        cluster.shutdown()
"""


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Manifest of `SHARDS` tar files of `IMAGES` digits. The image 7 of each is damaged."""
    folder, digits = tmp_path_factory.mktemp("shards"), focalnets.open_dataset("digits", channels=1)
    images, labels = digits.splits["test"].images, digits.splits["test"].labels
    for shard in range(SHARDS):
        with tarfile.open(folder / f"{shard}.tar", "w") as archive:
            for row in range(IMAGES):
                stream = io.BytesIO()
                Image.fromarray(images[shard * IMAGES + row][..., 0]).save(stream, "PNG")
                data = stream.getvalue()[: 60 if row == 7 else None]
                label = str(labels[shard * IMAGES + row]).encode()
                for name, content in ((f"{row:03}.png", data), (f"{row:03}.cls", label)):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    path = folder / "shards.txt"
    path.write_text("\n".join(f"{shard}.tar" for shard in range(SHARDS)))
    return path


@pytest.fixture
def drive(manifest, tiny_preset, tmp_path):
    """Function that starts a driver and returns its process, and a function that reads the workers' notes."""
    log, running = tmp_path / "log", []

    def start(function="predict_shards", delay=0.0, deadly=(), machines=1, lose=False, **more):
        given = {"function": function, "preset": tiny_preset, "manifest": str(manifest), "log": str(log)}
        given |= {"out": str(tmp_path / "out"), "delay": delay, "deadly": deadly, "machines": machines}
        command = [sys.executable, "-c", DRIVER, json.dumps({**given, "lose": lose, "more": more})]
        environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "KERAS_BACKEND": "torch"}
        environment.pop("RAY_ADDRESS", None)
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        running.append(process)
        return process

    def notes():
        """(process, shard, machine) for each start of a shard."""
        lines = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
        return [(int(pid), int(shard), node) for pid, shard, node in lines]

    yield start, notes
    for process in running:
        if process.poll() is None:
            process.kill()
            process.communicate(timeout=60)


def answer(process):
    """(images, unreadable, skipped, accuracy) that a driver prints."""
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err[-3000:]
    (line,) = [line for line in out.splitlines() if line.startswith("@ ")]
    return json.loads(line[2:])


def rows_of(out):
    """Rows of all files of a folder, which has nothing else. Every image is one row."""
    files = sorted(out.iterdir())
    assert [path.name for path in files] == [f"shard-{shard:06}.parquet" for shard in range(SHARDS)]
    rows = [row for path in files for row in parquet.read_table(path).to_pylist()]
    assert [(row["shard"], row["row"]) for row in rows] == [
        (shard, row) for shard in range(SHARDS) for row in range(IMAGES)
    ]
    return rows


def in_progress(process, notes, out):
    """Wait until shards are done and others are not. Returns (process, shard) of one that is being done."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        assert process.poll() is None, process.communicate()[1][-3000:]
        done = {path.name for path in out.glob("*.parquet")} if out.exists() else set()
        current = [(pid, shard) for pid, shard, _ in notes() if f"shard-{shard:06}.parquet" not in done]
        if done and current:
            return current[-1]
        time.sleep(0.01)
    raise AssertionError("no shard was done in time")


def is_running(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("function", ["predict_shards", "evaluate_shards"])
def test_rows_are_those_of_one_process(manifest, tiny_preset, tmp_path, drive, function):
    start, notes = drive
    plain = {"predict_shards": predict_shards, "evaluate_shards": evaluate_shards}[function](
        tiny_preset, manifest, tmp_path / "plain", engine="keras"
    )
    found = answer(start(function))
    assert found == [plain.images, plain.unreadable, 0, plain.accuracy]
    for row, expected in zip(rows_of(tmp_path / "out"), rows_of(tmp_path / "plain"), strict=True):
        for name, value in expected.items():
            is_number = name in ("probabilities", "confidence", "probability") and value is not None
            assert row[name] == (pytest.approx(value, rel=1e-4) if is_number else value), row
    assert len(notes()) == SHARDS
    assert len({pid for pid, _, _ in notes()}) == 2, "both workers take part"


def test_killed_worker_is_replaced_and_every_image_is_one_row(tmp_path, drive):
    start, notes = drive
    process = start(delay=0.03)
    pid, shard = in_progress(process, notes, tmp_path / "out")
    os.kill(pid, signal.SIGKILL)
    assert answer(process)[:3] == [SHARDS * IMAGES, SHARDS, 0]
    (left,) = (tmp_path / "out").glob(".*")  # what the worker was writing
    shutil.rmtree(left)
    rows_of(tmp_path / "out")
    starts = [one for _, one, _ in notes()]
    assert starts.count(shard) == 2, "the shard was repeated"
    assert sorted(set(starts)) == list(range(SHARDS))
    assert len({worker for worker, _, _ in notes()}) > 2


def test_killed_driver_can_be_started_again(tmp_path, drive):
    start, notes = drive
    out = tmp_path / "out"
    process = start(delay=0.03)
    in_progress(process, notes, out)
    process.kill()
    process.communicate(timeout=60)
    end = time.monotonic() + 60
    while any(is_running(pid) for pid, _, _ in notes()):
        assert time.monotonic() < end, "workers outlive their driver"
        time.sleep(0.1)
    done = {path.name: path.stat().st_ino for path in out.glob("*.parquet")}
    assert 0 < len(done) < SHARDS
    before = len(notes())
    found = answer(start())
    assert found[:3] == [SHARDS * IMAGES, SHARDS, len(done)]
    assert {name: (out / name).stat().st_ino for name in done} == done, "complete shards are not touched"
    again = {shard for _, shard, _ in notes()[before:]}
    assert again == {shard for shard in range(SHARDS) if f"shard-{shard:06}.parquet" not in done}
    leftovers = [path for path in out.iterdir() if not path.name.endswith(".parquet")]
    manifest = str(pathlib.Path(json.loads(process.args[3])["manifest"]))
    preset = json.loads(process.args[3])["preset"]
    words = ["predict", preset, "--manifest", manifest, "--out", str(out)]
    assert main([*words, "--merge", str(tmp_path / "all.parquet")]) == 0
    assert not any(path.exists() for path in leftovers), "merging removes what killed processes leave"
    rows_of(out)
    assert parquet.read_metadata(tmp_path / "all.parquet").num_rows == SHARDS * IMAGES


def test_lost_machine_of_a_cluster_is_replaced_by_the_others(tmp_path, drive):
    start, notes = drive
    # A shard takes 4.5 seconds, because the worker of a lost machine may take a second or more to end.
    assert answer(start(delay=0.15, machines=2, lose=True))[:3] == [SHARDS * IMAGES, SHARDS, 0]
    for path in (tmp_path / "out").glob(".*"):  # what the lost machine was writing
        shutil.rmtree(path)
    rows_of(tmp_path / "out")
    machines = {node for _, _, node in notes()}
    assert len(machines) == 2, "both machines take part"
    assert len(notes()) > SHARDS, "a shard of the lost machine was repeated"


def test_shard_that_kills_its_workers_does_not_stop_the_others(tmp_path, drive):
    start, notes = drive
    process = start(deadly=[2])
    _, error = process.communicate(timeout=240)
    assert process.returncode != 0
    assert "ValueError: 1 of 8 shards failed" in error
    assert "2.tar: its worker was killed 6 times" in error
    assert len(list((tmp_path / "out").glob("*.parquet"))) == SHARDS - 1
    assert [shard for _, shard, _ in notes()].count(2) == 6


def test_command_line_starts_a_cluster_and_lists_failed_shards(manifest, tiny_preset, tmp_path):
    (tmp_path / "damaged.tar").write_bytes((manifest.parent / "0.tar").read_bytes()[:9000])
    listed = tmp_path / "shards.txt"
    listed.write_text(f"{manifest.parent / '0.tar'}\ndamaged.tar\n{manifest.parent / '1.tar'}")
    words = ["embed", tiny_preset, "--manifest", str(listed), "--out", str(tmp_path / "out")]
    command = [sys.executable, "-m", "focalnets", *words, "--engine", "keras", "--ray", "local"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert ran.returncode == 2, ran.stderr
    assert "focalnets: 1 of 3 shards failed:" in ran.stderr
    assert "damaged.tar: " in ran.stderr
    assert "Traceback" not in ran.stderr
    (tmp_path / "damaged.tar").write_bytes((manifest.parent / "0.tar").read_bytes())
    ran = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert ran.returncode == 0, ran.stderr
    assert "90 images in 3 shards, 2 done before; 3 unreadable" in ran.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ray", "127.0.0.1:1"], "The Ray cluster '127.0.0.1:1' cannot be reached"),
        (["--ray", "nonsense"], "The Ray cluster 'nonsense' cannot be reached"),
        (["--ray", "local", "--ray-cpus", "5000"], "No machine of the Ray cluster 'local' has 5000 cores"),
        (["--ray", "local", "--ray-gpus", "1"], "1.0 GPUs for a worker"),
    ],
)
def test_wrong_clusters_are_reported(manifest, tiny_preset, tmp_path, options, message):
    words = ["predict", tiny_preset, "--manifest", str(manifest), "--out", str(tmp_path / "out"), *options]
    ran = subprocess.run(
        [sys.executable, "-m", "focalnets", *words], capture_output=True, text=True, timeout=120
    )
    assert ran.returncode in (1, 2), ran.stdout
    assert message in ran.stderr
    assert "Traceback" not in ran.stderr
    assert "bug" not in ran.stderr
