"""Schedule, optimizers, recipes, and a complete run."""

import csv
import dataclasses
import json
import shutil

import keras
import numpy as np
import pytest
from PIL import Image
from reference import Reference

from focalnets import (
    FocalNetBackbone,
    FocalNetImageClassifier,
    FocalNetImageConverter,
    modulation_model,
    open_dataset,
    train,
)
from focalnets.cli import main
from focalnets.data.loader import Loader
from focalnets.explanation.modulation import modulation_maps
from focalnets.output.files import writing
from focalnets.presets.architectures import find_architecture
from focalnets.presets.load import build_architecture
from focalnets.training.adamw import AdamW
from focalnets.training.build import class_weights, make_classifier, make_converter, training_splits
from focalnets.training.muon import Muon, orthogonalize
from focalnets.training.optimizer import learning_rate_schedule, make_optimizer
from focalnets.training.recipe import Recipe, change, load_recipe, recipe_from_json, recipe_names
from focalnets.training.task import ImageClassification

pytestmark = pytest.mark.all_backends
on_torch = pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="does not depend on the backend; the others compile"
)


# Last block of each stage of the network of `run`.
LAST = "block2" if keras.backend.backend() == "torch" else "block1"


@pytest.fixture(scope="module")
def run(tiny_preset, tmp_path_factory):
    recipe = dataclasses.replace(load_recipe("digits"), epochs=2)
    if keras.backend.backend() != "torch":  # the others compile focalnet_pico and its evidence for minutes
        recipe = dataclasses.replace(recipe, architecture="", preset=tiny_preset)
    return train(recipe, out=tmp_path_factory.mktemp("runs") / "digits", verbose=0)


@pytest.mark.slow
def test_explain_draws_the_evidence_over_the_epochs_of_a_run(run, tmp_path, capsys):
    folder, has_levels = run.directory / "monitor", keras.backend.backend() != "jax"
    assert (folder / "filmstrip.evidence.png").is_file()
    frames = {path.stem: dict(np.load(path)) for path in sorted(folder.glob("epoch*.npz"))}
    assert list(frames) == ["epoch0001", "epoch0002"]
    for arrays in frames.values():
        assert arrays["evidence"].shape == arrays["images"].shape[:3]
        if has_levels:
            assert arrays[f"stage2_{LAST}.levels"].shape == (len(arrays["images"]), 3)
        assert np.all((arrays["probability"] > 0) & (arrays["probability"] < 1))
    assert main(["explain", "--epochs", str(run.directory), "--out", str(tmp_path / "epochs")]) == 0
    with Image.open(tmp_path / "epochs" / "epochs.gif") as animation:
        assert animation.n_frames == 2
    assert (tmp_path / "epochs" / "epochs.levels.png").is_file() == has_levels
    command = ["explain", "--epochs", str(tmp_path), "--out", str(tmp_path / "more")]
    assert main(command) == 2
    assert "has no folder monitor; expected a run directory" in capsys.readouterr().err
    assert main([*command[:2], str(run.directory), "docs/seven.png", *command[3:]]) == 2
    assert "--epochs draws its run alone; got also docs/seven.png" in capsys.readouterr().err


@pytest.mark.slow
def test_train_writes_all_files(run):
    names = {path.name for path in run.directory.iterdir()}
    assert names == {
        ".focalnets-files.json",
        "config.json",
        "model.weights.h5",
        "preprocessing.json",
        "labels.json",
        "recipe.json",
        "run.json",
        "history.csv",
        "curves.png",
        "panels",
        "monitor",
        "report.html",
        "evaluation.json",
        "confusion.png",
        "reliability.png",
        "best.npz",
        "last.npz",
    }
    assert [path.name for path in run.panels] == ["evidence.png", f"stage1_{LAST}.png", f"stage2_{LAST}.png"]
    for path in (run.curves, *run.panels):
        assert np.asarray(Image.open(path).convert("L")).std() > 10
    with (run.directory / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[1]["loss"]) < float(rows[0]["loss"])
    assert 0 < float(rows[1]["learning_rate"]) < 1e-5
    page = (run.directory / "report.html").read_text()
    assert f"{run.test_accuracy:.4f}" in page
    assert f"{run.kept['val_accuracy']:.4f} in epoch {run.kept['epoch']}" in page
    recipe = json.loads((run.directory / "recipe.json").read_text())
    assert (recipe["name"], recipe["epochs"], recipe["data"]) == ("digits", 2, "digits")


