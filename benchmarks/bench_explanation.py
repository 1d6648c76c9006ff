"""Exactness, faithfulness and speed of the explanations.

    python benchmarks/bench_explanation.py sums|levels|localization|randomization|noise|time
        [--preset focalnet_micro_cifar10] [--data cifar10] [--images 200]

`sums` prints the largest error of the sums of evidence. `levels` compares the evidence of the focal levels
with the loss of the logit when one level is switched off, by the rank correlation within each image.
`localization` measures maps on made images with an object in a known place. `randomization` compares the maps
with those of networks whose last layers have random weights, and `noise` with those of images with noise.
`time` compares the time of the evidence with that of a forward pass, alternating. Faithfulness itself is
measured by `focalnets explain --score`.
"""

import argparse
import statistics
import time

import focalnets  # before keras: it chooses the backend  # isort: skip
import keras
import measure
import numpy as np

from focalnets.explanation.attribution import evidence, switch_off
from focalnets.explanation.comparison import COMPARISONS
from focalnets.explanation.faithfulness import Interval
from focalnets.explanation.localization import energy_inside, grid_images, pasted_images, points_inside
from focalnets.models.evidence import evidence_model, taps, target_vector


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--preset", default="focalnet_micro_cifar10")
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--images", type=int, default=200)
    arguments = parser.parse_args()
    net = focalnets.FocalNetImageClassifier.from_preset(arguments.preset)
    images, labels = None, None
    if arguments.part != "time":
        channels, prepare = net.backbone.image_shape[-1], net.image_converter.prepare
        split = focalnets.open_dataset(arguments.data, channels, prepare).splits["test"]
        rows = np.sort(np.random.default_rng(1).permutation(len(split))[: arguments.images])
        images, labels = split.batch(rows), np.array([split.labels[row] for row in rows])
    rows = list(PARTS[arguments.part](net, images, labels))
    for row in rows:
        row |= {"preset": arguments.preset, "images": 0 if images is None else len(images)}
        print(row)
    measure.write_rows(f"explanation-{arguments.part}_{arguments.preset.replace('_', '-')}", rows)


def predicted_targets(net, images):
    classes = net.predict(images, verbose=0).argmax(axis=-1)
    return classes, np.stack([target_vector(net.num_classes, one) for one in classes])


def sums(net, images, labels):
    _, targets = predicted_targets(net, images)
    for reference in ("mean", "blur"):
        found = evidence(net, images, targets, reference)
        for tap in taps(net):
            error = np.abs(found.taps[tap].sum(axis=(1, 2), dtype="float64") - found.total)
            yield {
                "reference": reference,
                "tap": tap,
                "largest_error": f"{error.max():.2e}",
                "mean_total": f"{np.abs(found.total).mean():.4f}",
            }


def levels(net, images, labels):
    from scipy.stats import spearmanr

    _, targets = predicted_targets(net, images)
    found = evidence(net, images, targets, levels=True)
    shares, lost = [], []
    for block, values in found.levels.items():
        for level in range(values.shape[-1]):
            shares.append(values[..., level].sum(axis=(1, 2)))
            lost.append(switch_off(net, images, targets, block, [level]))
    gates = focalnets.modulation_model(net).predict(images, verbose=0)["gates"]
    means = [one.mean(axis=(1, 2)) for block in found.levels for one in np.moveaxis(gates[block], -1, 0)]
    for name, values in (("evidence of the level", shares), ("mean gate", means)):
        pairs = zip(np.transpose(values), np.transpose(lost), strict=True)
        yield {"map": name, "spearman": str(Interval.of([spearmanr(*pair)[0] for pair in pairs]))}


def localization(net, images, labels):
    classes, _ = predicted_targets(net, images)
    right = classes == labels
    for name, make in (("grid", grid_images), ("pasted", pasted_images)):
        made = make(images[right], classes[right], len(images))
        targets = np.stack([target_vector(net.num_classes, one) for one in made.classes])
        exact = evidence(net, made.images, targets)
        maps = {
            "exact evidence": exact.map(),
            "CAM": exact.at("norm"),
            "exact evidence, pixels": exact.at("pixels"),
        }
        for one in ("Grad-CAM", "modulator norm", "center", "random"):
            maps[one] = COMPARISONS[one](net, made.images, targets)
        for one, values in maps.items():
            yield {
                "set": name,
                "map": one,
                "energy": str(Interval.of(energy_inside(values, made.regions))),
                "pointing": str(Interval.of(points_inside(values, made.regions))),
            }


