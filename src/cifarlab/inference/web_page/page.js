// Classify pictures with the network inside this page. The page's security policy forbids every connection.
// Names of classes and files are set as text, never as HTML.
const POSSIBLE = 0.1; // from this probability on, another class is named beside an answer that is not sure
const LISTED = 10; // classes, most likely first
const MOST_PIXELS = 16e6; // of a canvas on phones; larger photos are shrunk by the browser first
const MOST_PAGES = 16384; // of 64 KB, 1 GB: Safari on phones refuses memory that may grow to 4 GB
const CHUNK = 10; // images of a heat map that are computed before the page reacts to its visitor
const LIVE_HEAT = 200; // milliseconds: a slower heat map is drawn only when the camera stops

const $ = (id) => document.getElementById(id);
const { classes, size, resize, channels, tta, sure } = JSON.parse($("settings").textContent);
const percent = (value) => `${(100 * value).toFixed(1)}\u00a0%`;
const pause = () => new Promise((resolve) => setTimeout(resolve));
let runtime, session;

async function unpacked(id) { // base64 of gzip
  const text = atob($(id).textContent), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function start() {
  const { Memory } = WebAssembly;
  WebAssembly.Memory = class extends Memory {
    constructor(limits) { super({ ...limits, maximum: Math.min(limits.maximum, MOST_PAGES) }); }
  };
  runtime = await import(`data:text/javascript;base64,${$("runtime").textContent}`);
  Object.assign(runtime.env.wasm, { numThreads: 1, wasmBinary: await unpacked("wasm") });
  session = await runtime.InferenceSession.create(await unpacked("network"), { executionProviders: ["wasm"] });
  for (const id of ["runtime", "wasm", "network"]) $(id).remove(); // megabytes of text
}

// From a picture to the network's pixels, as Pillow makes them in Python.

function resized({ data, width, height }, [left, top, right, bottom], columns, rows) {
  return stretched(stretched({ data, width, height }, left, right, columns), top, bottom, rows);
}

// Resize the rows from `start` to `end` to `count` pixels and return the result transposed, by Pillow's bicubic filter
// in Pillow's integer arithmetic. Pillow resizes columns first if a picture is about twice as tall as wide, which changes
// some of its values by a few levels of 255.
function stretched({ data, width, height }, start, end, count) {
  const result = new Uint8ClampedArray(4 * count * height).fill(255);
  const scale = (end - start) / count, step = Math.max(scale, 1);
  for (let column = 0; column < count; column++) {
    const centre = start + (column + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - 2 * step + 0.5)), last = Math.min(width, Math.trunc(centre + 2 * step + 0.5));
    const values = Array.from({ length: last - first }, (_, i) => bicubic((i + first - centre + 0.5) / step));
    const sum = values.reduce((total, value) => total + value, 0);
    const weights = Int32Array.from(values, (value) => (value / sum) * 2 ** 22 + 0.5 * Math.sign(value));
    for (let row = 0; row < height; row++) {
      let red = 2 ** 21, green = 2 ** 21, blue = 2 ** 21, from = 4 * (row * width + first);
      for (const weight of weights) {
        red += weight * data[from];
        green += weight * data[from + 1];
        blue += weight * data[from + 2];
        from += 4;
      }
      result.set([red >> 22, green >> 22, blue >> 22], 4 * (column * height + row));
    }
  }
  return { data: result, width: height, height: count };
}

function bicubic(x) {
  x = Math.abs(x);
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? ((x - 5) * x + 8) * x * -0.5 + 2 : 0;
}

function halfToEven(x) { // Python's round
  return x % 1 === 0.5 ? 2 * Math.round(x / 2) : Math.round(x);
}

function square(image) { // RGBA [size, size]
  const { width, height } = image, side = Math.min(width, height);
  if (resize === "stretch") return resized(image, [0, 0, width, height], size, size).data;
  if (resize === "crop") {
    const left = (width - side) / 2, top = (height - side) / 2;
    return resized(image, [left, top, left + side, top + side], size, size).data;
  }
  const short = (part, whole) => Math.max(1, halfToEven((part / whole) * size));
  const columns = width < height ? short(width, height) : size, rows = height < width ? short(height, width) : size;
  const { data } = resized(image, [0, 0, width, height], columns, rows), padded = new Uint8ClampedArray(4 * size * size);
  const left = halfToEven((size - columns) / 2), top = halfToEven((size - rows) / 2);
  for (let i = 3; i < padded.length; i += 4) padded[i] = 255;
  for (let row = 0; row < rows; row++) padded.set(data.subarray(4 * columns * row, 4 * columns * (row + 1)), 4 * (size * (top + row) + left));
  return padded;
}

function pixelsOf(source, width, height) {
  const scale = Math.min(1, Math.sqrt(MOST_PIXELS / (width * height)));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.floor(width * scale));
  canvas.height = Math.max(1, Math.floor(height * scale));
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.fillStyle = "white"; // behind transparent pixels
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(source, 0, 0, canvas.width, canvas.height);
  const pixels = square(context.getImageData(0, 0, canvas.width, canvas.height));
  for (let i = 0; channels === 1 && i < pixels.length; i += 4) { // Pillow's gray
    pixels.fill((19595 * pixels[i] + 38470 * pixels[i + 1] + 7471 * pixels[i + 2] + 32768) >> 16, i, i + 3);
  }
  return pixels;
}