@pytest.mark.slow
def test_run_directory_is_preset_with_reported_accuracy(run):
    net = FocalNetImageClassifier.from_preset(run.directory)
    test = open_dataset("digits", channels=1).splits["test"]
    logits = net.predict(test.images, verbose=0)
    assert np.mean(logits.argmax(-1) == test.labels) == run.test_accuracy
    assert net.class_names == tuple("0123456789")


@pytest.mark.slow
def test_modulation_maps_of_trained_network_match_float64_reference(run):
    net = FocalNetImageClassifier.from_preset(run.directory)
    images = open_dataset("digits", channels=1).splits["test"].images[:3]
    _, values = Reference().classifier(net, images)
    block = modulation_maps(net, images)[f"stage1_{LAST}"]  # stride 1: no up-sampling between
    np.testing.assert_allclose(block.gates, values[f"gates stage1_{LAST}"], atol=1e-4)
    norm = np.linalg.norm(values[f"modulator stage1_{LAST}"], axis=-1)
    np.testing.assert_allclose(block.modulator_norm, norm, atol=1e-4)
    assert block.gates.std(axis=(1, 2)).min() > 1e-3, "the gates must vary over the image"
    assert set(modulation_model(net).output) == {"logits", "gates", "modulators"}


@pytest.mark.slow
def test_train_reads_batches_in_loader_order(few_digits, tiny_preset, tmp_path, monkeypatch):
    requested, batch = [], Loader.__getitem__
    monkeypatch.setattr(Loader, "__getitem__", lambda self, i: requested.append((self, i)) or batch(self, i))
    recipe = dataclasses.replace(
        load_recipe("digits"), architecture="", preset=tiny_preset, epochs=1, batch_size=50
    )
    train(recipe, few_digits, out=tmp_path / "run", monitor_every=0, verbose=0)
    first = requested[0][0]
    order = [index for loader, index in requested if loader is first]
    assert order[-len(first) :] == list(range(len(first)))


@pytest.mark.all_backends
@pytest.mark.parametrize("optimizer", [AdamW, Muon])
def test_ema_starts_from_initial_weights(optimizer):
    weight = keras.Variable(np.full((2, 2), 3.0))
    optimizer = optimizer(ema_decay=0.9)
    optimizer.build([weight])
    optimizer.swap_averages([weight])
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(weight), np.full((2, 2), 3.0))


@pytest.mark.all_backends
def test_ema_works_in_plain_keras_fit():
    """In `fit`, TensorFlow builds the optimizer while it traces the step."""
    net = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    net.compile(AdamW(0.0, ema_decay=0.9), "mse")
    net.fit(np.ones((4, 2)), np.ones((4, 1)), epochs=2, verbose=0)
    for average, weight in zip(net.optimizer.averages, net.trainable_variables, strict=True):
        np.testing.assert_allclose(*map(keras.ops.convert_to_numpy, (average, weight)), rtol=1e-6)
    assert net.optimizer.averages[0] is not net.trainable_variables[0]


@pytest.mark.slow
def test_train_refuses_to_overwrite_runs_and_own_files(run, tmp_path):
    recipe = dataclasses.replace(load_recipe("digits"), epochs=1)
    with pytest.raises(FileExistsError, match="--force"):
        train(recipe, out=run.directory)
    (tmp_path / "config.json").write_text('{"mine": true}')
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"cannot be replaced: it has no \.focalnets-files\.json"):
        train(recipe, out=tmp_path, force=True)
    assert (tmp_path / "thesis.txt").exists()
    with pytest.raises(ValueError, match=f"run lies inside {tmp_path}, which is searched for images"):
        train(recipe, data=str(tmp_path), out=tmp_path / "run")


