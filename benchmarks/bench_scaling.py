"""Time and memory of focal modulation (linear in the number of positions) and attention (quadratic).

    python benchmarks/bench_scaling.py [--sides 14 28 56 112 224] [--channels 96] [--rounds 5]

One layer runs on one map of side x side positions, on torch: focal modulation with three focal levels,
multi-head attention with an explicit softmax (heads of 32 channels), and the same projections with torch's
fused `scaled_dot_product_attention`. Each layer has four C x C matrix multiplications. Every point has its
own process, so that memory is measured separately. Processes of one size take turns. Attention is skipped if
its matrices need more than 8 GB, and the row says so.

Exponents are fitted to the three largest maps. Crossings of two curves are interpolated between the measured
sizes on logarithmic axes. Writes `results/scaling_*.csv`, `results/scaling-fits_*.csv` and a plot.
"""

import argparse
import datetime
import math
import sys

import measure

DIRECTIONS = ("forward", "forward+backward")
HEAD = 32
LIMIT_GB = 8.0
OURS, EXPLICIT, FUSED = (
    "focal modulation",
    "attention, explicit softmax",
    "attention, torch's fused",
)
FITTED = 3  # number of largest maps for the fit of an exponent


# === Workers ===


def worker(what, direction, side, channels):
    import torch

    torch.manual_seed(0)
    layer, parameters = focal_layer(channels) if what == OURS else attention(what == FUSED, channels)

    def step_on(side):
        x = torch.randn(1, side, side, channels)
        if direction == "forward":

            def step():
                with torch.inference_mode():
                    layer(x)
        else:
            x.requires_grad_()
            gradient = torch.randn_like(x)

            def step():
                torch.autograd.grad(layer(x), [x, *parameters], gradient)

        return step

    step_on(4)()  # threads and buffers that libraries allocate once are not counted
    measure.serve(step_on(side), warmup=1)


def focal_layer(channels):
    import focalnets

    layer = focalnets.FocalModulation(focal_levels=3)
    layer.build((None, None, None, channels))
    return layer, [variable.value for variable in layer.trainable_variables]


