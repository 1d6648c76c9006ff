"use strict";
// A network in the browser: its preprocessing as in resizing.py, and its graphs in ONNX Runtime Web. Node runs
// this file, too, to compare an export with Keras. `packedRuntime` and `packedNetwork` come from the files
// beside the page; see folder.py.

async function unpacked(text) {
  const raw = atob(text);
  const bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

// Promises of the sessions by name. `loader` is the address of the module that starts WebAssembly. The small
// graph opens first, so that a prediction does not wait for the evidence.
async function openNetwork(loader) {
  ort.env.logLevel = "error";
  ort.env.wasm.numThreads = 1; // threads need headers of a server
  ort.env.wasm.wasmPaths = { mjs: loader };
  ort.env.wasm.wasmBinary = await unpacked(packedRuntime.binary);
  const open = async (name) =>
    ort.InferenceSession.create(await unpacked(packedNetwork.graphs[name]), { executionProviders: ["wasm"] });
  const classify = open("classify");
  return { classify, explain: classify.then(() => open("explain")) };
}

// Weights of the input pixels for each output pixel along one side, as Pillow computes them: a filter that is
// as wide as an output pixel, in fixed point with 22 bits. Pillow 13 resizes some tall images along their height
// first, and these differ by up to two gray levels.
const FILTERS = {
  bilinear: [1, (x) => Math.max(0, 1 - Math.abs(x))],
  bicubic: [2, (x) => {
    x = Math.abs(x);
    if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
    return x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
  }],
  lanczos: [3, (x) => {
    const sinc = (y) => (y === 0 ? 1 : Math.sin(Math.PI * y) / (Math.PI * y));
    return Math.abs(x) < 3 ? sinc(x) * sinc(x / 3) : 0;
  }],
};

function taps(from, to, interpolation) {
  const scale = from / to;
  if (interpolation === "nearest" || from === to) {
    let place = scale / 2; // Pillow adds up, too, which rounds differently from a product
    return Array.from({ length: to }, () => {
      const start = Math.floor(place);
      place += scale;
      return { start, weights: [2 ** 22] };
    });
  }
  const [support, filter] = FILTERS[interpolation];
  const stretch = Math.max(scale, 1);
  return Array.from({ length: to }, (_, i) => {
    const center = (i + 0.5) * scale;
    const start = Math.max(0, Math.trunc(center - support * stretch + 0.5));
    const end = Math.min(from, Math.trunc(center + support * stretch + 0.5));
    const raw = Array.from({ length: end - start }, (_, k) => filter((start + k - center + 0.5) / stretch));
    const sum = raw.reduce((a, b) => a + b, 0);
    return { start, weights: raw.map((w) => Math.trunc((w / sum) * 2 ** 22 + (w < 0 ? -0.5 : 0.5))) };
  });
}

// Resample one side of planes of pixels: `outer` lines, each with `from` times `inner` values. Only the
// outputs from `first` on, `count` of them, are computed.
function resample(pixels, outer, from, inner, all, first, count) {
  const found = new Uint8ClampedArray(outer * count * inner);
  for (let line = 0; line < outer; line++) {
    for (let i = 0; i < count; i++) {
      const { start, weights } = all[first + i];
      for (let k = 0; k < inner; k++) {
        let sum = 2 ** 21;
        for (let j = 0; j < weights.length; j++) sum += weights[j] * pixels[(line * from + start + j) * inner + k];
        found[(line * count + i) * inner + k] = Math.floor(sum / 2 ** 22);
      }
    }
  }
  return found;
}

function roundedToEven(value) {
  const down = Math.floor(value);
  return value - down === 0.5 ? down + (down % 2) : Math.round(value);
}

// uint8 pixels of the size of the network from an image of {width, height, data}, where data is RGBA.
function prepare(image) {
  const { shape, preprocessing } = packedNetwork;
  const [height, width, channels] = shape;
  const { crop_fraction: fraction, interpolation } = preprocessing;
  const count = image.width * image.height;
  let pixels = new Uint8ClampedArray(count * channels);
  const onWhite = (i, k) => { // without arrays: a photograph has millions of pixels
    const alpha = image.data[4 * i + 3];
    return Math.round((image.data[4 * i + k] * alpha + 255 * (255 - alpha)) / 255);
  };
  for (let i = 0; i < count; i++) {
    if (channels === 3) for (let k = 0; k < 3; k++) pixels[3 * i + k] = onWhite(i, k);
    else pixels[i] = (onWhite(i, 0) * 19595 + onWhite(i, 1) * 38470 + onWhite(i, 2) * 7471 + 32768) >> 16;
  }
  if (image.width === width && image.height === height && fraction === 1) return new Uint8Array(pixels.buffer);
  const [high, wide] = [Math.floor(height / fraction), Math.floor(width / fraction)];
  const tall = high * image.width >= wide * image.height;
  const resized = tall
    ? [high, Math.max(Math.floor((high * image.width) / image.height), width)]
    : [Math.max(Math.floor((wide * image.height) / image.width), height), wide];
  if (resized[0] * resized[1] > 64e6) throw new Error("The image is too narrow.");
  const top = roundedToEven((resized[0] - height) / 2);
  const left = roundedToEven((resized[1] - width) / 2);
  const across = taps(image.width, resized[1], interpolation);
  const down = taps(image.height, resized[0], interpolation);
  pixels = resample(pixels, image.height, image.width, channels, across, left, width);
  pixels = resample(pixels, 1, image.height, width * channels, down, top, height);
  return new Uint8Array(pixels.buffer);
}

// [class, probability] of the five most probable classes of prepared pixels.
async function classified(sessions, pixels) {
  const images = new ort.Tensor("uint8", pixels, [1, ...packedNetwork.shape]);
  const { data } = (await (await sessions.classify).run({ images })).probabilities;
  const order = [...data.keys()].sort((a, b) => data[b] - data[a]);
  return order.slice(0, 5).map((index) => [index, data[index]]);
}

// Data for the page, see `explorer_image` in explorer.py: the evidence for the most probable classes.
async function explained(sessions, pixels, top, most = 3) {
  const { shape, classes, windows } = packedNetwork;
  const chosen = top.slice(0, most).map(([index]) => index);
  const targets = new Float32Array(chosen.length * (classes + 1));
  const repeated = new Uint8Array(chosen.length * pixels.length);
  chosen.forEach((index, row) => {
    targets[row * (classes + 1) + index] = 1;
    repeated.set(pixels, row * pixels.length);
  });
  const found = await (await sessions.explain).run({
    images: new ort.Tensor("uint8", repeated, [chosen.length, ...shape]),
    targets: new ort.Tensor("float32", targets, [chosen.length, classes + 1]),
  });
  const map = (name, row) => {
    const { dims, data } = found[name];
    const length = data.length / dims[0];
    return { size: dims.slice(1), values: data.slice(row * length, (row + 1) * length) };
  };
  const levels = Object.fromEntries(Object.keys(windows).map((block) => [block, map(`levels_${block}`, 0)]));
  return {
    top,
    label: null,
    target: chosen[0],
    versus: -1,
    logits: Object.fromEntries(chosen.map((index, row) => [index,
      ["logits", "reference_logits"].map((name) => found[name].data[(found[name].dims[0] > 1 ? row : 0) * classes + index])])),
    evidence: Object.fromEntries(chosen.map((index, row) => [index, {
      mean: map("evidence", row),
      ...Object.fromEntries(packedNetwork.taps.map((tap) => [tap, map(`evidence_${tap}`, row)])),
    }])),
    levels,
    totals: Object.fromEntries(Object.entries(levels).map(([block, { size, values }]) => {
      const sums = new Array(size[2]).fill(0);
      values.forEach((value, i) => { sums[i % size[2]] += value; });
      return [block, sums];
    })),
    gates: {},
    norms: {},
  };
}