@pytest.mark.slow
@on_torch
def test_train_force_replaces_run_only_after_checks_pass(run, tmp_path):
    recipe = dataclasses.replace(load_recipe("digits"), epochs=1)
    old, elsewhere = tmp_path / "old", tmp_path / "elsewhere"
    shutil.copytree(run.directory, old)
    elsewhere.mkdir()
    (elsewhere / "thesis.txt").write_text("mine")
    with writing(old / "monitor" / "epoch0099.npz") as partial:
        partial.write_bytes(b"of the old run")
    (old / "linked").symlink_to(elsewhere)
    before = {path: path.read_bytes() for path in old.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="is not a data set"):
        train(recipe, data=str(tmp_path / "typo"), out=old, force=True)
    assert {path: path.read_bytes() for path in old.rglob("*") if path.is_file()} == before
    train(recipe, out=old, force=True, monitor_every=0, verbose=0)
    assert (old / "linked").is_symlink()
    assert not (old / "monitor" / "epoch0099.npz").exists()
    assert (elsewhere / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("name", recipe_names())
def test_learning_rate_schedule_at_first_peak_and_last_step(name):
    recipe = load_recipe(name)
    total = 100
    schedule = learning_rate_schedule(recipe, total)
    warmup = round(recipe.warmup_fraction * total)
    # Few steps: JAX compiles for each of them.
    steps = {0, warmup - 1, warmup, warmup + 1, total // 2, total - 1, total} - {-1}
    rates = {step: float(keras.ops.convert_to_numpy(schedule(step))) for step in steps}
    assert 0 < rates[0] < 2 * recipe.learning_rate / warmup, "the first step must not have rate 0"
    assert max(rates, key=rates.get) == warmup
    assert rates[warmup] == pytest.approx(recipe.learning_rate)
    final = recipe.final_learning_rate
    assert final < rates[total - 1] < final + 1e-3 * recipe.learning_rate
    assert rates[total] == pytest.approx(final, abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize(
    "name",
    [
        name if name in ("digits", "finetune") else pytest.param(name, marks=on_torch)
        for name in recipe_names()
    ],
)
def test_optimizer_applies_scheduled_learning_rates(name, accumulation):
    """Without gradients, an update multiplies a kernel by 1 - learning rate * weight decay."""
    total = 24
    changes = {"accumulation": accumulation, "layer_decay": 1.0, "optimizer": "adamw"}
    recipe = dataclasses.replace(load_recipe(name), **changes)
    recipe = dataclasses.replace(recipe, weight_decay=0.5 / recipe.learning_rate)
    kernel = keras.Variable(np.ones((2, 2), "float32"))
    optimizer = make_optimizer(recipe, None, total)
    optimizer.build([kernel])
    rates, before = [], 1.0
    for _ in range(total):
        optimizer.apply([keras.ops.zeros((2, 2))], [kernel])
        after = float(keras.ops.convert_to_numpy(kernel)[0, 0])
        rates.append((1 - after / before) / recipe.weight_decay)
        before = after
    updates = rates[accumulation - 1 :: accumulation]
    assert np.count_nonzero(rates) == np.count_nonzero(updates) == total // accumulation, "rate 0"
    schedule = learning_rate_schedule(recipe, total)
    expected = [float(keras.ops.convert_to_numpy(schedule(step))) for step in range(total)]
    peak = recipe.learning_rate
    np.testing.assert_allclose(updates, expected[accumulation - 1 :: accumulation], atol=2e-6 * peak)
    assert max(updates) >= (1.0 if accumulation == 1 else 0.9) * peak * (1 - 1e-5)
    assert updates[-1] < recipe.final_learning_rate + 1e-2 * peak


def test_optimizer_decays_kernels_only():
    """Biases, norms and layer scales do not decay. Depthwise kernels and those of the gates do."""
    architecture = find_architecture("focalnet_pico")
    backbone = {**architecture.backbone, "layer_scale_init": 0.1, "norm_after_modulation": True}
    net = build_architecture(dataclasses.replace(architecture, backbone=backbone))
    for variable in net.trainable_variables:
        variable.assign(np.ones(variable.shape))
    optimizer = make_optimizer(load_recipe("digits"), net, 100)
    optimizer.build(net.trainable_variables)
    optimizer.apply([keras.ops.zeros(v.shape) for v in net.trainable_variables], net.trainable_variables)
    decayed = {v.path for v in net.trainable_variables if keras.ops.convert_to_numpy(v).max() < 1}
    assert decayed == {v.path for v in net.trainable_variables if len(v.shape) > 1}
    unchanged = {v.path.rsplit("/", 1)[1] for v in net.trainable_variables if v.path not in decayed}
    assert unchanged == {"bias", "gamma", "beta"}
    assert {path.rsplit("/", 1)[1].rstrip("01") for path in decayed} == {"kernel", "focal_kernel_"}


@pytest.mark.parametrize("accumulation", [1, 3])
def test_adamw_matches_float64_reference(accumulation):
    """With clipping, decay of kernels only, learning rate multipliers, averaging and accumulation."""
    generator = np.random.default_rng(0)
    shapes, scales = [(3, 4), (4,), (2, 2, 2)], [0.5, 1.0, 0.25]
    values = [generator.normal(size=shape) for shape in shapes]
    variables = [keras.Variable(value.astype("float32"), name=f"v{i}") for i, value in enumerate(values)]
    rate = keras.optimizers.schedules.CosineDecay(0.1, 100)
    steps = accumulation if accumulation > 1 else None
    options = {"global_clipnorm": 2.0, "gradient_accumulation_steps": steps}
    multipliers = {f"v{i}": scale for i, scale in enumerate(scales)}
    optimizer = AdamW(rate, weight_decay=0.3, ema_decay=0.6, learning_rate_multipliers=multipliers, **options)
    optimizer.build(variables)
    first, second = ([np.zeros(shape) for shape in shapes] for _ in range(2))
    averages, update = [np.zeros(shape) for shape in shapes], 0
    for step in range(12):
        gradients = [generator.normal(size=shape) for shape in shapes]
        tensors = [keras.ops.convert_to_tensor(gradient, "float32") for gradient in gradients]
        optimizer.apply(tensors, variables)
        if step % accumulation == 0:
            total = [np.zeros(shape) for shape in shapes]
        total = [a + b / accumulation for a, b in zip(total, gradients, strict=True)]
        if (step + 1) % accumulation:
            continue
        update += 1
        norm = np.sqrt(sum(np.sum(gradient**2) for gradient in total))
        for i, gradient in enumerate(total):
            gradient = gradient * min(1, 2.0 / norm)
            first[i] = 0.9 * first[i] + 0.1 * gradient
            second[i] = 0.999 * second[i] + 0.001 * gradient**2
            direction = first[i] / (1 - 0.9**update) / (np.sqrt(second[i] / (1 - 0.999**update)) + 1e-8)
            decay = 0.3 * values[i] if values[i].ndim > 1 else 0
            now = 0.05 * (1 + np.cos(np.pi * step / 100)) * scales[i]
            values[i] = values[i] - now * (direction + decay)
            kept = min(0.6, (update - 1) / (update - 1 + 9))
            averages[i] = kept * averages[i] + (1 - kept) * values[i]
    assert update == 12 // accumulation
    for i, variable in enumerate(variables):
        np.testing.assert_allclose(keras.ops.convert_to_numpy(variable), values[i], atol=1e-5)
        found = keras.ops.convert_to_numpy(optimizer.averages[i])
        np.testing.assert_allclose(found, averages[i], atol=1e-5)
    optimizer.swap_averages(variables)
    for i, variable in enumerate(variables):
        np.testing.assert_allclose(keras.ops.convert_to_numpy(variable), averages[i], atol=1e-5)
        found = keras.ops.convert_to_numpy(optimizer.averages[i])
        np.testing.assert_allclose(found, values[i], atol=1e-5)
    again = AdamW.from_config(optimizer.get_config())
    assert again.get_config() == optimizer.get_config()


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (2, 2, 3, 4)])
def test_muon_matches_float64_reference_on_singular_values(shape):
    """The Newton-Schulz iteration changes only the singular values."""
    generator = np.random.default_rng(1)
    value = generator.normal(size=shape)
    bias = keras.Variable(np.ones(4, "float32"), name="bias")
    variable = keras.Variable(value.astype("float32"), name="kernel")
    optimizer = Muon(0.1, weight_decay=0.3, ema_decay=0.5, learning_rate_multipliers={"kernel": 0.5})
    optimizer.build([variable, bias])
    momentum, average = np.zeros(shape), np.zeros(shape)
    for update in range(4):
        gradient = generator.normal(size=shape)
        tensors = [keras.ops.convert_to_tensor(one, "float32") for one in (gradient, np.ones(4))]
        optimizer.apply(tensors, [variable, bias])
        momentum = 0.95 * momentum + 0.05 * gradient
        ahead = 0.05 * gradient + 0.95 * momentum
        left, sizes, right = np.linalg.svd(ahead.reshape(-1, shape[-1]), full_matrices=False)
        sizes = sizes / np.sqrt(np.sum(sizes**2))
        for _ in range(5):
            sizes = 3.4445 * sizes - 4.775 * sizes**3 + 2.0315 * sizes**5
        largest = max(np.prod(shape[:-1]), shape[-1])
        direction = 0.2 * np.sqrt(largest) * ((left * sizes) @ right).reshape(shape)
        value = value - 0.1 * 0.5 * (direction + 0.3 * value)
        kept = min(0.5, update / (update + 9))
        average = kept * average + (1 - kept) * value
    np.testing.assert_allclose(keras.ops.convert_to_numpy(variable), value, atol=2e-5)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(optimizer.averages[0]), average, atol=2e-5)
    # With a constant gradient, each Adam step equals the learning rate. The bias does not decay.
    np.testing.assert_allclose(keras.ops.convert_to_numpy(bias), 1 - 4 * 0.1, atol=1e-5)
    assert Muon.from_config(optimizer.get_config()).get_config() == optimizer.get_config()