def randomization(net, images, labels):
    """Random weights from the head down, layer by layer (Adebayo et al., arXiv 1810.03292)."""
    from scipy.stats import spearmanr

    _, targets = predicted_targets(net, images)
    names = ("Grad-CAM", "modulator norm")

    def maps():
        found = {"exact evidence": evidence(net, images, targets).map()}
        return found | {name: COMPARISONS[name](net, images, targets) for name in names}

    whole, generator = maps(), np.random.default_rng(0)
    for layer in [net.head, *reversed(net.backbone.layers)]:
        if not layer.trainable_variables:
            continue
        for variable in layer.trainable_variables:
            variable.assign(
                generator.permutation(np.ravel(keras.ops.convert_to_numpy(variable))).reshape(variable.shape)
            )
        for name, values in maps().items():
            pairs = zip(whole[name], values, strict=True)
            ranks = [spearmanr(np.ravel(a), np.ravel(b))[0] for a, b in pairs]
            yield {"random_from": layer.name, "map": name, "spearman": f"{np.nanmean(ranks):.3f}"}


def noise(net, images, labels):
    from scipy.stats import spearmanr

    classes, targets = predicted_targets(net, images)
    for deviation in (2, 5, 10):
        noisy = images + np.random.default_rng(0).normal(0, deviation, images.shape)
        noisy = np.rint(noisy).clip(0, 255).astype("uint8")
        same = net.predict(noisy, verbose=0).argmax(axis=-1) == classes
        both = {"exact evidence": [evidence(net, one, targets).map() for one in (images, noisy)]}
        for name in ("Grad-CAM", "occlusion"):
            both[name] = [COMPARISONS[name](net, one, targets) for one in (images, noisy)]
        for name, (first, second) in both.items():
            ranks = [
                spearmanr(np.ravel(a), np.ravel(b))[0] for a, b in zip(first[same], second[same], strict=True)
            ]
            yield {
                "noise": deviation,
                "same_class": int(same.sum()),
                "map": name,
                "spearman": str(Interval.of(ranks)),
            }


def time_ratio(net, images, labels, rounds=15):
    """The shipped network, and focalnet_tiny_srf with random weights at 224 pixels, one image."""
    tiny = focalnets.FocalNetImageClassifier.from_preset("focalnet_tiny_srf", load_weights=False)
    for name, one, side, batch in (("preset", net, 32, 64), ("focalnet_tiny_srf", tiny, 224, 1)):
        x = np.random.default_rng(0).normal(size=(batch, side, side, 3)).astype("float32") * 60 + 120
        inputs = {"images": x, "targets": np.eye(one.num_classes + 1)[np.zeros(batch, int)]}
        steps = {"forward": (one, x), "evidence": (evidence_model(one), inputs)}
        steps["levels"] = (evidence_model(one, levels=True), inputs)
        seconds = {step: [] for step in steps}
        for turn in range(rounds + 1):
            for step, (model, value) in steps.items():
                start = time.perf_counter()
                model.predict_on_batch(value)
                if turn:  # the first round compiles
                    seconds[step].append(time.perf_counter() - start)
        forward = statistics.median(seconds["forward"])
        for step, values in seconds.items():
            ratios = [a / b for a, b in zip(values, seconds["forward"], strict=True)]
            yield {
                "network": name,
                "side": side,
                "batch": batch,
                "step": step,
                "ms_per_image": f"{1e3 * statistics.median(values) / batch:.2f}",
                "ratio": f"{statistics.median(ratios):.2f}",
                "ratio_spread": f"{min(ratios):.2f} to {max(ratios):.2f}",
                "forward_ms": f"{1e3 * forward / batch:.2f}",
            }


PARTS = {
    "sums": sums,
    "levels": levels,
    "localization": localization,
    "randomization": randomization,
    "noise": noise,
    "time": time_ratio,
}

if __name__ == "__main__":
    main()
