"""Effect of recipe fields on network, loss and batches, and the weights that a run saves."""

import dataclasses

import keras
import numpy as np
import pytest

from focalnets import FocalNetBackbone, FocalNetImageClassifier, FocalNetImageConverter, open_dataset, train
from focalnets.training.build import training_splits
from focalnets.training.recipe import change, load_recipe
from focalnets.training.task import ImageClassification
from focalnets.training.trainer import Trainer

SHORT = dataclasses.replace(load_recipe("digits"), epochs=2, batch_size=100, warmup_fraction=0.0)


def trainer(recipe, data="digits"):
    settings = {"data": str(data), "on_bad_image": "error", "cache_images": "auto", "monitor_every": 0}
    return Trainer(recipe, {**settings, "tensorboard": False})


@pytest.mark.slow
def test_trainer_compiles_recipe_fields(tmp_path):
    recipe = dataclasses.replace(
        SHORT,
        label_smoothing=0.3,
        class_weights="balanced",
        drop_path_rate=0.4,
        dropout_rate=0.1,
        ema_decay=0.7,
        optimizer="muon",
    )
    made = trainer(recipe)
    assert made.classifier.loss.label_smoothing == 0.3
    assert [len(loader[0]) for loader in (made.loader, made.validation_loader)] == [3, 3], "no class weights"
    blocks = made.classifier.backbone.blocks
    np.testing.assert_allclose([block.drop_path_rate for block in blocks], np.linspace(0, 0.4, len(blocks)))
    assert {block.dropout_rate for block in blocks} == {0.1}
    assert type(made.classifier.optimizer).__name__ == "Muon"
    assert made.classifier.optimizer.ema_decay == 0.7
    made = trainer(SHORT)
    assert made.classifier.loss.label_smoothing == 0.1
    assert [len(loader[0]) for loader in (made.loader, made.validation_loader)] == [2, 2]
    assert {block.dropout_rate for block in made.classifier.backbone.blocks} == {0.0}


@pytest.mark.slow
def test_trainer_keeps_head_only_for_same_classes_in_same_order(tmp_path):
    backbone = FocalNetBackbone.from_preset("focalnet_pico", load_weights=False)
    converter = FocalNetImageConverter((8, 8), mean=(0.3,), std=(0.37,))
    net = FocalNetImageClassifier(backbone, 10, converter, class_names=tuple("0123456789"))
    net.save_to_preset(tmp_path / "preset")
    digits = open_dataset("digits", channels=1).splits["train"]
    recipe = dataclasses.replace(
        SHORT, architecture="", preset=str(tmp_path / "preset"), mean=(0.3,), std=(0.37,)
    )
    for names, kept in (("0123456789", True), ("1023456789", False)):
        data = tmp_path / f"{names}.npz"
        arrays = {"x_train": digits.images, "y_train": digits.labels, "class_names": np.array(list(names))}
        np.savez(data, **arrays)
        made = trainer(recipe, data).classifier
        for found, given in zip(made.backbone.get_weights(), net.backbone.get_weights(), strict=True):
            np.testing.assert_array_equal(found, given)
        heads = [keras.ops.convert_to_numpy(one.head.kernel) for one in (made, net)]
        assert np.array_equal(*heads) == kept, names


@pytest.mark.slow
@pytest.mark.parametrize(
    ("keep_weights", "ema_decay"),
    [("best", 0.9), ("best", 0.0), ("last", 0.9), ("last", 0.0)],
)
def test_train_saves_weights_of_the_reported_validation_loss(
    few_digits, keep_weights, ema_decay, tmp_path, monkeypatch
):
    """The first epoch counts as the best, so that best and last epoch differ."""
    monkeypatch.setattr(ImageClassification, "best_row", lambda task, rows: rows[0])
    recipe = dataclasses.replace(
        SHORT, keep_weights=keep_weights, ema_decay=ema_decay, batch_size=20, learning_rate=1e-2
    )
    result = train(recipe, few_digits, out=tmp_path / "run", monitor_every=0, verbose=0)
    assert result.kept["epoch"] == (1 if keep_weights == "best" else 2)
    first, second = (row["val_loss"] for row in result.history)
    assert abs(first - second) > 0.01, "the epochs must differ for this test"

    _, validation = training_splits(open_dataset(few_digits, channels=1), recipe)
    logits = np.float64(
        FocalNetImageClassifier.from_preset(result.directory).predict(validation.images, verbose=0)
    )
    log_probabilities = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    targets = 0.9 * np.eye(10)[validation.labels] + 0.1 / 10
    loss = -np.mean(np.sum(targets * log_probabilities, axis=1))
    assert loss == pytest.approx(result.kept["val_loss"], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("labels", "validation", "changes", "words"),
    [
        ([0, 0, 0, 1, 1, 1], None, {}, None),  # one batch, smaller than batch_size
        ([0, 1, 1, 1], [], {"batch_size": 1, "augmentation.mixup": 0.5, "augmentation.cutmix": 0.5}, None),
        ([0, 1], [0], {"class_weights": "balanced", "ema_decay": 0.9, "unfreeze_epochs": 5}, None),
        ([0, 0, 1, 1, 1], [], {"validation_fraction": 0.99}, None),  # one image of each class remains
        ([0, 1], None, {}, "Each class has only one training image"),
        ([0, 0, 1, 1], None, {"validation_fraction": 0}, "leaves no validation images"),
        ([0, 0, 1, 1], [1], {"accumulation": 3}, "has 2 batches, fewer than accumulation=3"),
    ],
)
def test_train_trains_or_rejects_smallest_data_sets(labels, validation, changes, words, tmp_path):
    generator = np.random.default_rng(0)
    parts = {"train": labels, "test": labels[:1]} | ({} if validation is None else {"val": validation})
    arrays = {
        f"x_{name}": generator.integers(0, 256, (len(y), 8, 8, 1), "uint8") for name, y in parts.items()
    }
    arrays |= {f"y_{name}": np.array(y, int) for name, y in parts.items()}
    np.savez(tmp_path / "few.npz", **arrays)
    recipe = change(load_recipe("digits"), [f"{k}={v}" for k, v in {"epochs": 2, **changes}.items()])
    quiet = {"monitor_every": 0, "verbose": 0}
    if words is not None:
        with pytest.raises(ValueError, match=words):
            train(recipe, str(tmp_path / "few.npz"), tmp_path / "run", **quiet)
        return
    result = train(recipe, str(tmp_path / "few.npz"), tmp_path / "run", **quiet)
    assert len(result.history) == 2
    assert result.test_accuracy in (0.0, 1.0)
    assert np.all(np.isfinite([row["val_loss"] for row in result.history]))
