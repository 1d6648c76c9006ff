"""Explanations: the decision of predict, figures, the page, and errors."""

import json
import pathlib
import re
import shutil
import subprocess

import numpy as np
import pytest
from browser import CHROMIUM
from PIL import Image

import focalnets
from focalnets.cli import main
from focalnets.explanation.attribution import scalars
from focalnets.models.evidence import target_vector
from focalnets.report.explanation_figure import AGAINST, FOR, color_scale, overlay

PRESET = "focalnet_nano_cifar10"
FOLDER = pathlib.Path(__file__).parents[2] / "docs" / "cifar10"


@pytest.fixture(scope="module")
def net():
    return focalnets.FocalNetImageClassifier.from_preset(PRESET)


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    """Image larger than the input of the network, in a folder with the name of its class."""
    path = tmp_path_factory.mktemp("photos") / "frog" / "photo.png"
    path.parent.mkdir()
    Image.open(FOLDER / "frog.jpg").resize((400, 300), Image.Resampling.BICUBIC).save(path)
    return path


@pytest.mark.slow
def test_explain_explains_the_decision_of_predict(net, photo):
    one = focalnets.explain(net, photo)[0]
    predicted = focalnets.predict(net, photo)[0]
    assert [name for name, _ in one.top(5)] == list(predicted.classes)
    np.testing.assert_allclose([value for _, value in one.top(5)], predicted.probabilities, atol=1e-5)
    assert one.target == predicted.classes[0]
    np.testing.assert_array_equal(one.image, net.preprocess(photo)[0])
    assert one.photo.shape == (288, 288, 3), (
        "the same view at a multiple of the input, not larger than the photo"
    )
    for values in (one.evidence, *one.taps.values()):
        np.testing.assert_allclose(values.sum(), one.total, atol=1e-3)
    assert one.label == "frog"
    assert ("correct" in one.headline()) == (one.target == "frog")
    assert f"{one.total:+.2f}" in one.sentence()


@pytest.mark.slow
def test_explain_compares_two_classes(net, photo):
    names = net.class_names
    both = focalnets.explain(net, photo, target="cat", versus="dog", levels=False)[0]
    alone = [focalnets.explain(net, photo, target=name, levels=False)[0] for name in ("cat", 5)]
    assert alone[1].target == "dog" == names[5]
    np.testing.assert_allclose(both.evidence, alone[0].evidence - alone[1].evidence, atol=1e-5)
    assert "cat rather than dog" in both.sentence()
    best, second = (name for name, _ in both.top(2))
    why_not_itself = focalnets.explain(net, photo, versus=best, levels=False)[0]
    assert (why_not_itself.target, why_not_itself.versus) == (best, second)


@pytest.mark.slow
def test_switch_off_is_the_loss_without_a_level(net, photo):
    """The loss of all levels is the sum of their evidence. The loss of one level is measured by itself."""
    one = focalnets.explain(net, photo)[0]
    block = "stage2_block3"
    single = [one.switch_off(block, level) for level in (1, 2, "global")]
    totals = [value for _, value in dict(one.level_totals())[block]]
    target = target_vector(10, net.class_names.index(one.target))[None]
    from focalnets.explanation.attribution import switch_off

    together = switch_off(net, one.image[None], target, block, [0, 1, 2])[0]
    np.testing.assert_allclose(sum(totals), together, atol=1e-4)
    assert np.corrcoef(single, totals)[0, 1] > 0.5
    assert scalars(net.predict(one.image[None], verbose=0), target)[0] == pytest.approx(one.scalar, abs=1e-4)
    with pytest.raises(ValueError, match='level must be from 1 to 2, or "global"; got 3'):
        one.switch_off(block, 3)
    with pytest.raises(ValueError, match="Did you mean 'stage2_block3'"):
        one.switch_off("stage2_blok3", 1)


def test_explain_rejects_unknown_classes(net, photo):
    message = r"Unknown class 'kat'\. Available classes: airplane, .* truck\. Did you mean 'cat'"
    with pytest.raises(ValueError, match=message):
        focalnets.explain(net, photo, target="kat")
    with pytest.raises(ValueError, match=r"Class 10 does not exist\. Expected a class from 0 to 9"):
        focalnets.explain(net, photo, versus=10)
    with pytest.raises(ValueError, match="target and versus are the same class, cat"):
        focalnets.explain(net, photo, target="cat", versus="3")


def test_explain_and_export_reject_other_models(net, photo, tmp_path):
    for call in (
        lambda: focalnets.explain(net.backbone, photo),
        lambda: focalnets.export(net.backbone, tmp_path),
    ):
        with pytest.raises(TypeError, match="a path or a FocalNetImageClassifier; got FocalNetBackbone"):
            call()


def test_overlay_colors_are_signed_and_zero_is_gray():
    evidence = np.zeros((4, 4), "float32")
    evidence[0], evidence[3] = 1, -1
    found = np.int32(overlay(np.full((40, 40, 3), 100, "uint8"), evidence))
    assert found.shape == (40, 40, 3)
    assert np.abs(found[2, 20] - FOR).max() < 40
    assert np.abs(found[37, 20] - AGAINST).max() < 40
    assert np.ptp(found[20, 20]) == 0
    assert color_scale(np.zeros((2, 2))) == 1.0


