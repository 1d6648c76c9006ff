"use strict";
// The data of the page: see `explorer_page` in explorer.py. Maps are int8 with one scale each.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const state = { place: 0, target: 0, versus: -1, view: "mean", opacity: 0.9, filter: "all" };
const dark = matchMedia("(prefers-color-scheme: dark)");
const decoded = new Map();
let shown = null; // the map on the canvas: {height, width, values, scale, signed, total}
let photo = null;

function bytes(text) {
  const raw = atob(text);
  const found = new Int8Array(raw.length);
  for (let i = 0; i < raw.length; i++) found[i] = (raw.charCodeAt(i) << 24) >> 24;
  return found;
}

function decode(map) {
  if (map.values) return { height: map.size[0], width: map.size[1], values: map.values }; // computed in the page
  if (!decoded.has(map)) {
    const small = bytes(map.data);
    decoded.set(map, Float32Array.from(small, (v) => (v * map.scale) / 127));
  }
  return { height: map.size[0], width: map.size[1], values: decoded.get(map) };
}

const escaped = (text) => {
  const span = document.createElement("span");
  span.textContent = text;
  return span.innerHTML.replaceAll('"', "&quot;");
};
const signedText = (value, digits) => (value < 0 ? "\u2212" : "+") + Math.abs(value).toFixed(digits);
const minus = (value) => value.toFixed(2).replace("-", "\u2212");
const image = () => data.images[state.place];
const isWrong = (one) => one.label !== null && one.label !== one.top[0][0];

function visible() {
  const wanted = state.filter;
  const places = [...data.images.keys()];
  if (wanted === "wrong") return places.filter((place) => isWrong(data.images[place]));
  if (wanted === "all") return places;
  return places.filter((place) => data.images[place].top[0][0] === Number(wanted));
}

function evidenceOf(tap) {
  const maps = image().evidence;
  const first = decode(maps[state.target][tap]);
  const values = Float32Array.from(first.values);
  if (state.versus >= 0) {
    const second = decode(maps[state.versus][tap]).values;
    for (let i = 0; i < values.length; i++) values[i] -= second[i];
  }
  return { ...first, values };
}

function currentMap() {
  const [kind, block, level] = state.view.split("|");
  const one = image();
  if (kind === "levels" || kind === "gates") {
    const map = one[kind][block];
    const all = decode(map);
    const depth = map.size[2];
    const values = new Float32Array(all.height * all.width);
    for (let i = 0; i < values.length; i++) values[i] = all.values[i * depth + Number(level)];
    return { ...all, values, signed: true, what: kind === "gates" ? "gate" : "evidence" };
  }
  if (kind === "norms") return { ...decode(one.norms[block]), signed: false, what: "modulator norm" };
  return { ...evidenceOf(kind === "mean" ? "mean" : block), signed: true, what: "evidence" };
}

function colorOf(value, signed) {
  if (!signed) return [68 + 185 * value, 1 + 230 * value, 84 - 48 * value, value];
  return value > 0 ? [178, 24, 43, value] : [33, 102, 172, -value];
}