def test_muon_gives_same_update_for_stacked_and_single_matrices():
    generator = np.random.default_rng(2)
    shapes = [(3, 5), (5, 3), (2, 2, 3, 4), (4, 12), (3, 5)]
    starts, gradients = ([generator.normal(size=shape) for shape in shapes] for _ in range(2))

    def updated(indices):
        variables = [keras.Variable(starts[i].astype("float32")) for i in indices]
        optimizer = Muon(0.1)
        optimizer.build(variables)
        optimizer.apply([keras.ops.convert_to_tensor(gradients[i], "float32") for i in indices], variables)
        return [keras.ops.convert_to_numpy(variable) for variable in variables]

    for index, found in enumerate(updated(range(len(shapes)))):
        np.testing.assert_allclose(found, updated([index])[0], atol=1e-6)
        assert np.abs(found - starts[index]).max() > 1e-3


def test_orthogonalize_in_bfloat16_is_close_to_float32():
    matrix = np.random.default_rng(0).normal(size=(24, 40)).astype("float32")
    exact, rounded = (
        keras.ops.convert_to_numpy(keras.ops.cast(orthogonalize(matrix, dtype), "float32"))
        for dtype in ("float32", "bfloat16")
    )
    assert 0 < np.abs(rounded - exact).max() < 0.05
    assert np.all(np.abs(np.linalg.svd(rounded)[1] - 1) < 0.4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("faster", "precision"), [pytest.param(False, "float32", marks=on_torch), (True, "bfloat16")]
)
def test_precision_auto_selects_faster_dtype(faster, precision, tmp_path, monkeypatch):
    recipe = dataclasses.replace(load_recipe("digits"), precision="auto", optimizer="muon")
    monkeypatch.setattr("focalnets.training.train.prefer_bfloat16", lambda: faster)
    run = tmp_path / precision
    train(recipe, out=run, max_minutes=1e-6, monitor_every=0, verbose=0, force_bfloat16=True)
    assert json.loads((run / "recipe.json").read_text())["precision"] == precision


