// The page of one's own pictures: data sets, classes, uploads, the camera, and a network tried live.
import { $, announce, ask, element, percent } from "/static/board.js";

const FILES_AT_ONCE = 10, BYTES_AT_ONCE = 40e6; // of an upload; the board's own limits are higher
const COUNTDOWN = 3, BURST = 10, MILLISECONDS_BETWEEN = 300, CAMERA_SIDE = 256;
const send = (path, value) => ask(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(value ?? {}) });
const wait = (milliseconds) => new Promise((resolve) => { setTimeout(resolve, milliseconds); });
const reporting = (work) => async (...values) => { try { await work(...values); } catch (error) { announce(error.message); } };

function listPage() {
  $("create").addEventListener("submit", reporting(async (event) => {
    event.preventDefault();
    const made = await send("/api/pictures", { name: $("new-set").value });
    location.href = `/pictures?name=${encodeURIComponent(made.name)}`;
  }));
}

async function filesIn(entry) { // of a dropped folder
  if (entry.isFile) return [await new Promise((resolve, reject) => { entry.file(resolve, reject); })];
  const reader = entry.createReader(), found = [];
  for (;;) { // a reader gives a part of a folder at a time
    const entries = await new Promise((resolve, reject) => { reader.readEntries(resolve, reject); });
    if (!entries.length) return found;
    for (const each of entries) found.push(...await filesIn(each));
  }
}