function draw() {
  if (!data.images.length) return;
  const canvas = byId("canvas");
  const context = canvas.getContext("2d");
  if (!photo || !photo.complete || !photo.naturalWidth) return;
  const zoom = Math.max(1, Math.round(480 / Math.max(photo.naturalWidth, photo.naturalHeight)));
  canvas.width = photo.naturalWidth * zoom;
  canvas.height = photo.naturalHeight * zoom;
  context.imageSmoothingEnabled = zoom < 3;
  context.filter = state.opacity > 0 ? "grayscale(1) invert(1) brightness(0.5) invert(1)" : "none";
  context.drawImage(photo, 0, 0, canvas.width, canvas.height);
  context.filter = "none";
  shown = currentMap();
  const sorted = Float32Array.from(shown.values, Math.abs).sort();
  shown.scale = sorted[Math.floor(0.995 * (sorted.length - 1))] || sorted[sorted.length - 1] || 1;
  const small = document.createElement("canvas");
  small.width = shown.width;
  small.height = shown.height;
  const pixels = small.getContext("2d").createImageData(shown.width, shown.height);
  shown.values.forEach((value, i) => {
    const strength = Math.max(-1, Math.min(1, value / shown.scale));
    const [red, green, blue, alpha] = colorOf(strength, shown.signed);
    pixels.data.set([red, green, blue, 255 * alpha * state.opacity], 4 * i);
  });
  small.getContext("2d").putImageData(pixels, 0, 0);
  // Positions may reach beyond the image, where the network pads it.
  const [height, width] = image().size;
  const stride = Math.max(1, Math.round(Math.max(height / shown.height, width / shown.width)));
  const cover = state.view.startsWith("mean") ? [1, 1] : [(shown.width * stride) / width, (shown.height * stride) / height];
  shown.cover = cover.map((value) => Math.max(1, value));
  context.imageSmoothingEnabled = false;
  context.drawImage(small, 0, 0, canvas.width * shown.cover[0], canvas.height * shown.cover[1]);
  canvas.setAttribute("aria-label", `${image().name}: ${shown.what} for ${data.classes[state.target]}`);
  legend();
}

function legend() {
  byId("legend").style.background = shown.signed
    ? "linear-gradient(90deg, var(--against), transparent, var(--for))"
    : "linear-gradient(90deg, rgb(68 1 84 / 0), rgb(253 231 36))";
  const end = shown.scale.toPrecision(2);
  const names = shown.what === "evidence" ? ["against", "for"] : ["", ""];
  byId("low").textContent = shown.signed ? `${names[0]} \u2212${end}` : "0";
  byId("high").textContent = shown.signed ? `${names[1]} +${end}` : end;
}

function rows(items, signed) {
  const largest = Math.max(...items.map((item) => Math.abs(item.value)), 1e-9);
  return items
    .map(({ name, value, text, color }) => {
      const part = (Math.abs(value) / (signed ? largest : 1)) * (signed ? 50 : 100);
      const left = signed ? (value < 0 ? 50 - part : 50) : 0;
      return `<div class="row"><span title="${escaped(name)}">${escaped(name)}</span>
        <span class="track ${signed ? "signed" : ""}"><i style="left:${left}%;width:${part}%;background:${color}"></i></span>
        <span>${text}</span></div>`;
    })
    .join("");
}

function sentence() {
  const one = image();
  const target = data.classes[state.target];
  if (state.versus < 0) {
    const [logit, reference] = one.logits[state.target];
    return `Evidence for ${target}: ${signedText(logit - reference, 2)}. The logit is ${minus(logit)}; ` +
      `that of the reference image is ${minus(reference)}.`;
  }
  const [a, b] = [one.logits[state.target], one.logits[state.versus]];
  const total = a[0] - a[1] - b[0] + b[1];
  return `Evidence for ${target} rather than ${data.classes[state.versus]}: ${signedText(total, 2)}.`;
}

function panels() {
  const one = image();
  const label = one.label === null ? "" : isWrong(one) ? `, wrong: labeled ${data.classes[one.label]}` : ", correct";
  const [best, probability] = one.top[0];
  byId("headline").textContent = `${data.classes[best]} ${(100 * probability).toFixed(1)}%${label}`;
  byId("sentence").textContent = sentence();
  byId("name").textContent = `${one.name}, ${one.size[0]} x ${one.size[1]} pixels`;
  byId("top").innerHTML = rows(one.top.map(([index, value]) => ({
    name: data.classes[index], value, text: `${(100 * value).toFixed(1)}%`,
    color: index === state.target ? "var(--for)" : index === state.versus ? "var(--against)" : "var(--bar)",
  })), false);
  const explained = state.target === one.target && state.versus === one.versus;
  byId("levels-title").textContent = explained
    ? "Logit that each focal level adds"
    : `Logit that each focal level adds (for ${data.classes[one.target]})`;
  const largest = Math.max(...Object.values(one.totals).flat().map(Math.abs), 1e-9);
  byId("levels").innerHTML = Object.entries(one.totals).map(([block, values]) =>
    `<div class="block">${escaped(block)}</div>` + values.map((value, level) => {
      const part = (50 * Math.abs(value)) / largest;
      return `<div class="row"><span>${data.windows[block][level]}</span><span class="track signed">
        <i style="left:${value < 0 ? 50 - part : 50}%;width:${part}%;background:var(--${value < 0 ? "against" : "for"})"></i>
        </span><span>${signedText(value, 2)}</span></div>`;
    }).join("")).join("");
}