def test_muon_updates_only_matrices_of_backbone():
    recipe = dataclasses.replace(load_recipe("digits"), optimizer="muon")
    net = build_architecture(find_architecture("focalnet_pico"))
    optimizer = make_optimizer(recipe, net, 100)
    chosen = {variable.path for variable in net.trainable_variables if optimizer.is_matrix(variable)}
    parts = ["modulation/f", "modulation/h", "modulation/proj", "fc1", "fc2"]
    blocks = ["stage1_block1", "stage1_block2", "stage2_block1", "stage2_block2"]
    expected = {f"{block}/{part}/kernel" for block in blocks for part in parts}
    assert chosen == expected | {"stage1_downsample/proj/kernel"}


def test_layer_decay_lowers_learning_rate_of_earlier_blocks():
    recipe = dataclasses.replace(load_recipe("digits"), layer_decay=0.5)
    net = build_architecture(find_architecture("focalnet_pico"))
    optimizer = make_optimizer(recipe, net, 100)
    optimizer.build(net.trainable_variables)
    scales = dict(zip([v.path for v in net.trainable_variables], optimizer._multipliers, strict=True))

    def scale(part):
        found = {value for path, value in scales.items() if part in path}
        assert len(found) == 1, part
        return found.pop()

    blocks = ["stage1_block1", "stage1_block2", "stage2_block1", "stage2_block2"]
    assert [scale(block) for block in blocks] == [1 / 16, 1 / 8, 1 / 4, 1 / 2]
    assert {value for path, value in scales.items() if "block" not in path} == {1 / 32, 1 / 8, 1 / 2, 1.0}
    assert scales["head/kernel"] == scales["head/bias"] == 1.0