// From pixels to probabilities.

let queue = Promise.resolve(); // a session computes one batch at a time
async function probabilities(images) {
  const bytes = new Uint8Array(images.length * size * size * channels);
  let to = 0;
  for (const image of images) {
    for (let i = 0; i < image.length; i += 4) {
      for (let channel = 0; channel < channels; channel++) bytes[to++] = image[i + channel];
    }
  }
  const feeds = { images: new runtime.Tensor("uint8", bytes, [images.length, size, size, channels]) };
  const computed = queue.then(() => session.run(feeds));
  queue = computed.catch(() => {});
  const { data } = (await computed).probabilities;
  return images.map((_, i) => data.slice(i * classes.length, (i + 1) * classes.length));
}

function view(image, shift, mirrored) { // borders are reflected
  const moved = new Uint8ClampedArray(image.length), last = size - 1;
  const reflected = (i) => (i < 0 ? -i : i > last ? 2 * last - i : i);
  for (let y = 0; y < size; y++) {
    for (let x = 0; x < size; x++) {
      const from = 4 * (size * reflected(y + shift) + reflected((mirrored ? last - x : x) + shift));
      moved.set(image.subarray(from, from + 4), 4 * (size * y + x));
    }
  }
  return moved;
}

async function answerTo(image) { // with test-time augmentation, the mean of the logits over six views
  if (!tta) return (await probabilities([image]))[0];
  const views = [0, -1, 1].flatMap((shift) => [false, true].map((mirrored) => view(image, shift, mirrored)));
  const rows = await probabilities(views), weights = [1 / 4, 1 / 4, 1 / 8, 1 / 8, 1 / 8, 1 / 8];
  const powers = classes.map((_, i) => Math.exp(rows.reduce((sum, row, j) => sum + weights[j] * Math.log(Math.max(row[i], 1e-30)), 0)));
  const total = powers.reduce((sum, power) => sum + power);
  return powers.map((power) => power / total);
}

// How much the probability of a class drops where a patch covers the image: the mean over the patches at each pixel.
// It stops with null as soon as `isStale`.
async function occlusion(image, label, isStale) {
  const patch = Math.max(1, Math.floor(size / 4)), stride = Math.max(1, Math.floor(size / 8));
  const starts = Array.from({ length: size }, (_, i) => i).filter((i) => i <= size - patch && (i % stride === 0 || i === size - patch));
  const corners = starts.flatMap((y) => starts.map((x) => [y, x]));
  const colour = [0, 1, 2].map((channel) => halfToEven(image.reduce((sum, value, i) => sum + (i % 4 === channel ? value : 0), 0) / size ** 2));
  const inside = ([y, x], visit) => {
    for (let row = y; row < y + patch; row++) for (let column = x; column < x + patch; column++) visit(size * row + column);
  };
  const [whole] = await probabilities([image]);
  const drops = new Float32Array(size * size), counts = new Float32Array(size * size);
  for (let start = 0; start < corners.length; start += CHUNK) {
    await pause();
    if (isStale()) return null;
    const chunk = corners.slice(start, start + CHUNK);
    const rows = await probabilities(chunk.map((corner) => {
      const covered = image.slice();
      inside(corner, (pixel) => covered.set(colour, 4 * pixel));
      return covered;
    }));
    chunk.forEach((corner, i) => inside(corner, (pixel) => { drops[pixel] += whole[label] - rows[i][label]; counts[pixel]++; }));
  }
  const means = drops.map((drop, pixel) => Math.max(0, drop / Math.max(1, counts[pixel]))), highest = Math.max(...means);
  return means.map((mean) => (highest ? mean / highest : 0));
}

// What the visitor sees.

const HEAT = [[0, 0, 4], [33, 12, 74], [87, 16, 110], [138, 34, 106], [188, 55, 84], [228, 90, 49], [249, 142, 9], [249, 203, 53], [252, 255, 164]]; // matplotlib's inferno
const OPACITY = 0.75; // of the hottest pixels
function overlaid(image, heat) {
  return image.map((value, i) => {
    if (i % 4 === 3) return 255;
    const hot = heat[i >> 2], opacity = OPACITY * hot, place = Math.min(7, Math.floor(8 * hot)), share = 8 * hot - place;
    const colour = (1 - share) * HEAT[place][i % 4] + share * HEAT[place + 1][i % 4];
    return (1 - opacity) * value + opacity * colour;
  });
}

function draw(id, image) {
  $(id).width = $(id).height = size;
  $(id).getContext("2d").putImageData(new ImageData(image, size), 0, 0);
}

function element(tag, ...children) {
  const created = document.createElement(tag);
  created.append(...children);
  return created;
}

