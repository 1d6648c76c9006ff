"""Images per second of the loader for streamed JPEG files of ImageNet's size, compared with bare decoders.

    python benchmarks/bench_input.py [--rounds 5] [--images 600] [--epoch 100000]

The images are synthetic: noise with the spectrum of photographs (1/f), 500 x 375, quality 92, 108 kB on
average. Each contender uses one thread per core, and contenders take turns. simplejpeg is optional. `--epoch`
also streams this many images once and records the memory of the process.
"""

import argparse
import os
import pathlib
import tempfile
import time

import measure
import numpy as np
from PIL import Image

import focalnets  # noqa: F401  isort: skip  selects an installed backend
from focalnets import FocalNetImageConverter, open_dataset
from focalnets.data.cache import square, write_cache
from focalnets.data.loader import Loader
from focalnets.images.augment import Augmentation
from focalnets.images.transforms import crop_box
from focalnets.threads import cores, parallel_map
from focalnets.training.task import ImageClassification

SIZE = (224, 224)
BATCH = 32


def make_image(path, height, width, generator):
    vertical, horizontal = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    frequency = np.hypot(vertical, horizontal)
    frequency[0, 0] = 1
    planes = []
    for _ in range(3):
        noise = generator.normal(size=frequency.shape) + 1j * generator.normal(size=frequency.shape)
        plane = np.fft.irfft2(noise / frequency**1.15, (height, width))
        planes.append((plane - plane.mean()) / plane.std())
    # The color channels of a photograph are similar.
    pixels = 120 + 50 * np.stack([0.85 * planes[0] + 0.3 * plane for plane in planes], axis=-1)
    Image.fromarray(pixels.clip(0, 255).astype("uint8")).save(path, quality=92)


def make_folder(folder, count, distinct=300):
    """Write `count` images of two classes, and return their mean size. All after `distinct` are links."""
    generator = np.random.default_rng(0)
    originals = []
    for i in range(count):
        label = folder / f"class{i % 2}"
        label.mkdir(parents=True, exist_ok=True)
        path = label / f"{i:06}.jpg"
        if i < distinct:
            height, width = (375, 500) if i % 3 else (500, 375)
            make_image(path, height, width, generator)
            originals.append(path)
        else:
            os.link(originals[i % distinct], path)
    return sum(path.stat().st_size for path in originals) / len(originals)


def bare(decode, paths):
    for _ in parallel_map(decode, paths, cores()):
        pass


def pillow(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def pillow_crop(path):
    """Decode, crop and resize an image as the loader does."""
    generator = np.random.default_rng()
    with Image.open(path) as image:
        box = crop_box(image.height, image.width, (0.08, 1.0), generator)
        shrinks = box[2] - box[0] >= SIZE[1] and box[3] - box[1] >= SIZE[0]
        kind = Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR
        return np.asarray(image.resize(SIZE[::-1], kind, box=box))


def through(split, augmentation):
    loader = Loader(split, ImageClassification(2), BATCH, True, augmentation, SIZE)
    for index in range(len(loader)):
        loader[index]


def contenders(folder, cache):
    converter = FocalNetImageConverter(SIZE, crop_fraction=0.875)
    streamed = open_dataset(str(folder), prepare=converter.prepare, cache_images="stream").splits["train"]
    write_cache(open_dataset(str(folder), prepare=square(256), cache_images="stream"), cache)
    cached = open_dataset(str(cache), prepare=converter.prepare, cache_images="stream").splits["train"]
    paths = [streamed.source.names[row] for row in streamed.rows]
    crop = (0.08, 1.0)
    found = {
        "bare Pillow, to an array": lambda: bare(pillow, paths),
        "bare Pillow, cropped and resized": lambda: bare(pillow_crop, paths),
        "random resized crop": lambda: through(streamed, Augmentation(random_resized_crop=crop)),
        "random resized crop, bicubic": lambda: through(
            streamed, Augmentation(random_resized_crop=crop, interpolation="bicubic")
        ),
        "random resized crop, flip, RandAugment": lambda: through(
            streamed, Augmentation(random_resized_crop=crop, flip=True, randaugment=2)
        ),
        "center crop, bicubic, as for evaluation": lambda: through(streamed, None),
        "cache of 256 px, random resized crop": lambda: through(
            cached, Augmentation(random_resized_crop=crop)
        ),
    }
    try:
        import simplejpeg
    except ImportError:
        pass
    else:
        found["bare simplejpeg"] = lambda: bare(
            lambda path: simplejpeg.decode_jpeg(pathlib.Path(path).read_bytes()), paths
        )
    return found, len(paths)


def resident_mb():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def stream_an_epoch(folder, count):
    """Rows with the memory (MB) after each twentieth of an epoch."""
    start = time.perf_counter()
    split = open_dataset(
        str(folder), prepare=FocalNetImageConverter(SIZE).prepare, cache_images="stream"
    ).splits["train"]
    checked = time.perf_counter() - start
    loader = Loader(
        split,
        ImageClassification(2),
        BATCH,
        True,
        Augmentation(random_resized_crop=(0.08, 1.0), flip=True),
        SIZE,
    )
    rows, start = [], time.perf_counter()
    for index in range(len(loader)):
        loader[index]
        if index % (len(loader) // 20) == 0:
            seen = min((index + 1) * BATCH, len(split))
            rows.append(
                {
                    "images": seen,
                    "resident_MB": round(resident_mb(), 1),
                    "images_per_s": round(seen / (time.perf_counter() - start)),
                    "check_s": round(checked, 1),
                }
            )
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--epoch", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        size = make_folder(scratch / "images", arguments.images)
        ways, count = contenders(scratch / "images", scratch / "cache")
        seconds = {name: [] for name in ways}
        for turn in range(arguments.rounds + 1):
            for name, way in ways.items():
                start = time.perf_counter()
                way()
                if turn:  # the first round warms up
                    seconds[name].append(time.perf_counter() - start)
        base = measure.spread(seconds["bare Pillow, to an array"])[0]
        rows = []
        for name, values in seconds.items():
            median, low, high = measure.spread(values)
            rows.append(
                {
                    "what": name,
                    "images": count,
                    "mean_kB": round(size / 1e3),
                    "median_s": median,
                    "min_s": low,
                    "max_s": high,
                    "images_per_s": round(count / median),
                    "of_bare_pillow": round(base / median, 2),
                }
            )
        measure.write_rows(f"input_jpeg_uint8_{measure.machine()}", rows)
        if arguments.epoch:
            # The train split of a folder without splits is four fifths of the images.
            make_folder(scratch / "many", round(arguments.epoch / 0.8))
            rows = stream_an_epoch(scratch / "many", arguments.epoch)
            measure.write_rows(f"input_memory_uint8_{measure.machine()}", rows)


if __name__ == "__main__":
    main()
