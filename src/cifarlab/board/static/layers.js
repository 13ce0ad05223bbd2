// What the layers of a network see: an embedding of test images, feature maps, kernels, and several opinions.
import { $, announce, ask, element, percent } from "/static/board.js";

const MARGIN = 12, RADIUS = 4, MOST_OPINIONS = 6;
let chart = null, sprite = null, file = null, requests = 0;
const target = () => $("target").value;
const colour = (label, count) => `hsl(${Math.round(360 * label / count)} 65% 48%)`;

function place(point) {
  const { width, height } = $("embedding");
  return [width / 2 + point.x * (width / 2 - MARGIN), height / 2 - point.y * (height / 2 - MARGIN)];
}

function drawPoints() {
  const canvas = $("embedding"), context = canvas.getContext("2d"), chosen = Number($("point").value);
  context.clearRect(0, 0, canvas.width, canvas.height);
  chart.points.forEach((point, number) => {
    const [x, y] = place(point);
    context.beginPath();
    context.arc(x, y, number === chosen ? 2 * RADIUS : RADIUS, 0, 2 * Math.PI);
    context.fillStyle = colour(point.true, chart.classes.length);
    context.fill();
    if (point.true !== point.predicted || number === chosen) { context.strokeStyle = getComputedStyle(canvas).color; context.stroke(); }
  });
}

function drawImage(canvas, number) {
  const { size, columns } = chart, context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(sprite, number % columns * size, Math.floor(number / columns) * size, size, size, 0, 0, canvas.width, canvas.height);
}

function choose(number) {
  const point = chart.points[number];
  $("point").value = number;
  drawPoints();
  drawImage($("pointed"), number);
  const verdict = point.true === point.predicted ? "predicted correctly" : `predicted as ${chart.classes[point.predicted]}`;
  $("pointed-about").textContent = `Test image ${point.number}: ${chart.classes[point.true]}, ${verdict}`;
  $("point").setAttribute("aria-valuetext", $("pointed-about").textContent);
}

async function embed() {
  const asked = target();
  chart = null;
  $("chart").hidden = true;
  $("legend").replaceChildren();
  $("embedding-about").textContent = "Computing …";
  try {
    const answer = await ask(`/api/layers/embedding?${new URLSearchParams({ target: asked })}`), image = new Image();
    image.src = answer.sprite;
    await image.decode();
    if (asked !== target()) return;
    [chart, sprite] = [answer, image];
    $("chart").hidden = false;
    $("embedding-about").textContent = `${answer.points.length} of ${answer.images} test images. Their ${answer.dimensions} numbers before the output are drawn in two dimensions (PCA), which hold ${percent(answer.share)} of the variance. Images with an outline are misclassified.`;
    $("point").max = answer.points.length - 1;
    $("legend").replaceChildren(...answer.classes.map((name, label) => {
      const dot = element("i");
      dot.style.background = colour(label, answer.classes.length);
      return element("li", {}, dot, name);
    }));
    choose(0);
  } catch (error) { if (asked === target()) $("embedding-about").textContent = error.message; }
}

function opinion(name, classes) {
  const cells = [0, 1, 2].map((rank) => element("td", {}, classes[rank] ? `${classes[rank].name}, ${percent(classes[rank].probability)}` : "-"));
  return element("tr", {}, element("th", { scope: "row" }, name), ...cells);
}

async function look(image) {
  if (!image) return;
  file = image;
  const number = ++requests, name = target();
  $("answer").hidden = false;
  $("top").textContent = "Looking …";
  try {
    const answer = await ask(`/api/layers?${new URLSearchParams({ target: name })}`, { method: "POST", body: image });
    if (number !== requests) return; // another image was chosen meanwhile
    $("top").textContent = `${answer.classes[0].name}, ${percent(answer.classes[0].probability)}`;
    $("image").src = answer.image;
    $("opinions").tBodies[0].replaceChildren(opinion(name, answer.classes));
    $("kernels").hidden = !answer.kernels;
    if (answer.kernels) $("kernels").src = answer.kernels;
    $("kernels-about").textContent = answer.kernels ? `The ${answer.kernel_count} kernels of the first convolution, at most 64 shown, each scaled by itself.` : "This network has no convolution on the image's colours.";
    $("maps-about").textContent = answer.layers.length ? `${answer.layers.length} of ${answer.all_layers} layers with feature maps. Each map goes from its lowest value (black) to its highest (white).` : "This network has no feature maps that can be read, such as one from an ONNX file.";
    $("maps").replaceChildren(...answer.layers.map((layer, rank) => element("details", rank ? {} : { open: "" },
      element("summary", {}, `${layer.name}, ${layer.kind}: ${layer.shape[0]} maps of ${layer.shape[1]} by ${layer.shape[2]}${layer.shown < layer.shape[0] ? `, the first ${layer.shown}` : ""}`),
      element("img", { src: layer.picture, alt: `feature maps of the layer ${layer.name}`, loading: "lazy" }))));
  } catch (error) { if (number === requests) $("top").textContent = error.message; }
}

async function askOthers() {
  const image = file, number = requests, names = [...$("others").selectedOptions].map((option) => option.value).slice(0, MOST_OPINIONS);
  if (!names.length) announce("Select networks first.");
  for (const name of names) { // one after the other, because others wait too
    try {
      const { classes } = await ask(`/api/predict?${new URLSearchParams({ target: name, explain: "false" })}`, { method: "POST", body: image });
      if (number !== requests) return;
      $("opinions").tBodies[0].append(opinion(name, classes));
    } catch (error) { announce(`${name}: ${error.message}`); }
  }
}

if ($("layers")) {
  $("layers").addEventListener("submit", (event) => event.preventDefault());
  $("file").addEventListener("change", () => look($("file").files[0]));
  $("target").addEventListener("change", () => { embed(); look(file); });
  $("ask").addEventListener("click", askOthers);
  $("point").addEventListener("input", () => choose(Number($("point").value)));
  $("look").addEventListener("click", () => {
    const canvas = element("canvas", { width: chart.size, height: chart.size });
    drawImage(canvas, Number($("point").value));
    canvas.toBlob(look, "image/png");
  });
  $("embedding").addEventListener("click", (event) => {
    const box = $("embedding").getBoundingClientRect(), scale = $("embedding").width / box.width;
    const x = (event.clientX - box.left) * scale, y = (event.clientY - box.top) * scale;
    const distances = chart.points.map((point) => Math.hypot(place(point)[0] - x, place(point)[1] - y));
    choose(distances.indexOf(Math.min(...distances)));
  });
  addEventListener("paste", (event) => look([...event.clipboardData.files][0]));
  for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
    $("drop").addEventListener(kind, (event) => {
      event.preventDefault();
      $("drop").classList.toggle("over", kind === "dragenter" || kind === "dragover");
      if (kind === "drop") look(event.dataTransfer.files[0]);
    });
  }
  embed();
}
