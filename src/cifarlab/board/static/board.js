// The moving parts of the board's pages. Values that come from a run are set as text, never as HTML.
const $ = (id) => document.getElementById(id);
const percent = (value) => (value == null ? "-" : `${(100 * value).toFixed(2)}%`);
const announce = (text) => { $("message").textContent = text; if (text) setTimeout(() => { $("message").textContent = ""; }, 8000); };

function element(tag, attributes = {}, ...children) {
  const created = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) created.setAttribute(name, value);
  created.append(...children);
  return created;
}

async function ask(path, options) {
  const response = await fetch(path, options);
  const answer = await response.json().catch(() => ({ detail: response.statusText }));
  // FastAPI lists what is wrong with the values of a form.
  const said = ({ detail }) => (Array.isArray(detail) ? detail.map(({ loc, msg }) => `${loc.at(-1)}: ${msg}`).join("; ") : detail);
  if (!response.ok) throw new Error(said(answer));
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
    $("shown").textContent = ((count) => `${count} ${count === 1 ? "run" : "runs"}`)(rows.filter((row) => !row.hidden).length);
  });
  $("runs").addEventListener("submit", (event) => {
    if (document.querySelector("[name=run]:checked")) return;
    event.preventDefault();
    announce("Select runs first.");
  });
  for (const button of document.querySelectorAll(".sort")) {
    button.addEventListener("click", () => {
      const head = button.closest("th"), up = head.getAttribute("aria-sort") !== "ascending", key = button.dataset.key;
      for (const other of document.querySelectorAll("[aria-sort]")) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const order = (a, b) => {
        const left = values.get(a)[key], right = values.get(b)[key];
        if (left == null || right == null) return (left == null) - (right == null); // unknown values come last
        const compared = typeof left === "number" ? left - right : String(left).localeCompare(String(right), "en", { numeric: true });
        return up ? compared : -compared;
      };
      body.append(...rows.sort(order));
    });
  }
}

