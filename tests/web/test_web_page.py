"""The page of `export --format web`: in Node the same numbers as in Python, in Chromium the page itself."""

import html
import http.server
import io
import json
import queue
import re
import shutil
import subprocess
import threading
import urllib.parse

import numpy as np
import pytest
from browser import CHROMIUM
from PIL import Image
from reference import randomize

import focalnets
from focalnets import FocalNetBackbone, FocalNetImageClassifier, FocalNetImageConverter, export
from focalnets.images.decode import read_image
from focalnets.resizing import resize_and_crop
from focalnets.web import runtime
from focalnets.web.folder import write_folder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(runtime.missing_programs()), reason="no Node, which runs the page's runtime"),
]


def make_net(channels=3):
    backbone = FocalNetBackbone(4, (1, 1), (1, 2), image_shape=(None, None, channels), seed=0)
    converter = FocalNetImageConverter(image_size=(12, 20), crop_fraction=0.9)
    net = FocalNetImageClassifier(backbone, 4, converter, class_names=("ant", "bee", "<cat>", 'd"og'))
    randomize(net, seed=1)
    return net


@pytest.fixture(scope="module")
def net():
    return make_net()


@pytest.fixture(scope="module")
def folder(net, tmp_path_factory):
    path = tmp_path_factory.mktemp("web") / "out"
    done = export(net, path, format="web")
    assert done.comparison.largest < 1e-5
    assert done.evidence_difference < 1e-4
    return path


def test_folder_has_all_that_the_page_needs(folder):
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    assert names == {"index.html", "runtime.js", "network.js", "export.json", "labels.txt", "README.md"}
    page = (folder / "index.html").read_text()
    assert not re.findall(r"(?:src|href)=\"(?!data:|\$)", page), "nothing is loaded from elsewhere"
    assert "Gates" not in page.partition("<script")[0], "the page has none"
    assert "default-src 'none'" in html.unescape(page)
    assert json.loads((folder / "export.json").read_text())["model"] == "web"
    assert "index.html" in (folder / "README.md").read_text()


# Sizes of images, and the largest difference: Pillow 13 resizes some tall images along their height first.
SIZES = {(12, 20): 0, (13, 22): 0, (7, 5): 0, (40, 31): 0, (31, 90): 0, (200, 33): 2}


@pytest.mark.parametrize(
    ("channels", "fraction", "interpolation"),
    [(3, 0.9, "bicubic"), (3, 1.0, "bilinear"), (1, 0.875, "lanczos"), (3, 0.8, "nearest")],
)
def test_page_prepares_images_as_predict_does(tmp_path, channels, fraction, interpolation):
    preprocessing = {"image_size": [12, 20], "crop_fraction": fraction, "interpolation": interpolation}
    settings = {"shape": [12, 20, channels], "preprocessing": preprocessing, "taps": [], "windows": {}}
    write_folder(tmp_path, {}, settings, ["one"])
    node = runtime.Node(tmp_path)
    generator = np.random.default_rng(0)
    for (height, width), tolerance in SIZES.items():
        pixels = generator.integers(0, 256, (height, width, 4)).astype("uint8")
        if height % 2:
            pixels[..., 3] = 255
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "PNG")
        image = read_image(stream, channels, "image.png")
        expected = resize_and_crop(image, **preprocessing)
        found = node.prepare(pixels, (12, 20, channels))
        np.testing.assert_allclose(found, expected, atol=tolerance, rtol=0, err_msg=str((height, width)))


@pytest.fixture
def told():
    """(address, queue) of a server to which a page goes with what it found, in the query."""
    answers = queue.SimpleQueue()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            query = urllib.parse.urlsplit(self.path).query
            if query:
                answers.put(json.loads(urllib.parse.unquote(query)))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}/", answers
        server.shutdown()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium, which runs the page")
