"""The jobs of focalnets, one test per job, as a user types them. Read these first."""

import numpy as np
import pytest
from PIL import Image

import focalnets
from focalnets.cli import main


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run directory: a network trained on handwritten digits for one epoch."""
    directory = tmp_path_factory.mktemp("quickstart") / "run"
    focalnets.train("digits", out=directory, epochs=1, monitor_every=0, verbose=0)
    return directory


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "digit.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20), "uint8")).save(path)
    return path


def test_train_stops_at_a_time_limit_and_resume_completes_the_run(tmp_path):
    options = {"epochs": 1, "monitor_every": 0, "verbose": 0}
    stopped = focalnets.train("digits", out=tmp_path / "run", max_minutes=1e-6, **options)
    assert not stopped.complete
    assert "Use focalnets.resume to continue" in repr(stopped)
    resumed = focalnets.resume(tmp_path / "run", verbose=0)
    assert resumed.complete
    assert f"test accuracy        {resumed.test_accuracy:.2%}" in repr(resumed)
    assert "test accuracy" in resumed._repr_html_()
    with pytest.raises(ValueError, match=r"Unknown recipe field 'epoch'.*Did you mean 'epochs'"):
        focalnets.train("digits", out=tmp_path / "other", epoch=1)


def test_predict_returns_classes_and_probabilities(run, image, capsys):
    predictions = focalnets.predict(run, image, top=3)
    assert len(predictions[0].classes) == 3
    assert predictions[0].classes[0] in predictions._repr_html_()
    assert sum(predictions[0].probabilities) <= 1
    assert main(["predict", str(run), str(image), "--top", "3"]) == 0
    assert capsys.readouterr().out == f"{predictions!r}\n"


@pytest.mark.slow
def test_evaluate_measures_accuracy(run, tmp_path, capsys):
    evaluation = focalnets.evaluate(run, "digits")
    assert evaluation.images == 359
    assert f"{evaluation.top1:.2%}" in repr(evaluation)
    assert f"{evaluation.top1:.2%}" in evaluation._repr_html_()
    evaluation.save(tmp_path / "saved", html=True)
    assert (tmp_path / "saved" / "confusion.png").is_file()
    assert "Most confident errors" in (tmp_path / "saved" / "evaluation.html").read_text()
    assert main(["evaluate", str(run), "--data", "digits"]) == 0
    assert f"top-1 accuracy: {evaluation.top1:.4f}" in capsys.readouterr().out


@pytest.mark.slow
def test_explain_returns_evidence_that_adds_up(run, image, tmp_path):
    explanations = focalnets.explain(run, image)
    one = explanations[0]
    assert one.top(1)[0][0] == one.target == focalnets.predict(run, image)[0].classes[0]
    np.testing.assert_allclose(one.evidence.sum(), one.total, atol=1e-3)
    gates = one.gates["stage2_block2"]
    assert gates.shape == (4, 4, 3)  # two focal levels and the global one
    explanations.save(tmp_path / "saved")
    assert main(["explain", str(run), str(image), "--out", str(tmp_path / "printed")]) == 0
    names = ["digit.evidence.png", "digit.npz"]
    for folder in ("saved", "printed"):
        assert sorted(path.name for path in (tmp_path / folder).glob("digit*")) == names
    with np.load(tmp_path / "saved" / "digit.npz") as arrays:
        np.testing.assert_array_equal(arrays["stage2_block2.gates"], gates)


@pytest.mark.slow
def test_convert_writes_a_preset_that_predicts_the_same(run, image, tmp_path):
    pytest.importorskip("torch", reason="writes a .pth file")
    conversion = focalnets.convert(run, tmp_path / "net.pth", to="official")
    assert conversion.path == tmp_path / "net.pth"
    back = focalnets.convert(tmp_path / "net.pth", tmp_path / "back")
    assert any("verified" in note for note in back.notes)
    assert main(["convert", str(run), str(tmp_path / "half"), "--half"]) == 0
    assert (tmp_path / "half" / "model.weights.h5").is_file()


@pytest.mark.slow
def test_export_runs_without_keras(run, image, tmp_path, capsys):
    pytest.importorskip("onnx", reason="writes an ONNX graph")
    exported = focalnets.export(run, tmp_path / "exported")
    assert exported.comparison.largest < 1e-4
    expected = focalnets.predict(run, image, engine="keras")[0]
    found = focalnets.predict(tmp_path / "exported", image)[0]
    assert found.classes == expected.classes
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-5)
    assert main(["export", str(run), str(tmp_path / "exported")]) == 2  # it exists
    assert main(["export", str(run), str(tmp_path / "exported"), "--force"]) == 0
    with pytest.raises(ValueError, match="which Keras cannot run"):
        focalnets.predict(tmp_path / "exported", image, engine="keras")


def test_cache_resizes_a_data_set_once(tmp_path, capsys):
    dataset = focalnets.cache("digits", tmp_path / "digits", image_size=16, grayscale=True)
    assert dataset.splits["test"].images.shape == (359, 16, 16, 1)
    again = focalnets.open_dataset(tmp_path / "digits", channels=1)
    np.testing.assert_array_equal(again.splits["train"].images[:9], dataset.splits["train"].images[:9])
    command = ["cache", "digits", "--grayscale", "--image-size", "16", "--out", str(tmp_path / "again")]
    assert main(command) == 0
    assert "test: 359 images" in capsys.readouterr().out
