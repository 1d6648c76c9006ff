"""Runs on several processes end with the weights of a run on one process, to rounding."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time

import keras
import numpy as np
import pytest

import focalnets
from focalnets.data.batch_part import BatchPart
from focalnets.data.loader import Loader
from focalnets.images.augment import Augmentation
from focalnets.training.launch import Launch, first_host, needed_launch, read_launch
from focalnets.training.task import ImageClassification

# Training of a few digits in a process. Batches of 32 of 225 images: the last one has one image.
TRAIN = """
    import json, sys
    import focalnets
    from focalnets.images.augment import Augmentation
    from focalnets.training.recipe import Recipe

    data, preset, out, settings = sys.argv[1:5]
    settings = json.loads(settings)
    if settings.pop("resume", False):
        result = focalnets.resume(out, verbose=0, **settings)
    else:
        recipe = Recipe(
            "everything", data, preset=preset, epochs=2, batch_size=32, optimizer="muon", accumulation=2,
            ema_decay=0.9, drop_path_rate=0.2, dropout_rate=0.1, class_weights="balanced", clip_norm=1.0,
            label_smoothing=0.1, layer_decay=0.8, keep_weights="last",
            augmentation=Augmentation(pad_crop=1, mixup=0.4, cutmix=0.5, erasing=0.2),
        )
        result = focalnets.train(recipe, out=out, monitor_every=0, verbose=0, **settings)
    print("complete" if result.complete else "stopped")