def test_page_explains_in_chromium(net, folder, tmp_path, told):
    """A script in a copy of the page gives it an image, as a reader does, and reads what it shows."""
    shutil.copytree(folder, tmp_path / "copy")
    image = np.random.default_rng(3).integers(0, 256, (30, 44, 3)).astype("uint8")
    Image.fromarray(image).save(tmp_path / "image.png")
    content = list((tmp_path / "image.png").read_bytes())
    steps = f"""
    const tell = (found) => {{ location.href = "{told[0]}?" + encodeURIComponent(JSON.stringify(found)); }};
    (async () => {{
      const said = []; new MutationObserver(() => said.push(byId("problem").textContent))
        .observe(byId("problem"), {{ childList: true }});
      const bad = new File([new Uint8Array([1, 2])], "bad.png");
      await addFiles([bad, new File([new Uint8Array({content})], "image.png")]);
      const one = data.images[0];
      const sums = Object.fromEntries(Object.entries(one.evidence[one.target]).map(([tap, map]) =>
        [tap, map.values.reduce((a, b) => a + b, 0)]));
      tell({{ said, top: one.top, logits: one.logits[one.target], sums, totals: one.totals,
        map: [...one.evidence[one.target].mean.values], headline: byId("headline").textContent,
        problem: byId("problem").textContent,
        requests: performance.getEntriesByType("resource").map((one) => one.name) }});
    }})().catch((error) => tell({{ error: String(error) }}));
    """
    path = tmp_path / "copy" / "index.html"
    path.write_text(path.read_text(encoding="utf-8").replace("</script></body>", f"{steps}</script></body>"))
    options = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking"
    command = [CHROMIUM, *options.split(), f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--remote-debugging-port=0", path.as_uri()]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as browser:
        try:
            found = told[1].get(timeout=120)
        finally:
            browser.kill()
    assert "error" not in found, found
    assert any("Computing the evidence" in text for text in found["said"])
    assert found["problem"] == "bad.png is not an image that this browser opens."
    expected = focalnets.explain(net, tmp_path / "image.png")[0]
    (name, probability), *_ = expected.top(1)
    index, value = found["top"][0]
    assert net.class_names[index] == name
    assert abs(value - probability) < 1e-4
    assert found["headline"].startswith(f"{name} ")
    logit, reference = found["logits"]
    assert max(abs(total - logit + reference) for total in found["sums"].values()) < 1e-4 * abs(logit)
    difference = np.abs(np.reshape(found["map"], (12, 20)) - expected.evidence).max()
    assert difference < 1e-4 * np.abs(expected.evidence).max()
    for block, rows in expected.level_totals():
        values = [value for _, value in rows]
        np.testing.assert_allclose(found["totals"][block], values, atol=1e-4 * abs(logit))
    assert {url.split(":")[0] for url in found["requests"]} <= {"file", "blob"}


def test_other_package_than_the_tested_one_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("FOCALNETS_CACHE", str(tmp_path))
    monkeypatch.setattr(runtime, "_SHA256", "0" * 64)
    with pytest.raises(ValueError, match=r"another onnxruntime-web .* than expected"):
        runtime.runtime_script()
    monkeypatch.setenv("FOCALNETS_OFFLINE", "1")
    with pytest.raises(OSError, match="not in the cache, and FOCALNETS_OFFLINE forbids"):
        runtime.runtime_script()
    monkeypatch.delenv("FOCALNETS_OFFLINE")
    monkeypatch.setattr(runtime, "VERSION", "0.0.1-none")
    with pytest.raises(OSError, match=r"npm cannot download onnxruntime-web 0\.0\.1-none"):
        runtime.runtime_script()


def test_network_without_preprocessing_is_refused(tmp_path):
    bare = FocalNetImageClassifier(FocalNetBackbone(4, (1,), (1,), image_shape=(8, 8, 3), seed=0), 2)
    with pytest.raises(ValueError, match="A web page needs a classifier with preprocessing"):
        export(bare, tmp_path / "out", format="web")
    assert not (tmp_path / "out").exists()


def test_missing_node_is_reported_before_anything_is_written(net, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ImportError, match="needs node and npm, to fetch and to run ONNX Runtime Web"):
        export(net, tmp_path / "out", format="web")
    assert not (tmp_path / "out").exists()
