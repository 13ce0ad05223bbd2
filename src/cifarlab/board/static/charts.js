// Interactive charts of metrics by epoch, drawn by uPlot. They fetch new epochs only, and keep one plot while they grow.
import { $, announce, ask, element, percent } from "/static/board.js";

const SECONDS_BETWEEN_LOOKS = 2;
const HEIGHT = 380, MOST_RUNS = 200;
// Colours of Okabe and Ito, which people with the common colour-vision deficiencies can tell apart; lighter ones on dark pages.
const COLOURS = { light: ["#0072b2", "#c77d00", "#009e73", "#d55e00", "#a8558a", "#3a8fbf", "#6b6b00", "#444444"], dark: ["#6cb8ea", "#e69f00", "#2fcf9f", "#ff8a4c", "#e09ac6", "#9fd4f5", "#f0e442", "#cccccc"] };
const HELD_OUT = "validation"; // of columns; a run may use its test images instead, and then the legend says so
const METRICS = {
  accuracy: { title: "accuracy", columns: ["train_accuracy", "validation_accuracy"], format: percent },
  held_out_accuracy: { title: "accuracy on held-out images", columns: ["validation_accuracy"], format: percent },
  error: { title: "error on held-out images", columns: ["validation_accuracy"], value: (accuracy) => 1 - accuracy, format: percent },
  loss: { title: "loss (nats)", columns: ["train_loss", "validation_loss"] },
  held_out_loss: { title: "loss on held-out images (nats)", columns: ["validation_loss"] },
  learning_rate: { title: "learning rate", columns: ["learning_rate"] },
  train_seconds: { title: "training seconds per epoch", columns: ["train_seconds"] },
  images_per_second: { title: "training images per second", columns: ["images_per_second"] },
};
const plain = (value) => (value == null ? "-" : Number(value.toPrecision(4)).toString());

/** Return an exponential moving average of values, each divided by the sum of its weights; gaps stay gaps. */
function smoothed(values, share) {
  let sum = 0, weight = 0;
  return values.map((value) => {
    if (value == null) return value;
    sum = share * sum + (1 - share) * value;
    weight = share * weight + (1 - share);
    return sum / weight;
  });
}

