// The board's pages come to life here. Whatever comes from a run is set as text, never as HTML.
const $ = (id) => document.getElementById(id);
const percent = (value) => (value == null ? "-" : `${(100 * value).toFixed(2)}%`);
const say = (text) => { $("said").textContent = text; if (text) setTimeout(() => { $("said").textContent = ""; }, 8000); };

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

async function ask(path, options) {
  const response = await fetch(path, options);
  const answer = await response.json().catch(() => ({ detail: response.statusText }));
  if (!response.ok) throw new Error(answer.detail);
  return answer;
}

function duration(seconds) {
  if (seconds == null) return "-";
  const whole = Math.round(seconds), two = (number) => String(number).padStart(2, "0");
  if (whole < 60) return `${whole} s`;
  const hours = Math.floor(whole / 3600), minutes = Math.floor(whole / 60) % 60;
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}

function runsPage() {
  const body = document.querySelector("tbody"), rows = [...body.rows];
  const values = new Map(rows.map((row) => [row, JSON.parse(row.dataset.row)]));
  const text = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
  $("search").addEventListener("input", () => {
    const words = $("search").value.toLowerCase().split(/\s+/);
    for (const row of rows) row.hidden = !words.every((word) => text.get(row).includes(word));
    $("shown").textContent = `${rows.filter((row) => !row.hidden).length} runs`;
  });
  $("runs").addEventListener("submit", (event) => {
    if (document.querySelector("[name=run]:checked")) return;
    event.preventDefault();
    say("Choose runs first.");
  });
  for (const button of document.querySelectorAll(".sort")) {
    button.addEventListener("click", () => {
      const head = button.closest("th"), up = head.getAttribute("aria-sort") !== "ascending", key = button.dataset.key;
      for (const other of document.querySelectorAll("[aria-sort]")) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const order = (a, b) => {
        const left = values.get(a)[key], right = values.get(b)[key];
        if (left == null || right == null) return (left == null) - (right == null); // what is not known comes last
        const compared = typeof left === "number" ? left - right : String(left).localeCompare(String(right), "en", { numeric: true });
        return up ? compared : -compared;
      };
      body.append(...rows.sort(order));
    });
  }
}