def test_unfreeze_epochs_unfreezes_from_head_to_stem():
    """One epoch has two updates."""
    recipe = dataclasses.replace(load_recipe("digits"), epochs=10, unfreeze_epochs=1, layer_decay=0.9)
    net = build_architecture(find_architecture("focalnet_pico"))
    optimizer = make_optimizer(recipe, net, 20)
    optimizer.build(net.trainable_variables)
    learning = []
    for _ in range(6):
        before = [keras.ops.convert_to_numpy(variable).copy() for variable in net.trainable_variables]
        gradients = [keras.ops.ones(variable.shape) for variable in net.trainable_variables]
        optimizer.apply(gradients, net.trainable_variables)
        after = [keras.ops.convert_to_numpy(variable) for variable in net.trainable_variables]
        learning.append(
            {
                variable.path.split("/")[0]
                for variable, old, new in zip(net.trainable_variables, before, after, strict=True)
                if np.any(old != new)
            }
        )
    assert learning[0] == learning[1] == {"norm", "head"}
    last = learning[0] | {"stage2_block1", "stage2_block2"}
    assert learning[2] == learning[3] == last
    everything = last | {"stem", "stage1_block1", "stage1_block2", "stage1_downsample"}
    assert learning[4] == learning[5] == everything
    assert AdamW.from_config(optimizer.get_config()).unfreeze_steps == optimizer.unfreeze_steps


def test_balanced_class_weights_equalize_classes():
    digits = open_dataset("digits", channels=1).splits["train"]
    rows = np.concatenate([np.flatnonzero(digits.labels == 0)[:90], np.flatnonzero(digits.labels == 1)[:10]])
    split = dataclasses.replace(digits.take(rows), labels=digits.labels[rows])
    recipe = dataclasses.replace(load_recipe("digits"), class_weights="balanced")
    weights = class_weights(recipe, split, 3)
    np.testing.assert_allclose(weights, [100 / 180, 5.0, 0.0])
    loader = Loader(split, ImageClassification(3, weights), 100, shuffle=True)
    _, targets, factors = loader[0]
    assert factors.dtype == np.float32
    np.testing.assert_allclose(factors, np.where(targets[:, 1] == 1, 5.0, 100 / 180), rtol=1e-6)
    assert factors.sum() == pytest.approx(100)
    assert class_weights(load_recipe("digits"), split, 3) is None
    with pytest.raises(ValueError, match="class_weights must be none or balanced; got 'rare'"):
        dataclasses.replace(recipe, class_weights="rare")


@pytest.mark.parametrize("names", [["photos"], ["photos", "never seen"]])
def test_train_rejects_data_with_one_class(names, tmp_path):
    images = np.zeros((8, 8, 8, 1), "uint8")
    np.savez(tmp_path / "one.npz", x_train=images, y_train=np.zeros(8, int), class_names=names)
    with pytest.raises(ValueError, match="have only one class: photos"):
        train(load_recipe("digits"), data=str(tmp_path / "one.npz"), out=tmp_path / "run")