"""


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Started:
    """Processes that run the same program, each with its number in the variables of Keras."""

    def __init__(self, count, program, *arguments):
        self.running = []
        port = free_port()
        for rank in range(count):
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
            environment["KERAS_BACKEND"] = keras.backend.backend()
            if count > 1:
                environment["KERAS_DISTRIBUTION_JOB_ADDRESSES"] = f"127.0.0.1:{port}"
                environment["KERAS_DISTRIBUTION_NUM_PROCESSES"] = str(count)
                environment["KERAS_DISTRIBUTION_PROCESS_ID"] = str(rank)
            command = [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)]
            streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
            self.running.append(subprocess.Popen(command, env=environment, **streams))

    def outputs(self, timeout=240):
        """Outputs of all processes, after their end."""
        try:
            return [one.communicate(timeout=timeout)[0] for one in self.running]
        finally:
            for one in self.running:
                one.kill()

    def codes(self):
        return [one.returncode for one in self.running]


def run(count, *arguments):
    started = Started(count, TRAIN, *arguments)
    outputs = started.outputs()
    assert started.codes() == [0] * count, "\n".join(outputs)
    return outputs


def differences(directory, other):
    """Largest difference of each array of two snapshots, relative to its largest number."""
    one, two = (np.load(path / "last.npz") for path in (directory, other))
    names = json.loads(str(one["meta"]))["names"]
    found = {}
    for index, name in enumerate(names):
        a, b = (np.float64(arrays[f"{index:05}"]) for arrays in (one, two))
        if not name.endswith(("/count", "/total")):  # of the last validation, with padding
            found[name] = np.abs(a - b).max() / max(np.abs(a).max(), 1e-30)
    return found


def assert_same_run(directory, other):
    found = differences(directory, other)
    assert any("average" in name for name in found)
    assert any("velocity" in name for name in found)
    worst = max(found, key=found.get)
    # Rounding differs by the order of sums. Adam amplifies it where the sum of a gradient cancels.
    assert found[worst] < 1e-4, (worst, found[worst])
    one, two = (json.loads(str(np.load(path / "last.npz")["meta"]))["rows"] for path in (directory, other))
    for row, expected in zip(one, two, strict=True):
        for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
            assert row[name] == pytest.approx(expected[name], rel=1e-5), name


@pytest.fixture(scope="module")
def alone(few_digits, tiny_preset, tmp_path_factory):
    """Run directory of one process."""
    out = tmp_path_factory.mktemp("alone") / "run"
    run(1, few_digits, tiny_preset, out, "{}")
    return out


skip_tensorflow = pytest.mark.skipif(
    keras.backend.backend() == "tensorflow", reason="TensorFlow trains on one process"
)


@pytest.fixture(scope="module")
def stopped(few_digits, tiny_preset, tmp_path_factory):
    """Directory of a run of two processes that its time limit stopped after the first batch."""
    out = tmp_path_factory.mktemp("stopped") / "run"
    outputs = run(2, few_digits, tiny_preset, out, '{"max_minutes": 1e-9}')
    assert ["stopped\n" in text for text in outputs] == [True, True]
    meta = json.loads(str(np.load(out / "last.npz")["meta"]))
    assert (meta["epoch"], meta["batch"]) == (0, 1)
    return out


@pytest.mark.slow
@pytest.mark.all_backends
@skip_tensorflow
@pytest.mark.parametrize("model_parallel", [1, 2])
def test_two_processes_train_as_one(few_digits, tiny_preset, alone, stopped, tmp_path, model_parallel):
    """Each has the whole network, or one half."""
    if model_parallel > 1 and keras.backend.backend() != "jax":
        pytest.skip("only JAX splits networks")
    shutil.copytree(stopped, tmp_path / "run")
    settings = json.dumps({"resume": True, "model_parallel": model_parallel})
    outputs = run(2, few_digits, tiny_preset, tmp_path / "run", settings)
    assert ["complete\n" in text for text in outputs] == [True, True]
    assert_same_run(tmp_path / "run", alone)
    classifier = focalnets.FocalNetImageClassifier.from_preset(tmp_path / "run")
    reference = focalnets.FocalNetImageClassifier.from_preset(alone)
    for found, expected in zip(classifier.get_weights(), reference.get_weights(), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    facts = [json.loads((path / "evaluation.json").read_text()) for path in (tmp_path / "run", alone)]
    assert facts[0]["top1"] == facts[1]["top1"]


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "torch", reason="the same code on every backend")
def test_resume_with_other_numbers_of_processes(few_digits, tiny_preset, alone, stopped, tmp_path):
    arguments = few_digits, tiny_preset, tmp_path / "run"
    shutil.copytree(stopped, tmp_path / "run")
    run(3, *arguments, '{"resume": true, "max_minutes": 1e-9}')
    run(1, *arguments, '{"resume": true}')
    assert_same_run(tmp_path / "run", alone)


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "torch", reason="the same code on every backend")
@pytest.mark.parametrize(("rank", "number"), [(0, signal.SIGTERM), (1, signal.SIGINT), (1, signal.SIGKILL)])
def test_all_processes_stop_when_one_is_stopped(few_digits, tiny_preset, alone, tmp_path, rank, number):
    slowly = TRAIN.replace(
        "    data, preset",
        """    import time
    from focalnets.training import run_recorder

    original = run_recorder.RunRecorder.on_train_batch_end

    def slow(self, batch, logs=None):
        print("batch", batch)
        time.sleep(0.2)
        original(self, batch, logs)

    run_recorder.RunRecorder.on_train_batch_end = slow
    run_recorder.SNAPSHOT_MINUTES = 0.005
    data, preset""",
    )
    started = Started(2, slowly, few_digits, tiny_preset, tmp_path / "run", "{}")
    for line in started.running[rank].stdout:
        if line.startswith("batch 3"):
            break
    started.running[rank].send_signal(number)
    begin = time.monotonic()
    outputs = started.outputs(timeout=30)
    assert time.monotonic() - begin < 20
    assert all(started.codes()), outputs
    if number == signal.SIGKILL:
        assert "Another process of the run ended. See its message" in outputs[1 - rank]
    else:
        assert "Another process of the run received a signal" in outputs[1 - rank]
    run(2, few_digits, tiny_preset, tmp_path / "run", '{"resume": true}')
    assert_same_run(tmp_path / "run", alone)


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "torch", reason="the same code on every backend")
def test_a_process_that_fails_ends_the_others(few_digits, tiny_preset, tmp_path):
    """Process 1 has no data. Then process 0 refuses to replace a directory, which only it checks."""
    program = TRAIN.replace("    settings = json", "    data += sys.argv[5]\n    settings = json")
    program = program.replace(
        "sys.argv[5]", "f\"/{__import__('os').environ['KERAS_DISTRIBUTION_PROCESS_ID']}\""
    )
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "0").symlink_to(few_digits)
    started = Started(2, program, tmp_path / "data", tiny_preset, tmp_path / "run", "{}")
    outputs = started.outputs()
    assert all(started.codes())
    assert "Process 1 of 2 failed. See its message." in outputs[0]
    assert "is not a data set" in outputs[1]
    (tmp_path / "run").mkdir(exist_ok=True)
    (tmp_path / "run" / "mine.txt").write_text("mine")
    started = Started(2, TRAIN, few_digits, tiny_preset, tmp_path / "run", "{}")
    outputs = started.outputs()
    assert "is not empty" in outputs[0]
    assert "Process 0 of 2 failed" in outputs[1]


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "torch", reason="the same code on every backend")
def test_processes_with_different_settings_or_snapshots(few_digits, tiny_preset, stopped, tmp_path):
    rank = "__import__('os').environ['KERAS_DISTRIBUTION_PROCESS_ID']"
    other_rate = TRAIN.replace("layer_decay=0.8", f"layer_decay=0.8 + 0.1 * int({rank})")
    other_run = TRAIN.replace("    settings = json", f"    out += {rank}\n    settings = json", 1)
    shutil.copytree(stopped, tmp_path / "run0")
    shutil.copytree(stopped, tmp_path / "run1")
    (tmp_path / "run1" / "last.npz").unlink()
    for program, settings, text in (
        (other_rate, "{}", "The processes have different settings"),
        (other_run, '{"resume": true}', "The processes have different snapshots (or only some resume)"),
    ):
        started = Started(2, program, few_digits, tiny_preset, tmp_path / "run", settings)
        outputs = started.outputs()
        assert all(started.codes())
        assert all(text in output for output in outputs), outputs


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "torch", reason="tests torch")
def test_fully_shard_is_refused(tiny_preset):
    import torch.distributed as dist
    from torch.distributed.fsdp import fully_shard

    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{free_port()}", rank=0, world_size=1)
    try:
        classifier = focalnets.FocalNetImageClassifier.from_preset(tiny_preset)
        classifier.compile()
        images, labels = np.zeros((2, 8, 8, 1), "uint8"), np.array([0, 1])
        for layer in classifier._flatten_layers():
            list(layer.parameters())  # Keras makes them on demand, and fully_shard accepts no new ones
        fully_shard(classifier, mesh=dist.device_mesh.init_device_mesh("cpu", (1,)))
        with pytest.raises(RuntimeError, match="after torch's fully_shard"):
            classifier.fit(images, labels, verbose=0)
        with pytest.raises(RuntimeError, match="gradients would not be averaged"):
            classifier.train_on_batch(images, labels)
    finally:
        dist.destroy_process_group()


@pytest.mark.all_backends
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="tests TensorFlow")
def test_tensorflow_refuses_several_processes(few_digits, tiny_preset, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "1")
    with pytest.raises(ValueError, match="MultiWorkerMirroredStrategy does not work with Keras 3"):
        focalnets.train("finetune", few_digits, tmp_path / "run", preset=tiny_preset, distributed=True)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        (
            {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
            | {"MASTER_ADDR": "node7", "MASTER_PORT": "29400"},
            Launch(3, 4, 1, 2, "node7:29400"),
        ),
        (
            {"KERAS_DISTRIBUTION_PROCESS_ID": "1", "KERAS_DISTRIBUTION_NUM_PROCESSES": "2"}
            | {"KERAS_DISTRIBUTION_JOB_ADDRESSES": "10.0.0.1:1234,10.0.0.2:2345"},
            Launch(1, 2, 1, 1, "10.0.0.1:1234"),
        ),
        (
            {"SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1", "SLURM_NTASKS_PER_NODE": "4(x2)"}
            | {"SLURM_STEP_NODELIST": "gpu[03-04]", "SLURM_JOB_ID": "1234567"},
            Launch(5, 8, 1, 4, "gpu03:24567"),
        ),
    ],
)
def test_launchers(environment, expected):
    assert read_launch(environment) == expected


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RANK": "0", "WORLD_SIZE": "2"}, "did not set MASTER_ADDR"),
        ({"RANK": "x", "WORLD_SIZE": "2"}, "RANK is 'x'; expected a whole number"),
        (
            {"RANK": "2", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"},
            "process 2 of 2; expected 0 to 1",
        ),
    ],
)
def test_incomplete_launchers(environment, message):
    with pytest.raises(ValueError, match=message):
        read_launch(environment)


def test_first_host_of_slurm():
    names = ["a", "a,b", "gpu[1-4]", "gpu[07,09]", "rack1-n[010-012,020],x"]
    assert [first_host(one) for one in names] == ["a", "a", "gpu1", "gpu07", "rack1-n010"]


def test_launch_is_needed_or_found(monkeypatch):
    for name in ("RANK", "KERAS_DISTRIBUTION_NUM_PROCESSES", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    assert needed_launch(None, "torch") is None
    assert needed_launch(True, "jax") is None, "one process with all its devices"
    with pytest.raises(ValueError, match="--distributed found no launcher"):
        needed_launch(True, "torch")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert needed_launch(None, "torch") is None, "one process needs no address"
    monkeypatch.delenv("RANK")
    monkeypatch.delenv("WORLD_SIZE")
    slurm = {"SLURM_PROCID": "0", "SLURM_NTASKS": "2", "SLURM_STEP_NODELIST": "a", "SLURM_JOB_ID": "1"}
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)
    assert needed_launch(None, "torch") is None, "a script of Slurm has these variables, too"
    assert needed_launch(True, "torch").count == 2
    assert needed_launch(False, "torch") is None


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("devices", [1, 2])
def test_parts_have_each_image_once(count, devices):
    """The parts of all processes are the batch of one process, with padding at the end."""
    digits = focalnets.open_dataset("digits", channels=1).splits["test"].take(range(23))
    task = ImageClassification(10, class_weights=np.arange(1.0, 11))
    changes = Augmentation(pad_crop=1, mixup=0.5, cutmix=0.5, erasing=0.3)
    arguments = {"shuffle": True, "augmentation": changes, "seed": 3, "threads": 0}
    whole = Loader(digits, task, 10, **arguments)
    parts = [
        Loader(digits, task, 10, part=BatchPart(rank, count, devices), **arguments) for rank in range(count)
    ]
    for index in range(3):
        images, targets, weights = whole[index]
        found = [np.concatenate(arrays) for arrays in zip(*(part[index] for part in parts), strict=True)]
        rows = len(images)
        assert len(found[0]) % (count * devices) == 0
        assert len(found[0]) < rows + count * devices
        for one, expected in zip(found, (images, targets, weights), strict=True):
            np.testing.assert_array_equal(one[:rows], expected)
        assert not found[1][rows:].any()
        assert not found[2][rows:].any()


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="tests torch")
def test_model_parallel_needs_jax(few_digits, tiny_preset, tmp_path, monkeypatch):
    variables = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="model_parallel needs JAX"):
        focalnets.train("finetune", few_digits, tmp_path / "run", preset=tiny_preset, model_parallel=2)
    with pytest.raises(ValueError, match="model_parallel must be at least 1; got 0"):
        focalnets.train("finetune", few_digits, tmp_path / "run", preset=tiny_preset, model_parallel=0)