function runPage(page) {
  const name = page.dataset.name, readsOnly = "readsOnly" in page.dataset, path = `/api/runs/${encodeURIComponent(name)}`;
  let matrices = null, epochs = -1, tested = null, follow = true, drawn = null;

  const shownEpoch = () => Number($("epoch").value);
  const isTest = () => matrices?.test && shownEpoch() > matrices.epochs.length;

  async function cell(button, true_, predicted) {
    for (const other of document.querySelectorAll("#matrix [aria-pressed=true]")) other.setAttribute("aria-pressed", "false");
    button.setAttribute("aria-pressed", "true");
    const classes = matrices.classes, query = new URLSearchParams({ true: true_, predicted });
    if (!isTest()) query.set("epoch", shownEpoch());
    try {
      const answer = await ask(`${path}/cell?${query}`);
      const heading = true_ === predicted ? `${classes[true_]}, predicted correctly` : `${classes[true_]}, predicted as ${classes[predicted]}`;
      const shown = answer.count > answer.images.length ? `, the first ${answer.images.length}` : "";
      $("cell").replaceChildren(
        element("h3", {}, `${heading}: ${answer.count} ${isTest() ? "test" : matrices.held_out} images${shown}`),
        element("div", { class: answer.files.length ? "pictures grid" : "pictures" }, ...answer.images.map((number, place) => {
          const file = answer.files[place] ?? "", caption = element("figcaption", { title: file }, file.split(/[/\\]/).pop());
          const image = element("img", { src: `${path}/images/${answer.part}/${number}.png`, alt: `${answer.part} image ${number}`, width: 64, height: 64, loading: "lazy" });
          return element("figure", {}, image, ...(file ? [caption] : []));
        })),
      );
    } catch (error) { announce(error.message); }
  }

  function drawMatrix() {
    if (!matrices || !matrices.epochs.length) return;
    const test = isTest(), matrix = test ? matrices.test : matrices.epochs[shownEpoch() - 1], classes = matrices.classes;
    if (!matrix) return;
    const sum = (counts) => counts.reduce((total, count) => total + count, 0);
    const accuracy = percent(sum(matrix.map((counts, row) => counts[row])) / Math.max(1, sum(matrix.flat())));
    const caption = test ? `after the training, test images: accuracy ${accuracy}` : `${shownEpoch()} of ${matrices.epochs.length}, ${matrices.held_out} images: accuracy ${accuracy}`;
    $("shown-epoch").textContent = caption;
    $("epoch").setAttribute("aria-valuetext", caption);
    $("save-confusion").href = `${path}/figures/confusion.svg${test ? "" : `?epoch=${shownEpoch()}`}`;
    const key = test ? "test" : String(shownEpoch());
    if (drawn === key) return; // a new epoch must not disturb a visitor who looks at this one
    drawn = key;
    const rows = matrix.map((counts, row) => {
      const total = Math.max(1, sum(counts));
      return element("tr", {}, element("th", { scope: "row" }, classes[row]), ...counts.map((count, column) => {
        const share = count / total;
        const button = element("button", { type: "button", "aria-pressed": "false", "aria-label": `${classes[row]} predicted as ${classes[column]}: ${count}, ${percent(share)}`, title: `${classes[row]} predicted as ${classes[column]}: ${percent(share)}` }, String(count));
        button.style.background = `rgba(var(--blue), ${share})`;
        button.classList.toggle("full", share > 0.8); // white text is readable only on the darkest blues
        button.addEventListener("click", () => cell(button, row, column));
        return element("td", {}, button);
      }));
    });
    const above = element("tr", {}, element("td", {}), element("th", { scope: "colgroup", colspan: classes.length }, "predicted class"));
    const head = element("tr", {}, element("th", {}, "true class"), ...classes.map((each) => element("th", { scope: "col" }, element("span", {}, each))));
    $("matrix").classList.toggle("many", classes.length > 15);
    $("matrix").replaceChildren(element("thead", {}, above, head), element("tbody", {}, ...rows));
    $("cell").replaceChildren();
  }

  async function newEpoch(state) {
    if (!state.epochs_done) return;
    let epochs = matrices && matrices.epochs.length <= state.epochs_done ? matrices.epochs : [], answer; // fetch only new epochs, or all if the run has begun again
    do { // an answer has a limited number of matrices
      answer = await ask(`${path}/confusions?after=${epochs.length}`);
      epochs = [...epochs, ...answer.epochs];
    } while (answer.epochs.length && epochs.length < state.epochs_done);
    matrices = { ...answer, epochs };
    const slider = $("epoch"), count = matrices.epochs.length + (matrices.test ? 1 : 0);
    slider.max = Math.max(1, count);
    $("last-step").hidden = !matrices.test;
    if (follow) slider.value = count;
    for (const id of ["curves", "confusion"]) $(id).hidden = !state.epochs_done;
    $("waiting").hidden = Boolean(state.epochs_done);
    drawMatrix();
  }

  $("epoch").addEventListener("input", () => { follow = shownEpoch() === Number($("epoch").max); drawMatrix(); });
  for (const action of ["stop", "resume"]) {
    $(action).addEventListener("click", async () => {
      $(action).disabled = true;
      try { await ask(`${path}/${action}`, { method: "POST" }); announce(action === "stop" ? "The training will stop after this step." : "The training resumes."); }
      catch (error) { announce(error.message); }
      setTimeout(() => { $(action).disabled = false; }, 2000);
    });
  }

  function show(state) {
    $("state").textContent = state.stopping ? "stopping" : state.status;
    $("state").className = `state ${state.status}`;
    $("stop").hidden = readsOnly || state.status !== "running";
    $("resume").hidden = readsOnly || ["running", "finished"].includes(state.status);
    $("report").hidden = !state.has_report;
    $("reason").textContent = state.reason;
    $("epochs").textContent = state.epochs_done;
    $("validation").textContent = percent(state.last?.validation_accuracy);
    $("test").textContent = percent(state.results.test_accuracy);
    const finished = state.status === "finished";
    const speed = finished ? state.results.images_per_second : state.progress.images_per_second ?? state.last?.images_per_second;
    $("speed").textContent = speed ? Math.round(speed).toLocaleString("en") : "-";
    $("speed-of").textContent = finished ? "over all epochs" : state.progress.images_per_second ? "now" : "in the last epoch";
    $("left").textContent = duration(finished ? state.results.train_seconds : state.progress.seconds_left);
    $("left-of").textContent = finished ? "of training" : "left";
    $("progress").value = finished ? 1 : state.epochs_done / state.epochs;
    $("share").textContent = `${Math.round(100 * $("progress").value)} %`;
    if (state.log != null) { $("log").textContent = state.log; $("log").scrollTop = $("log").scrollHeight; }
    $("classes").hidden = state.results.test_accuracy == null;
    const isTested = state.results.test_accuracy != null;
    if (state.epochs_done !== epochs || isTested !== tested) { epochs = state.epochs_done; tested = isTested; newEpoch(state).catch((error) => announce(error.message)); }
  }

  let events = null;
  function watch() { // a browser allows six such connections, so only visible pages have one
    events?.close();
    events = null;
    if (document.hidden) return;
    events = new EventSource(`${path}/events`);
    events.onmessage = (event) => show(JSON.parse(event.data));
    events.onerror = () => announce("The board does not answer. Trying again.");
  }
  document.addEventListener("visibilitychange", watch);
  addEventListener("pageshow", watch);
  addEventListener("pagehide", () => events?.close());
}

function predictPage() {
  let requests = 0;
  async function predict(file) {
    if (!file) return;
    const number = ++requests;
    $("answer").hidden = false;
    $("top").textContent = "Predicting …";
    $("heat-maps").hidden = true;
    $("bars").replaceChildren();
    try {
      const answer = await ask(`/api/predict?target=${encodeURIComponent($("target").value)}`, { method: "POST", body: file });
      if (number !== requests) return; // another image was chosen meanwhile
      const [first] = answer.classes;
      $("top").textContent = `${answer.sure ? "" : "not sure: "}${first.name}, ${percent(first.probability)}`;
      $("heat-maps").hidden = !Object.keys(answer.heats).length;
      const pictures = { "input of the network": answer.image, ...answer.heats };
      $("shown").replaceChildren(...Object.entries(pictures).map(([name, source]) =>
        element("figure", {}, element("img", { src: source, alt: name === "Grad-CAM" || name === "occlusion" ? `heat map by ${name}` : name, width: 192, height: 192 }), element("figcaption", {}, name))));
      $("bars").replaceChildren(...answer.classes.map(({ name, probability }) => {
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
if (page) ({ runs: runsPage, run: runPage, predict: predictPage })[page.dataset.page]?.(page);

export { $, announce, ask, duration, element, percent };