def attention(fused, channels):
    """Self-attention over all positions of a (1, H, W, C) map, with `qkv` and `proj` as in a ViT."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    qkv, proj = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
    heads = channels // HEAD

    def layer(x):
        positions = x.shape[1] * x.shape[2]
        # (B, H, W, 3C) -> three times (B, heads, positions, HEAD)
        q, k, v = qkv(x).reshape(1, positions, 3, heads, HEAD).permute(2, 0, 3, 1, 4)
        if fused:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = torch.softmax((q * HEAD**-0.5) @ k.transpose(-2, -1), dim=-1) @ v
        return proj(y.transpose(1, 2).reshape(x.shape))

    return layer, [*qkv.parameters(), *proj.parameters()]


def matrices_gb(direction, side, channels):
    """Memory of the matrices of explicit attention: scores and softmax, or softmax and two gradients."""
    matrices = 2 if direction == "forward" else 3
    return matrices * (channels // HEAD) * side**4 * 4 / 1e9


# === Curves ===


def exponent(points, field):
    """Slope of log(field) over log(positions) for the largest maps, or None."""
    import numpy as np

    found = [(point["positions"], point[field]) for point in points if point[field] not in ("", 0.0)]
    found = found[-FITTED:]
    if len(found) < 2 or min(value for _, value in found) <= 0:
        return None
    return round(float(np.polyfit(*np.log(np.array(found)).T, 1)[0]), 2)


def crossing(ours, theirs, field):
    """Number of positions from which focal modulation needs less, or a text if there is no crossing."""
    theirs = {point["positions"]: point[field] for point in theirs}
    gaps = [
        (math.log(point["positions"]), math.log(theirs[point["positions"]] / point[field]))
        for point in ours
        if point[field] not in ("", 0.0) and theirs.get(point["positions"], "") not in ("", 0.0)
    ]
    if not gaps:
        return "no common size"
    if all(gap > 0 for _, gap in gaps):
        return "less everywhere"
    if gaps[-1][1] <= 0:
        return "not less at the largest common size"
    last = max(index for index, (_, gap) in enumerate(gaps) if gap <= 0)
    (x, low), (next_x, high) = gaps[last], gaps[last + 1]
    return round(math.exp(x - low * (next_x - x) / (high - low)))


def fits_of(rows):
    curves = {}
    for row in rows:
        curves.setdefault((row["what"], row["direction"]), []).append(row)
    fits = []
    for (what, direction), points in curves.items():
        ours = curves.get((OURS, direction), [])
        fit = {"what": what, "direction": direction, "channels": points[0]["channels"]}
        for name, field in (("time", "median_s"), ("memory", "peak_extra_mb")):
            slope = exponent(points, field)
            fit[f"{name}_exponent"] = "" if slope is None else slope
            fit[f"ours_less_{name}_from"] = "" if what == OURS else crossing(ours, points, field)
        fits.append(fit)
    return fits


def draw(rows, fits, path):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    colors = {OURS: "#0072B2", EXPLICIT: "#D55E00", FUSED: "#009E73"}
    styles = {"forward": ("o", "-"), "forward+backward": ("s", "--")}
    figure, panels = pyplot.subplots(1, 2, figsize=(12, 6.4), layout="constrained")
    for panel, name, field, label in (
        (panels[0], "time", "median_s", "seconds (median)"),
        (panels[1], "memory", "peak_extra_mb", "peak memory above the idle layer, MB"),
    ):
        for fit in fits:
            what, direction = fit["what"], fit["direction"]
            points = [
                (row["positions"], row[field])
                for row in rows
                if (row["what"], row["direction"]) == (what, direction) and row[field] not in ("", 0.0)
            ]
            if not points:
                continue
            slope = fit[f"{name}_exponent"]
            marker, line = styles[direction]
            panel.plot(
                *zip(*points, strict=True),
                marker=marker,
                linestyle=line,
                color=colors[what],
                label=f"{what}, {direction}" + (f": $N^{{{slope}}}$" if slope else ""),
            )
        panel.set(xscale="log", yscale="log", xlabel="positions N", ylabel=label)
        sides = sorted({math.isqrt(row["positions"]) for row in rows})
        panel.set_xticks([side**2 for side in sides], [f"{side}²" for side in sides])
        panel.minorticks_off()
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8, handlelength=4, loc="upper center", bbox_to_anchor=(0.5, -0.12))
    channels = rows[0]["channels"]
    figure.suptitle(f"One layer of {channels} channels, batch 1, float32, {measure.machine()}")
    figure.savefig(path, dpi=150)
    print(f"-> {path}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sides", nargs="*", type=int, default=(14, 28, 56, 112, 224))
    parser.add_argument("--directions", nargs="*", choices=DIRECTIONS, default=DIRECTIONS)
    parser.add_argument("--channels", type=int, default=96, help=f"multiple of {HEAD}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--worker", nargs=3, metavar=("WHAT", "DIRECTION", "SIDE"))
    arguments = parser.parse_args()
    if arguments.channels % HEAD:
        parser.error(f"--channels must be a multiple of {HEAD}; got {arguments.channels}")
    if arguments.worker:
        what, direction, side = arguments.worker
        return worker(what, direction, int(side), arguments.channels)

    rows, left_out = [], {}
    for side in sorted(arguments.sides):
        commands, notes = {}, {}
        for what in (OURS, EXPLICIT, FUSED):
            for direction in arguments.directions:
                needed = matrices_gb(direction, side, arguments.channels)
                if what == EXPLICIT and needed > LIMIT_GB:
                    notes[what, direction] = f"left out: its matrices need {needed:.0f} GB"
                    continue
                point = ["--worker", what, direction, str(side), "--channels", str(arguments.channels)]
                environment = {**measure.CPU_ONLY, "KERAS_BACKEND": "torch"}
                commands[what, direction] = ([sys.executable, __file__, *point], environment)
        measured, failed = measure.interleave(commands, arguments.rounds)
        notes |= {key: f"left out: {reason}" for key, reason in failed.items()}
        for what, direction in [*measured, *notes]:
            result = measured.get((what, direction))
            median, low, high = result.spread() if result else ("", "", "")
            note = notes.get((what, direction), "")
            if note:
                left_out[f"{what}, {direction}, {side} x {side}"] = note.removeprefix("left out: ")
            rows.append(
                {
                    "what": what,
                    "direction": direction,
                    "channels": arguments.channels,
                    "positions": side * side,
                    "median_s": median,
                    "min_s": low,
                    "max_s": high,
                    "peak_extra_mb": result.peak_extra_mb if result else "",
                    "note": note,
                }
            )
    order = (OURS, EXPLICIT, FUSED)
    rows.sort(key=lambda row: (order.index(row["what"]), row["direction"], row["positions"]))
    name = f"float32_{measure.machine()}"
    measure.write_rows(f"scaling_{name}", rows)
    fits = fits_of(rows)
    measure.write_rows(f"scaling-fits_{name}", fits)
    draw(rows, fits, measure.RESULTS / f"scaling_{name}_{datetime.date.today()}.png")
    measure.print_left_out(left_out)


if __name__ == "__main__":
    main()