function setPage(page) {
  const name = page.dataset.name, path = `/api/pictures/${encodeURIComponent(name)}`, readsOnly = "readsOnly" in page.dataset;
  const selected = new Set();
  let network = "", stream = null, checks = 0;

  function options(select, names) {
    const before = select.value;
    select.replaceChildren(...names.map((each) => element("option", { value: each }, each)));
    if (names.includes(before)) select.value = before;
  }

  function countSelected() {
    $("selected").textContent = selected.size ? `${selected.size} selected` : "No picture selected";
    for (const id of ["move", "delete"]) $(id).disabled = !selected.size;
  }

  function picture(label, file) {
    const key = `${label}/${file}`, box = element("input", { type: "checkbox", "aria-label": `select ${key}` });
    box.checked = selected.has(key);
    box.addEventListener("change", () => { selected[box.checked ? "add" : "delete"](key); countSelected(); });
    const image = element("img", { src: `${path}/classes/${encodeURIComponent(label)}/${file}`, alt: key, loading: "lazy" });
    return element("li", {}, element("label", { "data-key": key }, image, ...(readsOnly ? [] : [box])));
  }

  function classSection(label, files) {
    const rename = element("button", { type: "button", "aria-label": `rename ${label}` }, "Rename"), remove = element("button", { type: "button", "aria-label": `delete the class ${label}` }, "Delete class");
    rename.addEventListener("click", reporting(async () => {
      const wanted = prompt(`New name of the class ${label}`, label);
      if (wanted) show(await send(`${path}/rename`, { label, name: wanted }));
    }));
    remove.addEventListener("click", reporting(async () => { show(await send(`${path}/rename`, { label })); announce(`${label} is deleted. Undo brings its pictures back.`); }));
    const heading = element("div", { class: "bar" }, element("h2", {}, `${label}: ${files.length}`), ...(readsOnly ? [] : [rename, remove]));
    const section = element("section", { "aria-label": label }, heading, element("ul", { class: "pictures" }, ...files.map((file) => picture(label, file))));
    if (!readsOnly) dropInto(section, () => label);
    return section;
  }

  function show(set) {
    const names = Object.keys(set.classes), all = new Set(names.flatMap((label) => set.classes[label].map((file) => `${label}/${file}`)));
    for (const key of [...selected]) if (!all.has(key)) selected.delete(key);
    $("classes").replaceChildren(...names.map((label) => classSection(label, set.classes[label])));
    for (const id of ["target", "move-to"]) options($(id), names);
    $("undo").disabled = !set.can_undo;
    countSelected();
    check(all.size);
  }

  async function check(count) {
    const number = ++checks;
    await wait(500); // several changes follow each other
    if (number !== checks) return;
    const findings = count ? await ask(`${path}/findings`).catch(() => []) : [];
    if (number !== checks) return;
    $("findings").replaceChildren(...(findings.length ? findings.map(({ kind, text }) => element("li", {}, element("strong", {}, `${kind}: `), text)) : [element("li", {}, "Nothing found")]));
    const named = new Set(findings.flatMap((finding) => finding.pictures));
    for (const label of document.querySelectorAll("#classes label")) label.classList.toggle("found", named.has(label.dataset.key));
  }

  const upload = reporting(async (files, label) => {
    if (!label) throw new Error("Add a class first.");
    const refused = {}, waiting = [...files];
    const count = waiting.length;
    try {
      while (waiting.length) {
        const form = new FormData();
        let bytes = 0;
        for (let number = 0; number < FILES_AT_ONCE && waiting.length && (!bytes || bytes + waiting[0].size < BYTES_AT_ONCE); number++) {
          const file = waiting.shift();
          bytes += file.size;
          form.append("pictures", file, file.name);
        }
        $("uploading").textContent = `Adding ${count - waiting.length} of ${count} …`;
        const answer = await ask(`${path}/add?label=${encodeURIComponent(label)}`, { method: "POST", body: form });
        Object.assign(refused, answer.refused);
        show(answer.set);
      }
    } finally { $("uploading").textContent = ""; }
    const reasons = Object.values(refused), names = Object.keys(refused);
    announce(reasons.length ? `${reasons.length} of ${count} files were refused: ${reasons[0]}${names.length > 1 ? `; also ${names.slice(1).join(", ")}` : ""}` : `${count} pictures were added to ${label}.`);
  });

  function dropInto(area, label) {
    for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
      area.addEventListener(kind, reporting(async (event) => {
        event.preventDefault();
        area.classList.toggle("over", kind === "dragenter" || kind === "dragover");
        if (kind !== "drop") return;
        const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean), loose = [...event.dataTransfer.files];
        const files = entries.length ? (await Promise.all(entries.map(filesIn))).flat() : loose;
        await upload(files, label());
      }));
    }
  }

  async function startCamera() {
    if (stream) return;
    if (!navigator.mediaDevices) throw new Error("The browser gives the camera only to pages of this machine (localhost) or over HTTPS.");
    stream = await navigator.mediaDevices.getUserMedia({ video: { width: 640, height: 480 } }).catch((error) => { throw new Error(`The camera cannot be used: ${error.message}`); });
    $("video").srcObject = stream;
    $("video").hidden = false;
    await $("video").play();
    $("camera").textContent = "Stop camera";
    $("burst").disabled = false;
  }

  function stopCamera() {
    for (const track of stream?.getTracks() ?? []) track.stop();
    stream = null;
    $("video").hidden = true;
    $("camera").textContent = "Start camera";
    $("burst").disabled = true;
    $("live").hidden = true;
  }

  function snapshot() { // the central square
    const video = $("video"), side = Math.min(video.videoWidth, video.videoHeight), canvas = element("canvas", { width: CAMERA_SIDE, height: CAMERA_SIDE });
    canvas.getContext("2d").drawImage(video, (video.videoWidth - side) / 2, (video.videoHeight - side) / 2, side, side, 0, 0, CAMERA_SIDE, CAMERA_SIDE);
    return new Promise((resolve) => { canvas.toBlob(resolve, "image/png"); });
  }

  const burst = reporting(async () => {
    $("burst").disabled = true;
    try {
      for (let seconds = COUNTDOWN; seconds; seconds--) { $("countdown").textContent = seconds; await wait(1000); }
      const files = [];
      while (files.length < BURST && stream) {
        $("countdown").textContent = `${files.length + 1} of ${BURST}`;
        files.push(new File([await snapshot()], `camera ${files.length + 1}.png`));
        await wait(MILLISECONDS_BETWEEN);
      }
      $("countdown").textContent = "";
      await upload(files, $("target").value);
    } finally { $("countdown").textContent = ""; $("burst").disabled = !stream; }
  });

  const train = reporting(async () => {
    $("train").disabled = true;
    $("try").disabled = true;
    try {
      const training = await send(`${path}/train`);
      $("command").textContent = training.command;
      $("command").hidden = false;
      for (;;) {
        const { trainings } = await ask("/api/trainings"), state = trainings.find((each) => each.name === training.name);
        const link = element("a", { href: state.status === "waiting" || state.status === "starting" ? "/train" : `/runs/${encodeURIComponent(training.name)}` }, training.name);
        $("trained").replaceChildren(link, `: ${state.status}${state.reason ? ` (${state.reason})` : ""}`);
        if (!["waiting", "starting", "running"].includes(state.status)) { if (state.status === "finished") { network = training.name; $("try").disabled = false; } break; }
        await wait(1000);
      }
    } finally { $("train").disabled = false; }
  });

  const tryLive = reporting(async () => {
    await startCamera();
    $("live").hidden = false;
    while (stream) {
      const answer = await ask(`/api/predict?explain=false&target=${encodeURIComponent(network)}`, { method: "POST", body: await snapshot() });
      if (!stream) break;
      const [first] = answer.classes;
      $("top").textContent = `${answer.sure ? "" : "not sure: "}${first.name}, ${percent(first.probability)}`;
      $("bars").replaceChildren(...answer.classes.map((each) => {
        const bar = element("i");
        bar.style.width = percent(each.probability);
        return element("li", {}, element("span", {}, each.name), element("span", { "aria-hidden": "true" }, bar), element("span", {}, percent(each.probability)));
      }));
      await wait(MILLISECONDS_BETWEEN);
    }
  });

  $("new-class").addEventListener("submit", reporting(async (event) => {
    event.preventDefault();
    const label = $("class-name").value.trim().normalize("NFC");
    show(await send(`${path}/classes`, { name: label }));
    $("target").value = label;
    $("class-name").value = "";
  }));
  for (const id of ["files", "folder"]) $(id).addEventListener("change", async () => { await upload($(id).files, $("target").value); $(id).value = ""; });
  addEventListener("paste", (event) => { if (event.clipboardData.files.length && !readsOnly) upload(event.clipboardData.files, $("target").value); });
  dropInto($("drop"), () => $("target").value);
  $("camera").addEventListener("click", reporting(async () => { if (stream) stopCamera(); else await startCamera(); }));
  $("burst").addEventListener("click", burst);
  $("move").addEventListener("click", reporting(async () => show(await send(`${path}/move`, { pictures: [...selected], label: $("move-to").value }))));
  $("delete").addEventListener("click", reporting(async () => show(await send(`${path}/move`, { pictures: [...selected] }))));
  $("undo").addEventListener("click", reporting(async () => show(await send(`${path}/undo`))));
  $("train").addEventListener("click", train);
  $("try").addEventListener("click", tryLive);
  reporting(async () => show(await ask(path)))();
}

if ($("create")) listPage();
if ($("pictures")) setPage($("pictures"));
