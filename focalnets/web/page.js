"use strict";
// The page of `focalnets export --format web`: the network runs in the page itself.
function script(name) {
  return new Promise((done, fail) => {
    const one = document.createElement("script");
    one.src = name;
    one.onload = done;
    one.onerror = () => fail(new Error(`${name} is missing. It has to be in the folder of this page.`));
    document.head.append(one);
  });
}

const sessions = Promise.all([script("runtime.js"), script("network.js")]).then(() =>
  openNetwork(URL.createObjectURL(new Blob([atob(packedRuntime.loader)], { type: "text/javascript" }))));
sessions.catch((error) => { document.getElementById("problem").textContent = error.message; });

function context(width, height) {
  return Object.assign(document.createElement("canvas"), { width, height }).getContext("2d", { willReadFrequently: true });
}

async function explainFile(file, say) {
  const opened = await sessions;
  let picture;
  try {
    picture = await createImageBitmap(file, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  } catch {
    throw new Error(`${file.name} is not an image that this browser opens.`);
  }
  const whole = context(picture.width, picture.height);
  whole.drawImage(picture, 0, 0);
  const pixels = prepare(whole.getImageData(0, 0, picture.width, picture.height));
  const top = await classified(opened, pixels);
  say(`${file.name}: ${data.classes[top[0][0]]} ${(100 * top[0][1]).toFixed(1)}%. Computing the evidence ...`);
  await new Promise((done) => setTimeout(done)); // shows the message before the work
  const found = await explained(opened, pixels, top);
  const [height, width, channels] = packedNetwork.shape;
  const small = context(width, height);
  const colors = small.createImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    for (let k = 0; k < 3; k++) colors.data[4 * i + k] = pixels[channels * i + (channels === 3 ? k : 0)];
    colors.data[4 * i + 3] = 255;
  }
  small.putImageData(colors, 0, 0);
  return { name: file.name, photo: small.canvas.toDataURL(), size: [height, width], ...found };
}