function saveAs(name, type, content) {
  const address = URL.createObjectURL(new Blob([content], { type }));
  element("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

const quoted = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);

/** Show the runs of a figure of the template chart.html, and keep them up to date. Return a function that shows others. */
export function chart(figure, { metric = "accuracy", onFirst = () => {} } = {}) {
  const control = (name) => figure.querySelector(`[data-control=${name}]`), place = figure.querySelector(".plot");
  let names = [...new Set(JSON.parse(figure.dataset.runs))], plot = null, signature = "", series = [], data = [[]], asking = false, again = false;
  let newest = !names.length; // show the runs that trained last, once there are any
  const runs = new Map(); // columns by the name of the run
  const dark = matchMedia("(prefers-color-scheme: dark)");
  control("metric").replaceChildren(...Object.entries(METRICS).map(([key, { title }]) => element("option", { value: key }, title)));
  control("metric").value = metric;
  const chosen = () => METRICS[control("metric").value];
  const format = (value) => (value == null ? "-" : (chosen().format ?? plain)(value));

  function compute() {
    const { columns, value = (each) => each } = chosen(), colours = COLOURS[dark.matches ? "dark" : "light"];
    const share = Number(control("smoothing").value), log = control("log").checked;
    const shown = names.map((name) => runs.get(name)).filter((run) => run?.columns.epoch.length);
    const last = shown.reduce((most, run) => Math.max(most, run.columns.epoch.length), 0);
    const epochs = Array.from({ length: last }, (_, index) => index + 1);
    series = [];
    data = [epochs];
    for (const run of shown) {
      const colour = colours[names.indexOf(run.name) % colours.length];
      for (const column of columns) {
        const part = column.startsWith("train_") && columns.length > 1 ? "training" : run.held_out;
        const values = smoothed(run.columns[column].map(value), share).map((each) => (log && !(each > 0) ? null : each));
        const label = columns.length > 1 || column.startsWith(HELD_OUT) ? `${run.name}, ${part}` : run.name;
        series.push({ run: run.name, column, label, colour, dashes: part === "training" && columns.length > 1 ? [5, 4] : [] });
        data.push([...values, ...Array(last - values.length).fill(null)]);
      }
    }
  }

  function draw() {
    compute();
    const style = getComputedStyle(figure), log = control("log").checked;
    const key = JSON.stringify([series, log, control("metric").value, dark.matches]);
    control("status").textContent = series.length ? "" : names.length || newest ? "No epochs yet: the curves appear after the first." : "Choose runs below.";
    control("from").max = control("to").max = data[0].length;
    if (plot && key === signature) {
      plot.setData(data, false);
      rescale();
      return;
    }
    signature = key;
    plot?.destroy();
    const axis = { stroke: style.getPropertyValue("--text"), grid: { stroke: style.getPropertyValue("--grid"), width: 1 }, ticks: { stroke: style.getPropertyValue("--grid"), width: 1 } };
    plot = new uPlot({
      width: Math.max(260, place.clientWidth - 18),
      height: HEIGHT,
      scales: { x: { time: false }, y: { distr: log ? 3 : 1 } },
      axes: [
        { ...axis, label: "epoch", incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000] },
        { ...axis, size: 70, values: (_, splits) => splits.map((value) => (value == null ? "" : chosen().format ? `${plain(100 * value)}%` : plain(value))) },
      ],
      series: [
        { label: "epoch", value: (_, value) => value ?? "-" },
        ...series.map(({ label, colour, dashes }) => ({ label, stroke: colour, width: 2, dash: dashes, points: { show: data[0].length < 30, size: 5 }, value: (_, value) => format(value) })),
      ],
      cursor: { focus: { prox: 24 }, drag: { x: true, y: false } },
      focus: { alpha: 0.25 },
      hooks: { setSelect: [zoomed] },
    }, data, place);
    place.querySelector(".u-over").addEventListener("dblclick", reset);
    rescale();
  }

  /** Show the epochs of the fields `from` and `to`; empty fields mean the first and the last. */
  function rescale() {
    if (!plot || !data[0].length) return;
    const from = Number(control("from").value) || 1, to = Number(control("to").value) || data[0].length;
    plot.setScale("x", { min: Math.min(from, to) - (from === to ? 0.5 : 0), max: Math.max(from, to) + (from === to ? 0.5 : 0) });
  }

  function zoomed(shown) {
    if (shown.select.width < 2) return;
    control("from").value = Math.max(1, Math.round(shown.posToVal(shown.select.left, "x")));
    control("to").value = Math.min(data[0].length, Math.round(shown.posToVal(shown.select.left + shown.select.width, "x")));
    rescale();
  }

  function reset() {
    control("from").value = control("to").value = "";
    rescale();
  }

  async function fetchNew(all) {
    for (const name of runs.keys()) if (!names.includes(name)) runs.delete(name);
    const wanted = all || !names.length ? names : names.filter((name) => runs.get(name)?.status !== "finished" || runs.get(name).columns.epoch.length < runs.get(name).epochs);
    if (!wanted.length && !newest) return false;
    const query = new URLSearchParams();
    for (const name of wanted) {
      query.append("run", name);
      query.append("after", runs.get(name)?.columns.epoch.length ?? 0);
    }
    const answers = await ask(`/api/charts?${query}`);
    let isNew = false, isMore = false;
    for (const answer of answers) {
      const known = runs.get(answer.name);
      if (!known || answer.after < known.columns.epoch.length) runs.set(answer.name, answer);
      else {
        for (const [column, values] of Object.entries(answer.columns)) for (const value of values) known.columns[column].push(value);
        Object.assign(known, { status: answer.status, epochs: answer.epochs });
      }
      isNew ||= !known || answer.columns.epoch.length > 0;
      isMore ||= runs.get(answer.name).columns.epoch.length < answer.epochs && answer.columns.epoch.length > 0;
    }
    if (newest && answers.length) {
      names = answers.map((answer) => answer.name);
      newest = false;
      onFirst(names);
    }
    if (isMore) return (await fetchNew(false)) || isNew;
    return isNew;
  }

  async function update(all = false) {
    if (asking) { again ||= all; return; }
    asking = true;
    try { if (await fetchNew(all) || all || !plot) draw(); }
    catch (error) { control("status").textContent = error.message; }
    asking = false;
    if (again) { again = false; await update(true); }
  }

  async function watch() {
    if (!figure.isConnected) return;
    if (!document.hidden && !figure.closest("[hidden]")) await update();
    setTimeout(watch, 1000 * SECONDS_BETWEEN_LOOKS);
  }

  const title = () => `${chosen().title}${Number(control("smoothing").value) ? `, smoothed by ${control("smoothing").value}` : ""}`;
  const fileName = (ending) => `${(names.length === 1 ? names[0] : "runs").replaceAll("/", "-")}-${control("metric").value}.${ending}`;

  /** Return the chart as the text of an SVG file, in light colours, with a legend. */
  function toSvg() {
    const width = 900, plotHeight = 420, left = 80, top = 40, right = 20, row = 18, height = top + plotHeight + 50 + row * series.length;
    const { x, y } = plot.scales, log = control("log").checked;
    const scale = (value) => (log ? Math.log10(value) : value), low = scale(y.min), high = scale(y.max);
    const across = (value) => left + ((value - x.min) / (x.max - x.min || 1)) * (width - left - right);
    const down = (value) => top + plotHeight - ((scale(value) - low) / (high - low || 1)) * plotHeight;
    const svg = (tag, attributes, ...children) => {
      const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
      for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
      made.append(...children);
      return made;
    };
    const root = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, "font-family": "sans-serif", "font-size": 13 });
    root.append(svg("rect", { width, height, fill: "#fff" }), svg("text", { x: left, y: 24, "font-size": 16 }, title()));
    for (let tick = 0; tick <= 5; tick++) {
      const at = low + (tick / 5) * (high - low), value = log ? 10 ** at : at, place = down(value);
      root.append(svg("line", { x1: left, x2: width - right, y1: place, y2: place, stroke: "#ddd" }), svg("text", { x: left - 8, y: place + 4, "text-anchor": "end" }, format(value)));
    }
    const step = Math.max(1, Math.ceil((x.max - x.min) / 10));
    for (let epoch = Math.ceil(x.min); epoch <= x.max; epoch += step) root.append(svg("text", { x: across(epoch), y: top + plotHeight + 18, "text-anchor": "middle" }, String(epoch)));
    root.append(svg("text", { x: (left + width - right) / 2, y: top + plotHeight + 36, "text-anchor": "middle" }, "epoch"));
    series.forEach(({ label, dashes }, number) => {
      const colour = COLOURS.light[names.indexOf(series[number].run) % COLOURS.light.length];
      const points = data[0].flatMap((epoch, index) => (epoch < x.min || epoch > x.max || data[number + 1][index] == null ? [] : [`${across(epoch).toFixed(1)},${down(data[number + 1][index]).toFixed(1)}`]));
      const line = { fill: "none", stroke: colour, "stroke-width": 2, "stroke-dasharray": dashes.join(" ") || "none" }, place = top + plotHeight + 56 + row * number;
      root.append(svg("polyline", { ...line, points: points.join(" ") }));
      if (points.length === 1) root.append(svg("circle", { cx: points[0].split(",")[0], cy: points[0].split(",")[1], r: 3, fill: colour }));
      root.append(svg("line", { ...line, x1: left, x2: left + 30, y1: place - 4, y2: place - 4 }), svg("text", { x: left + 38, y: place }, label));
    });
    return new XMLSerializer().serializeToString(root);
  }

  function savePng() {
    const image = new Image(), address = URL.createObjectURL(new Blob([toSvg()], { type: "image/svg+xml" }));
    image.onload = () => {
      const canvas = element("canvas", { width: 2 * image.width, height: 2 * image.height });
      canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
      canvas.toBlob((blob) => saveAs(fileName("png"), "image/png", blob));
      URL.revokeObjectURL(address);
    };
    image.onerror = () => announce("The browser could not draw the PNG. Save the SVG instead.");
    image.src = address;
  }

  function toCsv() { // values as measured, without smoothing
    const { columns } = chosen(), lines = [["run", "epoch", ...columns].join(",")];
    for (const name of names) {
      const found = runs.get(name)?.columns;
      found?.epoch.forEach((epoch, index) => lines.push([quoted(name), epoch, ...columns.map((column) => found[column][index])].join(",")));
    }
    return `${lines.join("\n")}\n`;
  }

  for (const name of ["metric", "smoothing", "log"]) control(name).addEventListener("input", draw);
  for (const name of ["from", "to"]) control(name).addEventListener("change", rescale);
  control("reset").addEventListener("click", reset);
  control("svg").addEventListener("click", () => plot && saveAs(fileName("svg"), "image/svg+xml", toSvg()));
  control("png").addEventListener("click", () => plot && savePng());
  control("csv").addEventListener("click", () => saveAs(fileName("csv"), "text/csv", toCsv()));
  place.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || !plot) return;
    event.preventDefault();
    const at = Math.min(data[0].length - 1, Math.max(0, (plot.cursor.idx ?? (step > 0 ? -1 : data[0].length)) + step));
    plot.setCursor({ left: plot.valToPos(data[0][at], "x"), top: 10 });
  });
  dark.addEventListener("change", draw);
  new ResizeObserver(() => plot?.setSize({ width: Math.max(260, place.clientWidth - 18), height: HEIGHT })).observe(place);
  if (!newest) onFirst(names);
  update(true).then(watch);

  return (chosenNames) => { names = chosenNames; newest = false; return update(true); };
}

