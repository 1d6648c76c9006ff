"""`focalnets.predict` and `classifier.preprocess`, compared with the command line for all kinds of images."""

import json

import keras
import numpy as np
import pytest
from PIL import Image

import focalnets
from focalnets import FocalNetBackbone, FocalNetImageClassifier, FocalNetImageConverter
from focalnets.cli import main
from focalnets.images.decode import read_image
from focalnets.prediction.images import read_image_like

BUNDLED = "focalnet_nano_cifar10"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Smooth images of several modes and sizes."""
    path = tmp_path_factory.mktemp("images")
    smooth = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 8, 4)).astype("uint8"), "RGBA")
    image = smooth.resize((80, 60), Image.Resampling.BICUBIC)
    image.convert("RGB").save(path / "a.png")
    image.save(path / "alpha.png")
    image.convert("L").save(path / "gray.png")
    image.convert("LA").save(path / "la.png")
    image.convert("P").save(path / "palette.png")
    image.convert("CMYK").save(path / "cmyk.jpg")
    image.convert("RGB").crop((0, 0, 32, 32)).save(path / "small.png")
    deep = np.asarray(image.convert("L")).astype("uint16") * 257
    Image.fromarray(deep).save(path / "deep.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    image.convert("RGB").save(path / "turned.jpg", exif=exif)
    return path


def opened(path):
    with Image.open(path) as image:
        return image.copy()


@pytest.fixture(scope="module")
def net():
    return FocalNetImageClassifier.from_preset(BUNDLED)


@pytest.mark.slow
def test_predict_equals_command_line_exactly(folder, capsys):
    assert main(["predict", BUNDLED, str(folder), "--json", "--engine", "keras"]) == 0
    expected = json.loads(capsys.readouterr().out)
    found = focalnets.predict(BUNDLED, folder, engine="keras")
    assert len(found) == 9
    assert [
        {
            "image": one.name,
            "classes": [
                {"name": name, "probability": probability}
                for name, probability in zip(one.classes, one.probabilities, strict=True)
            ],
        }
        for one in found
    ] == expected


@pytest.mark.slow
def test_predict_gives_same_result_for_path_pil_and_array(folder, net):
    for path in sorted(folder.iterdir()):
        forms = [
            path,
            str(path),
            opened(path),
            read_image(path),
            read_image(path).astype("float32"),
            [path],
        ]
        answers = [focalnets.predict(net, form)[0] for form in forms]
        assert {(one.classes, one.probabilities) for one in answers} == {
            (answers[0].classes, answers[0].probabilities)
        }, path


def test_read_image_like_orients_pil_images_like_files(tmp_path):
    tag = b"\x12\x01\x03\0\x01\0\0\0\x06\0\0\0"  # orientation 6
    whole = b"Exif\0\0II*\0\x08\0\0\0\x01\0" + tag + bytes(4)
    broken = b"Exif\0\0II*\0\x08\0\0\0\x02\0" + tag + b"\x28\x01\x02\0\x02\0\0\0" + b"2\0\0\0\0\0\0\0"
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 4)).astype("uint8").repeat(8, 0).repeat(8, 1)
    for mode, suffix in (
        ("RGB", "jpg"),
        ("L", "jpg"),
        ("RGB", "png"),
        ("RGBA", "png"),
        ("LA", "png"),
        ("RGB", "tif"),
    ):
        image = Image.fromarray(pixels, "RGBA").convert(mode)
        for exif in (whole, broken):
            path = tmp_path / f"phone.{suffix}"
            image.save(path, exif=whole if suffix == "tif" else exif)
            expected = read_image(path)
            assert expected.shape == (56, 40, 3)
            with Image.open(path) as lazy:
                found = [
                    read_image_like(form, 3, "image 0") for form in (lazy, opened(path), opened(path).copy())
                ]
            for one in found:
                np.testing.assert_array_equal(np.asarray(one), expected, err_msg=f"{mode} {suffix}")


def test_read_image_like_reports_name_of_truncated_pil_image(tmp_path):
    path = tmp_path / "cut.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype("uint8")).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with Image.open(path) as image, pytest.raises(ValueError, match=r"^image 0: .*truncated"):
        read_image_like(image, 3, "image 0")


def test_preprocess_equals_preparation_of_files(folder, net):
    files = sorted(folder.iterdir())
    expected = np.stack([net.image_converter.prepare(read_image(path)) for path in files])
    assert expected.shape == (9, 32, 32, 3)
    for images in (folder, str(folder), files, [opened(path) for path in files], map(str, files)):
        images = list(images) if isinstance(images, map) else images
        found = net.preprocess(images)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, expected)
    mixed = [files[0], opened(files[1]), read_image(files[2])]
    np.testing.assert_array_equal(net.preprocess(mixed), expected[:3])
    batch = np.stack([read_image(files[0])] * 2)
    np.testing.assert_array_equal(net.preprocess(batch), expected[[0, 0]])
    np.testing.assert_array_equal(
        net.preprocess(opened(folder / "small.png"))[0], read_image(folder / "small.png")
    )


def test_preprocess_converts_channels(net):
    gray = np.arange(32 * 32, dtype="uint8").reshape(32, 32)
    for form in (gray, gray[..., None], gray[None, ..., None], Image.fromarray(gray)):
        np.testing.assert_array_equal(net.preprocess(form)[0], np.repeat(gray[..., None], 3, -1))
    clear = np.zeros((32, 32, 4), "uint8")
    assert net.preprocess(clear).min() == 255, "transparent pixels become white"
    backbone = FocalNetBackbone(4, (1,), 1, image_shape=(None, None, 1))
    one = FocalNetImageClassifier(backbone, 2, FocalNetImageConverter(8, mean=(0.5,), std=(0.5,)))
    color = np.zeros((8, 8, 3), "uint8")
    color[..., 0] = 255
    assert one.preprocess(color).shape == (1, 8, 8, 1)
    assert set(one.preprocess(color).ravel()) == {76}, "luma of red in Pillow"
    assert net.preprocess([]).shape == (0, 32, 32, 3)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (
            np.random.default_rng(0).random((8, 8, 3)),
            "image 0: The images have values from .* expected pixels",
        ),
        (np.full((8, 8, 3), 60_000, "uint16"), "values from 6e.04 to 60000; expected .* divide them by 257"),
        (np.linspace(-124, 151, 192).reshape(8, 8, 3), "values from -124 to 151; .* subtraction of a mean"),
        (np.arange(192, dtype="uint8").view("int8").reshape(8, 8, 3), "values from -128 to 127; .*'uint8'"),
        (np.full((8, 8, 3), np.nan), "NaN or infinite"),
        (np.zeros((3, 32, 40), "uint8"), r"shape \(3, 32, 40\). Move the channels to the end"),
        (np.zeros((2, 2, 2, 2, 3), "uint8"), r"Expected an array \(H, W\), \(H, W, C\) or \(N, H, W, C\)"),
        (np.zeros((0, 8, 3), "uint8"), "the image is empty"),
        (Image.new("F", (8, 8)), "32-bit pixels have no known range"),
        ("nowhere.png", "nowhere.png"),
    ],
)
def test_preprocess_rejects_unusable_images(net, image, words):
    with pytest.raises(ValueError, match=words):
        net.preprocess(image)


def test_predict_and_preprocess_reject_other_types(net):
    with pytest.raises(TypeError, match="a path, a PIL image or an array; got float"):
        net.preprocess(3.5)
    with pytest.raises(TypeError, match=r"got generator\. Give list"):
        focalnets.predict(net, (image for image in []))
    with pytest.raises(TypeError, match=r"got dtype object\. Give list"):
        focalnets.predict(net, np.array([None, "x"]))
    with pytest.raises(ValueError, match=r"image 0: the image is empty: the shape \(0, 8, 3\)"):
        focalnets.predict(net, np.zeros((2, 0, 8, 3), "uint8"))
    for other in (net.backbone, keras.Sequential([net]), None):
        with pytest.raises(
            TypeError, match="Expected a preset name, a path or a FocalNetImageClassifier; got"
        ):
            focalnets.predict(other, np.zeros((8, 8, 3), "uint8"))
    bare = FocalNetImageClassifier(FocalNetBackbone(4, (1,), 1), 2)
    with pytest.raises(ValueError, match="no preprocessing"):
        bare.preprocess(np.zeros((8, 8, 3), "uint8"))
    free = FocalNetImageClassifier(FocalNetBackbone(4, (1,), 1), 2, FocalNetImageConverter())
    with pytest.raises(ValueError, match=r"different sizes \(8 x 8, 9 x 8\)"):
        free.preprocess([np.zeros((8, 8, 3), "uint8"), np.zeros((9, 8, 3), "uint8")])


def test_predict_rejects_or_skips_unreadable_images(folder, net, tmp_path, caplog):
    (tmp_path / "bad.png").write_text("words")
    files = [folder / "a.png", tmp_path / "bad.png", folder / "gray.png"]
    with pytest.raises(ValueError, match=r"(?s)1 unreadable image:.*bad.png.*with on_bad_image=\"skip\""):
        focalnets.predict(net, files)
    found = focalnets.predict(net, files, on_bad_image="skip")
    assert [one.name for one in found] == [str(files[0]), str(files[2])]
    assert "bad.png" in caplog.text
    with pytest.raises(ValueError, match="on_bad_image must be"):
        focalnets.predict(net, files, on_bad_image="ignore")
    for top in (0, None, 2.5):
        with pytest.raises(ValueError, match=f"top must be at least 1; got {top}"):
            focalnets.predict(net, files, top=top)
    with pytest.raises(ValueError, match="A classifier in memory runs with Keras; got engine='openvino'"):
        focalnets.predict(net, files, engine="openvino")


@pytest.mark.slow
def test_predictions_repr_has_one_line_per_image(folder, net):
    found = focalnets.predict(net, [folder / "a.png", np.zeros((9, 9, 3), "uint8")], top=2)
    first, second = repr(found).splitlines()
    assert first.startswith(f"{folder / 'a.png'}  {found[0].classes[0]}")
    assert second.startswith("image 1")
    assert f"{found[1].probabilities[1]:6.1%}" in second
    assert [one.name for one in found] == [str(folder / "a.png"), "image 1"]
    many = focalnets.predict(net, [np.zeros((32, 32, 3), "uint8")] * 22, top=1)
    assert repr(many).splitlines()[-1] == "and 2 more"