function options(select, items, value) {
  select.innerHTML = items.map(([key, text]) => `<option value="${escaped(key)}">${escaped(text)}</option>`).join("");
  select.value = String(value);
}

function select(place) {
  state.place = place;
  const one = image();
  state.target = one.target;
  state.versus = one.versus;
  fillClasses();
  document.querySelectorAll("#list button").forEach((button) => {
    const current = Number(button.dataset.place) === place;
    button.setAttribute("aria-current", current);
    if (current) button.scrollIntoView({ block: "nearest" });
  });
  photo = new Image();
  photo.onload = draw;
  photo.src = one.photo;
  panels();
}

function fillClasses() {
  const explained = Object.keys(image().evidence).map(Number);
  options(byId("target"), explained.map((index) => [index, data.classes[index]]), state.target);
  const others = explained.filter((index) => index !== state.target);
  options(byId("versus"), [[-1, "nothing: the logit itself"], ...others.map((i) => [i, data.classes[i]])], state.versus);
}

function fillViews() {
  const groups = [["Evidence, where", [["mean", "mean over all depths"], ...data.taps.map((tap) => [`tap|${tap}`, tap])]]];
  const perLevel = (kind, blocks) => blocks.flatMap((block) =>
    data.windows[block].map((window, level) => [`${kind}|${block}|${level}`, `${block}, ${window}`]));
  groups.push(["Evidence of a focal level", perLevel("levels", data.levelBlocks)]);
  groups.push(["Gates (no explanation)", perLevel("gates", data.gateBlocks)]);
  groups.push(["Modulator norm (no explanation)", data.gateBlocks.map((block) => [`norms|${block}`, block])]);
  byId("view").innerHTML = groups.filter(([, items]) => items.length).map(([title, items]) =>
    `<optgroup label="${title}">` + items.map(([key, text]) => `<option value="${escaped(key)}">${escaped(text)}</option>`).join("") +
    "</optgroup>").join("");
}

function fillList() {
  const places = visible();
  byId("list").innerHTML = places.map((place) => {
    const one = data.images[place];
    const text = `${one.name}: ${data.classes[one.top[0][0]]}${isWrong(one) ? ", wrong" : ""}`;
    return `<button data-place="${place}" class="${isWrong(one) ? "wrong" : ""}" aria-label="${escaped(text)}" title="${escaped(text)}">
      <img src="${one.photo}" alt="" loading="lazy"></button>`;
  }).join("");
  byId("count").textContent = data.images.length ? `${places.length} of ${data.images.length} images` : "no images yet";
  document.body.classList.toggle("empty", !data.images.length);
  if (!data.images.length) return;
  if (places.length && !places.includes(state.place)) select(places[0]);
  else select(state.place);
}

function hover(event) {
  const box = byId("canvas").getBoundingClientRect();
  const x = Math.floor(((event.clientX - box.left) / box.width) * (shown.width / shown.cover[0]));
  const y = Math.floor(((event.clientY - box.top) / box.height) * (shown.height / shown.cover[1]));
  if (!shown || x < 0 || y < 0 || x >= shown.width || y >= shown.height) return;
  const value = shown.values[y * shown.width + x];
  const where = state.view === "mean" || state.view === "tap|pixels" ? "pixel" : "position";
  byId("number").textContent = `${where} (${x}, ${y}): ${shown.what} ${shown.signed ? signedText(value, 4) : value.toFixed(4)}`;
}