async function chooser(names, show) {
  const rows = (await ask("/api/runs")).filter((row) => row.status !== "damaged" && row.epochs_done), chosen = new Set(names);
  const items = rows.map((row) => {
    const box = element("input", { type: "checkbox", value: row.name });
    box.checked = chosen.has(row.name);
    box.addEventListener("change", () => {
      if (box.checked && chosen.size >= MOST_RUNS) { box.checked = false; announce(`A chart has at most ${MOST_RUNS} runs.`); return; }
      chosen[box.checked ? "add" : "delete"](row.name);
      changed();
    });
    const item = element("li", {}, element("label", {}, box, ` ${row.name} `, element("span", { class: "soft" }, `${row.recipe}, ${row.dataset}, ${row.status}, ${row.epochs_done} ${row.epochs_done === 1 ? "epoch" : "epochs"}`)));
    return { item, box, text: item.textContent.toLowerCase() };
  });
  function changed() {
    const query = new URLSearchParams([...chosen].map((name) => ["run", name]));
    history.replaceState(null, "", chosen.size ? `/charts?${query}` : "/charts");
    $("compare").href = `/compare?${query}`;
    $("shown").textContent = `${chosen.size} of ${rows.length} runs in the chart`;
    show([...chosen]);
  }
  $("search").addEventListener("input", () => {
    const words = $("search").value.toLowerCase().split(/\s+/);
    for (const { item, text } of items) item.hidden = !words.every((word) => text.includes(word));
  });
  $("none").addEventListener("click", () => {
    for (const { box } of items) box.checked = false;
    chosen.clear();
    changed();
  });
  $("list").replaceChildren(...items.map(({ item }) => item));
  $("shown").textContent = `${chosen.size} of ${rows.length} runs in the chart`;
  $("compare").href = `/compare?${new URLSearchParams([...chosen].map((name) => ["run", name]))}`;
  $("chooser").hidden = !rows.length;
}

for (const figure of document.querySelectorAll(".chart")) {
  let show = null;
  show = chart(figure, $("charts") ? { metric: "held_out_accuracy", onFirst: (names) => chooser(names, (chosen) => show(chosen)).catch((error) => announce(error.message)) } : { metric: figure.dataset.metric });
}