function show(image, row) {
  const ranked = classes.map((name, i) => ({ name, probability: row[i] })).sort((a, b) => b.probability - a.probability);
  const [best, ...rest] = ranked, isSure = best.probability >= sure;
  const possible = rest.filter(({ probability }) => probability >= POSSIBLE).map(({ name }) => name);
  $("verdict").classList.toggle("unsure", !isSure);
  $("answer").textContent = `${best.name}, ${percent(best.probability)}`;
  $("doubt").textContent = isSure ? "" : possible.length ? `Not sure. It may also be: ${possible.join(", ")}.` : "Not sure. Many other classes are possible.";
  $("bars").replaceChildren(...ranked.slice(0, LISTED).map(({ name, probability }) => {
    const bar = element("i"), track = element("span", bar);
    bar.style.width = `${100 * probability}%`;
    track.setAttribute("aria-hidden", "true");
    return element("li", element("span", name), track, element("span", percent(probability)));
  }));
  $("others").textContent = ranked.length > LISTED ? `${ranked.length - LISTED} other classes are less likely.` : "";
  $("pictures").hidden = false;
  draw("seen", image);
  return best.name;
}

let newest = 0, heatTime = 0;
async function classify(number, source, width, height, isLive = false) { // `number` is that of the picture
  const isStale = () => number !== newest; // another picture was given meanwhile
  const image = pixelsOf(source, width, height), row = await answerTo(image);
  if (isStale()) return;
  const name = show(image, row);
  $("evidence").hidden = isLive && heatTime > LIVE_HEAT;
  if ($("evidence").hidden) return;
  if (!isLive) { draw("heat", image); $("legend").textContent = "Looking for the evidence …"; }
  const began = performance.now(), heat = await occlusion(image, classes.indexOf(name), isStale);
  if (!heat) return;
  heatTime = performance.now() - began;
  draw("heat", overlaid(image, heat));
  $("legend").textContent = Math.max(...heat) ? `Evidence for ${name}: the yellow areas count most` : `No single area counts for ${name}`;
}

async function classifyFile(file) {
  if (!file || !session) return;
  stopCamera();
  $("video").hidden = true;
  const number = ++newest;
  $("message").textContent = "";
  $("answer").textContent = "Classifying …";
  const picture = await createImageBitmap(file, { colorSpaceConversion: "none" }).catch(() => null); // as Pillow
  if (number !== newest) return;
  $("picture").hidden = !picture;
  if (!picture) {
    $("pictures").hidden = true;
    $("bars").replaceChildren();
    $("answer").textContent = "No answer";
    $("doubt").textContent = $("others").textContent = "";
    $("message").textContent = `${file.name} is not a picture that this browser can read. Try JPEG or PNG.`;
    return;
  }
  URL.revokeObjectURL($("picture").src);
  Object.assign($("picture"), { src: URL.createObjectURL(file), alt: file.name });
  await classify(number, picture, picture.width, picture.height);
  picture.close();
}

let camera = null, isAsking = false;
async function useCamera() {
  if (isAsking) return;
  isAsking = true;
  $("message").textContent = "";
  try {
    camera = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch (error) {
    $("message").textContent = `The camera cannot be used (${error.message}). Choose a picture instead: phones offer to take one.`;
    return;
  } finally { isAsking = false; }
  const stream = camera, video = $("video");
  Object.assign(video, { srcObject: stream, hidden: false });
  $("picture").hidden = true;
  $("webcam").textContent = "Stop the camera";
  $("verdict").setAttribute("aria-live", "off"); // it changes many times a second
  await video.play();
  while (camera === stream) {
    await classify(++newest, video, video.videoWidth, video.videoHeight, true);
    await new Promise(requestAnimationFrame);
  }
}

function stopCamera() {
  if (!camera) return;
  for (const track of camera.getTracks()) track.stop();
  camera = null;
  $("webcam").textContent = "Use the camera";
  $("verdict").setAttribute("aria-live", "polite");
}

$("file").addEventListener("change", () => { classifyFile($("file").files[0]); $("file").value = ""; });
$("webcam").addEventListener("click", () => {
  const video = $("video");
  if (!camera) return useCamera();
  video.pause(); // the last frame stays
  classify(++newest, video, video.videoWidth, video.videoHeight);
  stopCamera();
});
addEventListener("paste", (event) => classifyFile(event.clipboardData.files[0]));
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  addEventListener(kind, (event) => {
    event.preventDefault(); // a picture beside the frame would replace the page
    $("input").classList.toggle("over", kind === "dragenter" || kind === "dragover");
    if (kind === "drop") classifyFile(event.dataTransfer.files[0]);
  });
}
addEventListener("unhandledrejection", ({ reason }) => { $("message").textContent = `The network failed (${reason.message}). Open the page again.`; });
$("licences").addEventListener("toggle", async () => { $("notices").textContent ||= new TextDecoder().decode(await unpacked("notices-gzip")); });

try {
  await start();
  $("answer").textContent = "Ready for a picture";
  for (const id of ["file", "webcam"]) $(id).disabled = false;
  $("webcam").hidden = !navigator.mediaDevices; // some browsers hide cameras from pages that no server sent
} catch (error) {
  $("answer").textContent = "The network cannot run here";
  $("message").textContent = `This browser does not run the page (${error.message}). It needs one from 2023 or later.`;
}
