"""Arguments of `from_preset`, and errors for arguments of other libraries."""

import numpy as np
import pytest

from focalnets import CHECKPOINTS, FocalNetBackbone, FocalNetImageClassifier, FocalNetImageConverter
from focalnets.cli import main
from focalnets.presets.overrides import CHANGE_WEIGHTS, KEEP_WEIGHTS


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    path = tmp_path_factory.mktemp("presets") / "preset"
    backbone = FocalNetBackbone(4, (1, 1), 1, patch_size=2, seed=0)
    FocalNetImageClassifier(
        backbone, 3, FocalNetImageConverter(8), class_names=("a", "b", "c")
    ).save_to_preset(path)
    return path


def test_overrides_list_every_argument_of_backbone():
    backbone = FocalNetBackbone(4, (1,), 1)
    assert {*KEEP_WEIGHTS, *CHANGE_WEIGHTS, "name", "trainable"} == set(backbone.get_config())


@pytest.mark.slow
def test_from_preset_accepts_arguments_that_keep_weights(preset):
    plain = FocalNetImageClassifier.from_preset(preset)
    net = FocalNetImageClassifier.from_preset(
        preset,
        dtype="mixed_bfloat16",
        drop_path_rate=0.2,
        dropout_rate=0.1,
        image_shape=(16, 24, 3),
        seed=7,
        name="mine",
    )
    config = net.backbone.get_config()
    assert (config["drop_path_rate"], config["dropout_rate"], config["seed"]) == (0.2, 0.1, 7)
    assert (net.name, net.compute_dtype, net.backbone.compute_dtype) == ("mine", "bfloat16", "bfloat16")
    assert net.input_shape == (None, 16, 24, 3)
    assert net.preprocess(np.zeros((50, 50, 3), "uint8")).shape == (1, 16, 24, 3)
    for a, b in zip(net.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    backbone = FocalNetBackbone.from_preset(preset, drop_path_rate=0.3)
    assert backbone.drop_path_rate == 0.3
    np.testing.assert_array_equal(backbone.get_weights()[0], plain.backbone.get_weights()[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "names", "same_head"),
    [
        ({}, ("a", "b", "c"), True),
        ({"num_classes": 3}, ("a", "b", "c"), True),
        ({"class_names": ["a", "b", "c"]}, ("a", "b", "c"), True),
        ({"class_names": ["x", "y", "z"]}, ("x", "y", "z"), False),  # same number, other classes
        ({"class_names": ["x", "y"]}, ("x", "y"), False),
        ({"num_classes": 2}, None, False),
    ],
)
def test_from_preset_makes_new_head_for_other_classes(preset, arguments, names, same_head):
    old = FocalNetImageClassifier.from_preset(preset)
    net = FocalNetImageClassifier.from_preset(preset, **arguments)
    assert net.class_names == names
    assert net.num_classes == len(names or (0, 0))
    assert net.image_converter.image_size == (8, 8)
    kernel, old_kernel = net.head.get_weights()[0], old.head.get_weights()[0]
    assert np.array_equal(kernel, old_kernel) == same_head
    np.testing.assert_array_equal(net.backbone.get_weights()[3], old.backbone.get_weights()[3])


def test_from_preset_without_weights_accepts_every_argument():
    net = FocalNetImageClassifier.from_preset(
        "focalnet_pico", load_weights=False, class_names=["a", "b"], embed_dim=8, image_shape=(None, None, 3)
    )
    assert (net.num_classes, net.backbone.embed_dim, net.input_shape[-1]) == (2, 8, 3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"weights": "imagenet"}, "no argument weights .got weights='imagenet'.*load_weights=False"),
        ({"weights": None}, "Write load_weights=False for random weights"),
        ({"include_top": False}, r"Write FocalNetBackbone.from_preset\(preset\)"),
        ({"classes": 5}, "Write num_classes=N"),
        ({"num_labels": 5}, "Write num_classes=N"),
        ({"input_shape": (64, 64, 3)}, "Write image_shape="),
        ({"classifier_activation": None}, "returns logits. keras.Sequential"),
        ({"preprocessor": None}, "image_converter=FocalNetImageConverter"),
        ({"pooling": "avg"}, "build a keras.Model on FocalNetBackbone"),
        ({"pretrained": True}, "load_weights=False"),
        ({"drop_path": 0.1}, "Did you mean 'drop_path_rate'"),
    ],
)
def test_from_preset_explains_arguments_of_other_libraries(preset, arguments, words):
    for source in (preset, "https://example.invalid/never-asked.pth"):  # raises before a download
        with pytest.raises(TypeError, match=words):
            FocalNetImageClassifier.from_preset(source, **arguments)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("build", "words"),
    [
        (
            lambda net: FocalNetImageClassifier(net.backbone, 2, weights="imagenet"),
            "from_preset loads trained weights.",
        ),
        (lambda net: FocalNetImageClassifier(net.backbone, classes=2), "Write num_classes=N."),
        (lambda net: FocalNetImageClassifier(embed_dim=8, num_classes=2), "FocalNetBackbone(embed_dim=...)."),
        (lambda net: FocalNetImageClassifier(net.backbone, 2, clas_names="ab"), "Did you mean 'class_names'"),
        (lambda net: FocalNetBackbone(include_top=False), "Write FocalNetBackbone.from_preset(preset)"),
        (
            lambda net: FocalNetBackbone(num_classes=2),
            "FocalNetImageClassifier(backbone, num_classes, image_",
        ),
        (
            lambda net: FocalNetImageClassifier("focalnet_tiny_srf", 2),
            "got 'focalnet_tiny_srf'. For trained weights",
        ),
        (lambda net: FocalNetImageClassifier(None, 2), "backbone must be a FocalNetBackbone; got None"),
    ],
)
def test_constructors_explain_arguments_of_other_libraries(preset, build, words):
    with pytest.raises(TypeError) as caught:
        build(FocalNetImageClassifier.from_preset(preset))
    assert words in str(caught.value)