@pytest.mark.slow
def test_explanation_figure_shows_the_bars_of_all_levels(net, photo):
    one = focalnets.explain(net, photo)[0]
    figure = one.show()
    assert figure.size[0] == 1140
    colors = {tuple(color) for color in np.asarray(figure).reshape(-1, 3)[::3]}
    assert {FOR, (68, 1, 84), (49, 104, 142), (120, 120, 120)} <= colors, "target, two levels, global"
    edges = np.concatenate(
        [np.asarray(figure)[[0, -1]].reshape(-1, 3), np.asarray(figure)[:, [0, -1]].reshape(-1, 3)]
    )
    assert (edges == 255).all(), "nothing is clipped"
    assert one._repr_html_().startswith('<img src="data:image/png;base64,')


def page_data(path):
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"(?:src|href)=[\"']?https?:", text), "no request to anybody"
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])


@pytest.mark.slow
def test_page_holds_the_evidence_of_every_image(net, photo, tmp_path, capsys):
    hostile = tmp_path / "<script>alert(1)</script>.png"
    shutil.copy(photo, tmp_path / "hostile.png")
    try:
        (tmp_path / "hostile.png").rename(hostile)
    except OSError:  # "/" in the name
        hostile = tmp_path / "<script>.png"
        (tmp_path / "hostile.png").rename(hostile)
    command = ["explain", PRESET, str(photo), str(hostile), "--html", "--out", str(tmp_path / "out")]
    assert main(command) == 0
    assert "explorer.html" in capsys.readouterr().out
    data = page_data(tmp_path / "out" / "explorer.html")
    assert data["classes"] == list(net.class_names)
    first = focalnets.explain(net, photo)[0]
    shown = data["images"][0]
    assert shown["top"][0][0] == net.class_names.index(first.target)
    assert data["classes"][shown["label"]] == "frog"
    tap = shown["evidence"][str(shown["target"])]["stage1_block1"]
    import base64

    values = np.frombuffer(base64.b64decode(tap["data"]), "int8").reshape(tap["size"]) * tap["scale"] / 127
    np.testing.assert_allclose(values, first.taps["stage1_block1"], atol=0.51 * tap["scale"] / 127)
    assert (tmp_path / "out" / "explorer.html").stat().st_size < 2 * 30_000 + 60_000


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium, which runs the page")
def test_page_draws_and_filters_in_chromium(net, tmp_path):
    """A script in a copy of the page does what a reader does: keyboard, controls."""
    odd = tmp_path / 'x" data-odd="1.jpg'  # must not become an attribute
    shutil.copy(FOLDER / "ship.jpg", odd)
    focalnets.explain(net, [*sorted(FOLDER.glob("*.jpg"))[:2], odd]).to_html(tmp_path / "page.html")
    steps = """
    const key = (name) => dispatchEvent(new KeyboardEvent("keydown", { key: name }));
    const pixels = () => byId("canvas").getContext("2d").getImageData(0, 0, 999, 999).data;
    const sum = () => pixels().reduce((a, b) => a + b, 0);
    const wait = () => new Promise((done) => setTimeout(done, 150));
    (async () => {
      await wait(); const found = [byId("headline").textContent, sum()];
      key("o"); await wait(); found.push(sum()); key("o");
      key("ArrowRight"); await wait(); found.push(byId("headline").textContent, sum());
      byId("view").value = "gates|stage2_block3|0"; byId("view").dispatchEvent(new Event("change"));
      await wait(); found.push(byId("low").textContent);
      byId("versus").selectedIndex = 1; byId("versus").dispatchEvent(new Event("change"));
      found.push(byId("sentence").textContent, byId("count").textContent);
      found.push(document.documentElement.scrollWidth <= innerWidth);
      found.push(document.querySelectorAll("[data-odd]").length);
      const out = document.createElement("pre"); out.id = "found";
      out.textContent = JSON.stringify(found); document.body.append(out);
    })().catch((error) => { document.title = String(error); });
    """
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    (tmp_path / "page.html").write_text(
        page.replace("</script></body>", f"{steps}</script></body>"), encoding="utf-8"
    )
    options = (
        "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync"
    )
    command = [CHROMIUM, *options.split(), f"--user-data-dir={tmp_path / 'profile'}", "--window-size=500,900"]
    command += ["--virtual-time-budget=4000", "--dump-dom", (tmp_path / "page.html").as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    match = re.search(r'<pre id="found">(.*?)</pre>', dom, re.DOTALL)
    assert match, re.search(r"<title>(.*?)</title>", dom)[1]
    found = json.loads(match[1].replace("&amp;", "&"))
    first, drawn, bare, second, other, low, sentence, count, fits, odd_attributes = found
    assert odd_attributes == 0
    assert first != second
    assert len({drawn, bare, other}) == 3, "the overlay is drawn, removed, and changes with the image"
    assert low.strip().startswith("\u2212")
    assert "rather than" in sentence
    assert count == "3 of 3 images"
    assert fits, "nothing is wider than the window"


@pytest.mark.slow
def test_score_command_writes_table_and_page(tmp_path, capsys):
    images = np.stack([np.asarray(Image.open(path)) for path in sorted(FOLDER.glob("*.jpg"))])
    np.savez(tmp_path / "ten.npz", x_train=images, y_train=np.arange(10), x_test=images, y_test=np.arange(10))
    command = ["explain", PRESET, "--score", str(tmp_path / "ten.npz"), "--limit", "2", "--out"]
    assert main([*command, str(tmp_path / "scores")]) == 0
    assert "exact evidence" in capsys.readouterr().out
    record = json.loads((tmp_path / "scores" / "scores.json").read_text())
    assert record["images"] == 2
    assert main(["explain", PRESET, str(FOLDER / "cat.jpg"), *command[2:], str(tmp_path / "more")]) == 2
    assert "--score measures its data set alone; got also" in capsys.readouterr().err