function runPage(page) {
  const name = page.dataset.name, path = `/api/runs/${encodeURIComponent(name)}`;
  let matrices = null, epochs = -1, tested = null, follow = true, drawn = null;

  const shownEpoch = () => Number($("epoch").value);
  const isTest = () => matrices?.test && shownEpoch() > matrices.epochs.length;

  async function cell(button, true_, predicted) {
    for (const other of document.querySelectorAll("#matrix [aria-pressed=true]")) other.setAttribute("aria-pressed", "false");
    button.setAttribute("aria-pressed", "true");
    const classes = matrices.classes, query = new URLSearchParams({ true: true_, predicted });
    if (!isTest()) query.set("epoch", shownEpoch());
    try {
      const found = await ask(`${path}/cell?${query}`);
      const what = true_ === predicted ? `${classes[true_]}, found` : `${classes[true_]}, called ${classes[predicted]}`;
      const some = found.count > found.images.length ? `, the first ${found.images.length}` : "";
      $("cell").replaceChildren(
        element("h3", {}, `${what}: ${found.count} ${isTest() ? "test" : matrices.held_out} images${some}`),
        element("div", { class: "pictures" }, ...found.images.map((number) =>
          element("img", { src: `${path}/images/${found.part}/${number}.png`, alt: `${found.part} image ${number}`, width: 64, height: 64, loading: "lazy" }))),
      );
    } catch (error) { say(error.message); }
  }

  function drawMatrix() {
    if (!matrices || !matrices.epochs.length) return;
    const test = isTest(), matrix = test ? matrices.test : matrices.epochs[shownEpoch() - 1], classes = matrices.classes;
    if (!matrix) return;
    const sum = (counts) => counts.reduce((so_far, count) => so_far + count, 0);
    const accuracy = percent(sum(matrix.map((counts, row) => counts[row])) / Math.max(1, sum(matrix.flat())));
    const told = test ? `test images: accuracy ${accuracy}` : `${shownEpoch()} of ${matrices.epochs.length}, ${matrices.held_out} images: accuracy ${accuracy}`;
    $("shown-epoch").textContent = told;
    $("epoch").setAttribute("aria-valuetext", told);
    $("save-confusion").href = `${path}/figures/confusion.svg${test ? "" : `?epoch=${shownEpoch()}`}`;
    const key = test ? "test" : String(shownEpoch());
    if (drawn === key) return; // another epoch has come, and somebody looks at this one
    drawn = key;
    const rows = matrix.map((counts, row) => {
      const total = Math.max(1, sum(counts));
      return element("tr", {}, element("th", { scope: "row" }, classes[row]), ...counts.map((count, column) => {
        const share = count / total;
        const button = element("button", { type: "button", "aria-pressed": "false", "aria-label": `${classes[row]} called ${classes[column]}: ${count}, ${percent(share)}`, title: `${classes[row]} called ${classes[column]}: ${percent(share)}` }, String(count));
        button.style.background = `rgba(var(--blue), ${share})`;
        button.classList.toggle("full", share > 0.8); // white is readable on the darkest blues alone
        button.addEventListener("click", () => cell(button, row, column));
        return element("td", {}, button);
      }));
    });
    const head = element("tr", {}, element("td", {}), ...classes.map((each) => element("th", { scope: "col" }, each)));
    $("matrix").replaceChildren(element("thead", {}, head), element("tbody", {}, ...rows));
    $("cell").replaceChildren();
  }

  async function newEpoch(state) {
    if (!state.epochs_done) return;
    const image = document.querySelector("#curves img");
    image.src = `${image.dataset.src}?epochs=${state.epochs_done}`;
    const known = matrices && matrices.epochs.length <= state.epochs_done ? matrices.epochs : []; // what is new, else all
    const found = await ask(`${path}/confusions?after=${known.length}`);
    matrices = { ...found, epochs: [...known, ...found.epochs] };
    const slider = $("epoch"), count = matrices.epochs.length + (matrices.test ? 1 : 0);
    slider.max = Math.max(1, count);
    if (follow) slider.value = count;
    for (const id of ["curves", "confusion"]) $(id).hidden = !state.epochs_done;
    $("waiting").hidden = Boolean(state.epochs_done);
    drawMatrix();
  }

  $("epoch").addEventListener("input", () => { follow = shownEpoch() === Number($("epoch").max); drawMatrix(); });
  for (const action of ["stop", "resume"]) {
    $(action).addEventListener("click", async () => {
      $(action).disabled = true;
      try { await ask(`${path}/${action}`, { method: "POST" }); say(action === "stop" ? "It will stop after this step." : "It goes on."); }
      catch (error) { say(error.message); }
      setTimeout(() => { $(action).disabled = false; }, 2000);
    });
  }

  function show(state) {
    $("state").textContent = state.stopping ? "stopping" : state.status;
    $("state").className = `state ${state.status}`;
    $("stop").hidden = state.status !== "running";
    $("resume").hidden = ["running", "finished"].includes(state.status);
    $("reason").textContent = state.reason;
    $("epochs").textContent = state.epochs_done;
    $("validation").textContent = percent(state.last?.validation_accuracy);
    $("test").textContent = percent(state.results.test_accuracy);
    const speed = state.progress.images_per_second ?? state.last?.images_per_second;
    $("speed").textContent = speed ? Math.round(speed).toLocaleString("en") : "-";
    const finished = state.status === "finished";
    $("left").textContent = duration(finished ? state.results.train_seconds : state.progress.seconds_left);
    $("left-of").textContent = finished ? "of training" : "left";
    $("progress").value = finished ? 1 : state.epochs_done / state.epochs;
    if (state.log != null) { $("log").textContent = state.log; $("log").scrollTop = $("log").scrollHeight; }
    $("classes").hidden = state.results.test_accuracy == null;
    const isTested = state.results.test_accuracy != null;
    if (state.epochs_done !== epochs || isTested !== tested) { epochs = state.epochs_done; tested = isTested; newEpoch(state).catch((error) => say(error.message)); }
  }

  let events = null;
  function watch() { // a browser allows six such connections, so that only pages that somebody sees have one
    events?.close();
    events = null;
    if (document.hidden) return;
    events = new EventSource(`${path}/events`);
    events.onmessage = (event) => show(JSON.parse(event.data));
    events.onerror = () => say("The board does not answer; trying again.");
  }
  document.addEventListener("visibilitychange", watch);
  addEventListener("pageshow", watch);
  addEventListener("pagehide", () => events?.close());
}

function predictPage() {
  let asked = 0;
  async function predict(file) {
    if (!file) return;
    const mine = ++asked;
    $("answer").hidden = false;
    $("top").textContent = "Looking …";
    $("bars").replaceChildren();
    try {
      const found = await ask(`/api/predict?target=${encodeURIComponent($("target").value)}`, { method: "POST", body: file });
      if (mine !== asked) return; // another picture was chosen meanwhile
      const [first] = found.classes;
      $("top").textContent = `${first.name}, ${percent(first.probability)}`;
      const pictures = { "as the network gets it": found.image, ...found.heats };
      $("shown").replaceChildren(...Object.entries(pictures).map(([name, source]) =>
        element("figure", {}, element("img", { src: source, alt: name === "Grad-CAM" || name === "occlusion" ? `heat map by ${name}` : name, width: 192, height: 192 }), element("figcaption", {}, name))));
      $("bars").replaceChildren(...found.classes.map(({ name, probability }) => {
        const bar = element("i");
        bar.style.width = percent(probability);
        return element("li", {}, element("span", {}, name), element("span", { "aria-hidden": "true" }, bar), element("span", {}, percent(probability)));
      }));
    } catch (error) { $("top").textContent = error.message; $("shown").replaceChildren(); }
  }
  let last = null;
  const take = (file) => { last = file ?? last; predict(last); };
  $("file").addEventListener("change", () => take($("file").files[0]));
  $("target").addEventListener("change", () => take(last));
  $("predict").addEventListener("submit", (event) => event.preventDefault());
  addEventListener("paste", (event) => take([...event.clipboardData.files][0]));
  const drop = $("drop");
  for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
    drop.addEventListener(kind, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", kind === "dragenter" || kind === "dragover");
      if (kind === "drop") take(event.dataTransfer.files[0]);
    });
  }
}

const page = document.querySelector("[data-page]");
if (page) ({ runs: runsPage, run: runPage, predict: predictPage })[page.dataset.page](page);
