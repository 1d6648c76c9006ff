"""Estimated duration of a training, logged after its first steps."""

import dataclasses
import types

import keras
import pytest

from focalnets.training import forecast
from focalnets.training.recipe import load_recipe
from focalnets.training.trainer import Trainer


@pytest.mark.parametrize(
    ("seconds", "steps", "words"),
    [
        (3.0, 3000, "about 2.5 hours (2,993 batches remain, 3 s each). To shorten it, use fewer epochs"),
        (0.5, 3000, "about 25 minutes (2,977 batches remain, 0.5 s each)"),
        (0.1, 3000, None),
    ],
)
def test_forecast_logs_duration_of_long_training_only(seconds, steps, words, monkeypatch, caplog):
    now = [0.0]
    monkeypatch.setattr(forecast, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    callback = forecast.Forecast(images=50_000, epochs=10, total_steps=steps)
    for _ in range(100):
        now[0] += seconds
        callback.on_train_batch_end(0, {"loss": keras.ops.ones(())})
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == (words is not None)
    if words:
        assert words in messages[0]
        assert messages[0].startswith("Training on 50,000 images for 10 epochs takes")


@pytest.mark.slow
def test_trainer_logs_forecast(tmp_path, monkeypatch, caplog):
    for name, value in {"LONG_MINUTES": -1.0, "_WARM_UP": 1, "_STEPS": 1}.items():
        monkeypatch.setattr(forecast, name, value)
    settings = {"data": "digits", "on_bad_image": "error", "cache_images": "auto", "monitor_every": 0}
    recipe = dataclasses.replace(load_recipe("digits"), batch_size=700, epochs=1)
    Trainer(recipe, {**settings, "tensorboard": False}).fit(tmp_path, verbose=0)
    assert "Training on 1,295 images for 1 epoch takes about 0 minutes (0 batches remain" in caplog.text