function step(by) {
  if (!data.images.length) return;
  const places = visible();
  const next = places[(places.indexOf(state.place) + by + places.length) % places.length];
  if (next !== undefined) select(next);
}

byId("list").addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) select(Number(button.dataset.place));
});
byId("target").addEventListener("change", (event) => {
  state.target = Number(event.target.value);
  if (state.versus === state.target) state.versus = -1;
  fillClasses(); panels(); draw();
});
byId("versus").addEventListener("change", (event) => { state.versus = Number(event.target.value); panels(); draw(); });
byId("view").addEventListener("change", (event) => { state.view = event.target.value; draw(); });
byId("opacity").addEventListener("input", (event) => { state.opacity = event.target.value / 100; draw(); });
byId("filter").addEventListener("change", (event) => { state.filter = event.target.value; fillList(); });
byId("canvas").addEventListener("pointermove", hover);
byId("canvas").addEventListener("pointerdown", hover);
dark.addEventListener("change", draw);
addEventListener("keydown", (event) => {
  if (["SELECT", "INPUT"].includes(event.target.tagName)) return;
  if (event.key === "ArrowRight" || event.key === "j") step(1);
  else if (event.key === "ArrowLeft" || event.key === "k") step(-1);
  else if (event.key === "o") {
    state.opacity = state.opacity > 0 ? 0 : 0.9;
    byId("opacity").value = 100 * state.opacity;
    draw();
  } else return;
  event.preventDefault();
});
// === Images of the reader, if the page has the function `explainFile` ===

async function addFiles(files) {
  const say = (text) => { byId("problem").textContent = text; };
  const problems = [];
  for (const file of files) {
    say(`Explaining ${file.name} ...`);
    try {
      data.images.unshift(await explainFile(file, say));
      state.filter = "all";
      state.place = 0;
      fillFilter();
      fillList();
    } catch (error) {
      problems.push(error.message);
    }
  }
  say(problems.join(" "));
}
if (byId("files")) {
  byId("files").addEventListener("change", (event) => addFiles([...event.target.files]));
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => { event.preventDefault(); addFiles([...event.dataTransfer.files]); });
  addEventListener("paste", (event) => addFiles([...event.clipboardData.files]));
  byId("camera").hidden = !navigator.mediaDevices?.getUserMedia; // browsers have it on https, localhost and disks
  byId("camera").addEventListener("click", () => useCamera().catch((error) => {
    byId("problem").textContent = `The camera cannot be used: ${error.message}`;
  }));
}

// The first press shows what the camera sees, the second takes the picture.
async function useCamera() {
  const video = byId("video");
  if (video.hidden) {
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    video.hidden = false;
    byId("camera").textContent = "Take the picture";
    return;
  }
  const still = Object.assign(document.createElement("canvas"), { width: video.videoWidth, height: video.videoHeight });
  still.getContext("2d").drawImage(video, 0, 0);
  video.srcObject.getTracks().forEach((track) => track.stop());
  video.hidden = true;
  byId("camera").textContent = "Use the camera";
  const blob = await new Promise((done) => still.toBlob(done, "image/png"));
  await addFiles([new File([blob], "picture.png", { type: "image/png" })]);
}

function fillFilter() {
  const labeled = data.images.some((one) => one.label !== null);
  const predicted = [...new Set(data.images.map((one) => one.top[0][0]))].sort((a, b) => a - b);
  options(byId("filter"), [["all", "all images"], ...(labeled ? [["wrong", "wrong predictions"]] : []),
    ...predicted.map((index) => [index, `predicted ${data.classes[index]}`])], "all");
}
fillFilter();
fillViews();
fillList();
