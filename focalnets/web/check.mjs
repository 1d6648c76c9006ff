// Runs the graphs of a folder in ONNX Runtime Web under Node, for the verification of an export. Each line of
// the input is a request in JSON: {graph, inputs: {name: {type, dims, file}}, out}. The answer, a line of JSON,
// has the shapes of the outputs, whose float32 values are in the file `out`, one after the other. With
// {image: {width, height, file}, out}, `prepare` is run instead.
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import readline from "node:readline";
import { pathToFileURL } from "node:url";

const [folder, inference] = process.argv.slice(2);
const sources = [path.join(folder, "runtime.js"), path.join(folder, "network.js"), inference];
const text = sources.map((file) => fs.readFileSync(file, "utf8")).join("\n");
const { openNetwork, prepare, packedRuntime, ort } = new Function(
  `${text}\nreturn { openNetwork, prepare, packedRuntime, ort };`)();
const temporary = fs.mkdtempSync(path.join(os.tmpdir(), "focalnets-"));
process.on("exit", () => fs.rmSync(temporary, { recursive: true }));
const loader = path.join(temporary, "loader.mjs");
fs.writeFileSync(loader, Buffer.from(packedRuntime.loader, "base64"));
let sessions; // opened for the first graph that is asked for

const TYPES = { uint8: Uint8Array, float32: Float32Array };
for await (const line of readline.createInterface({ input: process.stdin })) {
  const { graph, inputs, image, out } = JSON.parse(line);
  const read = (file) => { const bytes = fs.readFileSync(file); return bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length); };
  if (image) {
    fs.writeFileSync(out, prepare({ ...image, data: new Uint8Array(read(image.file)) }));
    console.log("{}");
    continue;
  }
  const feeds = Object.fromEntries(Object.entries(inputs).map(([name, { type, dims, file }]) =>
    [name, new ort.Tensor(type, new TYPES[type](read(file)), dims)]));
  sessions ??= await openNetwork(pathToFileURL(loader).href);
  const session = await sessions[graph];
  const start = performance.now();
  const found = await session.run(feeds);
  const milliseconds = performance.now() - start;
  const outputs = Object.entries(found);
  fs.writeFileSync(out, Buffer.concat(outputs.map(([, { data }]) => Buffer.from(data.buffer, data.byteOffset, data.byteLength))));
  console.log(JSON.stringify({ milliseconds, outputs: outputs.map(([name, { dims }]) => [name, dims]) }));
}