def test_presets_refuse_none_as_path(preset):
    net = FocalNetImageClassifier.from_preset(preset)
    for call in (net.save_to_preset, net.backbone.save_to_preset, FocalNetImageClassifier.from_preset):
        with pytest.raises(TypeError, match=r"A path must be a str or os.PathLike; got None\."):
            call(None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("a", "a", "b"), "class_names holds 'a' twice; expected different names"),
        (("a", 1, "1"), "class_names holds '1' twice"),
        ("abc", "class_names is the string 'abc'; expected a list of 3 names"),
    ],
)
def test_class_names_must_differ(preset, tmp_path, names, words):
    net = FocalNetImageClassifier.from_preset(preset)
    with pytest.raises(ValueError, match=words):
        net.class_names = names
    with pytest.raises(ValueError, match=words):
        FocalNetImageClassifier(net.backbone, 3, class_names=names)
    net.save_to_preset(tmp_path / "twice")
    (tmp_path / "twice" / "labels.json").write_text('["a", "b", "a"]')
    with pytest.raises(ValueError, match=r"labels\.json holds 'a' twice; expected different names"):
        FocalNetImageClassifier.from_preset(tmp_path / "twice")
    net.class_names = np.array([7, 8, 9])
    net.save_to_preset(tmp_path / "numbers")
    assert FocalNetImageClassifier.from_preset(tmp_path / "numbers").class_names == ("7", "8", "9")


def test_from_preset_refuses_arguments_that_do_not_fit(preset):
    words = r"depths=.*which the weights of the preset determine\. Remove it, or write load_weights=False"
    with pytest.raises(ValueError, match=words):
        FocalNetImageClassifier.from_preset(preset, depths=(2, 2))
    with pytest.raises(
        ValueError, match=r"has 1 channels, but the preset has weights for 3. Give .height, width, 3"
    ):
        FocalNetImageClassifier.from_preset(preset, image_shape=(None, None, 1))
    with pytest.raises(ValueError, match="2 names for 3 classes"):
        FocalNetImageClassifier.from_preset(preset, num_classes=3, class_names=("a", "b"))
    with pytest.raises(TypeError, match="no argument class_names"):
        FocalNetBackbone.from_preset(preset, class_names=("a", "b"))
    with pytest.raises(
        ValueError, match=r"normalizes 3 channels, but the backbone takes 1\. Give mean and std one"
    ):
        FocalNetImageClassifier(
            FocalNetBackbone(4, (1,), 1, image_shape=(None, None, 1)), 2, FocalNetImageConverter()
        )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("x.keras", "is a model saved by Keras, not a preset. In Python: keras.saving.load_model(path)"),
        ("x.h5", "is a model saved by Keras, not a preset"),
        ("x.weights.h5", "is a file of weights without the network"),
        ("x.onnx", "is an exported network, not a preset"),
    ],
)
def test_from_preset_names_kind_of_other_files(tmp_path, capsys, name, words):
    (tmp_path / name).write_bytes(b"")
    image = tmp_path / "image.png"
    image.write_bytes(b"")
    assert main(["predict", str(tmp_path / name), str(image)]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "config.json" not in error
    with pytest.raises(ValueError, match=words.split(",")[0].split(".")[0]):
        FocalNetImageClassifier.from_preset(tmp_path / name)


def test_predict_explains_how_to_convert_channels(preset):
    net = FocalNetImageClassifier.from_preset(preset)
    gray = np.zeros((2, 8, 8, 1), "uint8")
    with pytest.raises(
        ValueError, match=r"classifier.preprocess\(images\) or np.repeat\(images, 3, axis=-1\)"
    ):
        net.predict(gray, verbose=0)
    assert net.predict(np.repeat(gray, 3, axis=-1), verbose=0).shape == (2, 3)
    assert net.predict(net.preprocess(gray), verbose=0).shape == (2, 3)


def test_presets_lists_published_names():
    for model in (FocalNetBackbone, FocalNetImageClassifier):
        assert set(model.presets) == set(CHECKPOINTS)
        assert model.presets["focalnet_base_lrf_imagenet1k"]["architecture"] == "focalnet_base_lrf"


@pytest.mark.parametrize("load_weights", [True, False])
def test_from_preset_refuses_an_export(load_weights, tmp_path):
    (tmp_path / "export.json").write_text("{}")
    for model in (FocalNetBackbone, FocalNetImageClassifier):
        with pytest.raises(ValueError, match="is an exported network"):
            model.from_preset(tmp_path, load_weights=load_weights)