def test_training_splits_warns_of_class_without_images(tmp_path, caplog):
    images = np.zeros((8, 8, 8, 1), "uint8")
    np.savez(tmp_path / "two.npz", x_train=images, y_train=[0, 2] * 4, class_names=["cat", "bird", "dog"])
    dataset = open_dataset(tmp_path / "two.npz", channels=1)
    training_splits(dataset, load_recipe("digits"))
    assert "No training images of: bird. The network cannot learn these classes." in caplog.text


def test_recipe_overrides_preset_in_set_fields_only():
    backbone = FocalNetBackbone(embed_dim=8, depths=(1,), image_shape=(None, None, 1), drop_path_rate=0.1)
    given = FocalNetImageConverter(
        (16, 16), crop_fraction=0.5, interpolation="bilinear", mean=(0.1,), std=(0.2,)
    )
    start = FocalNetImageClassifier(backbone, 3, given, class_names=("a", "b", "c"))
    kept = make_converter(Recipe("mine", preset="p"), start).get_config()
    assert kept == given.get_config()
    recipe = Recipe("mine", preset="p", image_size=8, mean=(0.3,), interpolation="bicubic")
    changed = make_converter(recipe, start).get_config()
    assert changed == {**kept, "image_size": (8, 8), "mean": (0.3,), "interpolation": "bicubic"}
    seeds = set()
    for seed in (1, 2):
        keras.utils.set_random_seed(seed)
        tuned = make_classifier(Recipe("mine", preset="p"), start, given, ("n01440764", "b"))
        seeds.add(tuned.backbone.get_config()["seed"])
        assert tuned.class_names == ("tench", "b")
    assert len(seeds) == 2


def test_change_does_not_depend_on_order():
    recipe = load_recipe("finetune")
    texts = ["preset=", "architecture=focalnet_micro", "image_size=32", "mean=0,0,0", "std=1,1,1"]
    texts += ["augmentation.resize_crop=40", "augmentation.random_resized_crop=none"]
    assert change(recipe, texts) == change(recipe, texts[::-1])


def test_change_parses_text_by_field_type():
    recipe = load_recipe("cifar10_small")
    texts = ["epochs=3", "augmentation.mixup=0.2", "drop_path_rate=0.3", "mean=0.1,0.2,0.3", "name=mine"]
    changed = change(recipe, texts)
    assert (changed.epochs, changed.augmentation.mixup, changed.drop_path_rate) == (3, 0.2, 0.3)
    assert (changed.mean, changed.name) == ((0.1, 0.2, 0.3), "mine")
    assert changed.augmentation.flip
    assert change(changed, ["drop_path_rate=none"]).drop_path_rate is None
    for text, words in (
        ("epoch=3", "Unknown recipe field 'epoch'. Available recipe fields: name"),
        ("augmentation.mix=1", "Unknown recipe field 'augmentation.mix'"),
        ("epochs=few", "epochs must be a whole number; got 'few'"),
        ("augmentation.flip=yes", "augmentation.flip must be true or false; got 'yes'"),
        ("epochs", "Expected NAME=VALUE; got 'epochs'"),
        ("precision=float16", "precision must be float32 or bfloat16 or auto"),
    ):
        with pytest.raises(ValueError, match=words):
            change(recipe, [text])
    stored = json.loads(json.dumps(dataclasses.asdict(changed)))
    assert recipe_from_json(stored) == changed
    former = dict(stored["augmentation"])
    former["colour_jitter"] = former.pop("color_jitter")
    assert recipe_from_json({**stored, "augmentation": former}) == changed
    with pytest.raises(ValueError, match="Unknown recipe fields: color"):
        recipe_from_json({**stored, "color": "red"})


def test_recipe_errors_list_alternatives_and_limits():
    with pytest.raises(
        ValueError, match="Available recipes: cifar100, cifar10_cpu, cifar10_gpu, cifar10_small"
    ):
        load_recipe("digit")
    with pytest.raises(ValueError, match="Give a folder or zip"):
        train("cifar10_small")
    with pytest.raises(ValueError, match="epochs must be positive"):
        dataclasses.replace(load_recipe("digits"), epochs=0)
    with pytest.raises(ValueError, match="seed must be in"):
        dataclasses.replace(load_recipe("digits"), seed=-1)
