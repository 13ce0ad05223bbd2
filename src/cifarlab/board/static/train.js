// The page that starts trainings: a form, its command line, and the queue.
import { $, announce, ask, duration, element } from "/static/board.js";

const SECONDS_BETWEEN_LOOKS = 2;
const form = $("train");

function query(choices) {
  const values = new URLSearchParams(), byMinutes = form.elements.long.value === "minutes";
  for (const key of ["recipe", "data", "seed", "name"]) if ($(key).value) values.set(key, $(key).value);
  if (byMinutes && $("minutes").value) values.set("minutes", $("minutes").value);
  for (const select of $("class-list").querySelectorAll("select")) {
    if (select.value === "drop") values.append("drop", select.dataset.name);
    if (select.value.startsWith("merge:")) values.append("merge", `${select.dataset.name}=${select.value.slice(6)}`);
  }
  for (const { key } of choices.settings) {
    const value = $(`set-${key}`).value;
    if (value && !(byMinutes && key === "epochs")) values.append("set", `${key}=${value}`);
  }
  return values;
}

// Fill the form with the values of the page's address, which `query` has written.
function fillSettings(values) {
  for (const key of ["seed", "name", "minutes"]) if (values.has(key)) $(key).value = values.get(key);
  if (values.has("minutes")) form.elements.long.value = "minutes";
  for (const setting of values.getAll("set")) {
    const [key, value] = setting.split("="), field = $(`set-${key}`);
    if (field) field.value = value;
  }
}

function fillClasses(values) {
  const merged = new Map(values.getAll("merge").map((pair) => pair.split("=")));
  for (const select of $("class-list").querySelectorAll("select")) {
    const { name } = select.dataset, choice = merged.has(name) ? `merge:${merged.get(name)}` : "drop";
    if (merged.has(name) || values.getAll("drop").includes(name)) select.value = choice;
  }
}

function classList(classes) {
  return classes.map((name) => {
    const options = [element("option", { value: "" }, "keep"), element("option", { value: "drop" }, "leave out")];
    for (const other of classes) if (other !== name) options.push(element("option", { value: `merge:${other}` }, `count as ${other}`));
    const select = element("select", { "data-name": name, "aria-label": name }, ...options);
    return element("div", { class: "setting" }, element("span", {}, name), select);
  });
}

async function startPage() {
  const choices = await ask("/api/trainings/form");
  let shownClasses = null, requests = 0;

  function showRecipe() {
    const recipe = choices.recipes.find((each) => each.name === $("recipe").value);
    $("about").textContent = recipe ? `${recipe.description} Network: ${recipe.model}; data: ${recipe.dataset}.` : "For few pictures of your own, cifarlab takes the recipe small.";
    for (const { key } of choices.settings) {
      const field = $(`set-${key}`), value = recipe ? String(recipe.values[key]) : "the recipe's";
      if (field.tagName === "SELECT") field.options[0].textContent = `${value} (recipe)`; else field.placeholder = value;
    }
    $("seed").placeholder = recipe ? recipe.seed : 0;
    const classes = choices.data[$("data").value || recipe?.dataset] ?? [];
    const left = classes.filter((name) => !recipe?.drop.includes(name) && !recipe?.merge[name]);
    if (shownClasses !== left.join("\n")) {
      shownClasses = left.join("\n");
      $("class-list").replaceChildren(...classList(left));
      $("classes").hidden = left.length < 2;
    }
  }

  async function showCommand() {
    const number = ++requests, byMinutes = form.elements.long.value === "minutes";
    $("minutes").hidden = $("minutes-label").hidden = !byMinutes;
    form.querySelector("[data-key=epochs]").hidden = byMinutes;
    let problem = "", command = $("command").textContent;
    try { command = (await ask(`/api/trainings/command?${query(choices)}`)).command; }
    catch (error) { problem = error.message; }
    if (number !== requests) return; // the form has changed meanwhile
    $("command").textContent = command;
    $("command").classList.toggle("soft", Boolean(problem));
    $("problem").textContent = problem;
    $("problem").hidden = !problem;
    $("add").disabled = $("estimate").disabled = Boolean(problem);
    $("plan").textContent = "";
  }

  form.addEventListener("input", () => {
    showRecipe();
    showCommand();
    history.replaceState(null, "", `?${query(choices)}`); // a reload keeps the form
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    $("add").disabled = true;
    try {
      const training = await ask(`/api/trainings?${query(choices)}`, { method: "POST" });
      announce(`${training.name} is in the queue.`);
      await showQueue();
    } catch (error) { announce(error.message); }
    $("add").disabled = false;
  });
  $("estimate").addEventListener("click", async () => {
    const number = requests;
    $("estimate").disabled = true;
    $("plan").textContent = "Measuring a few steps on this machine …";
    try {
      const plan = await ask(`/api/trainings/estimate?${query(choices)}`, { method: "POST" });
      const time = plan.seconds ? `about ${duration(plan.seconds)}` : "unknown time, because this device is not measured";
      const text = `${time} for ${plan.epochs} epochs (${plan.steps.toLocaleString("en")} steps) on ${plan.train.toLocaleString("en")} training images; network of ${plan.parameters.toLocaleString("en")} parameters, ${plan.classes.length} classes, on ${plan.device}. Other trainings at once make it slower.`;
      if (number === requests) $("plan").textContent = text[0].toUpperCase() + text.slice(1);
    } catch (error) { if (number === requests) $("plan").textContent = error.message; }
    $("estimate").disabled = false;
  });
  const values = new URLSearchParams(location.search);
  fillSettings(values);
  showRecipe();
  fillClasses(values);
  await showCommand();
}

let drawn = "";
function drawQueue({ at_once: atOnce, trainings }) {
  const text = JSON.stringify(trainings);
  $("queue-about").textContent = `${atOnce === 1 ? "One training runs" : `${atOnce} trainings run`} at once on this machine; others wait here, also while the page is closed. Trainings that were started elsewhere in this folder of runs count too.${trainings.length ? "" : " Nothing waits."}`;
  if (text === drawn) return; // keeps the focus
  drawn = text;
  const focused = document.activeElement?.dataset?.act, readsOnly = $("queue").dataset.readsOnly;
  const waiting = trainings.filter((each) => each.status === "waiting");
  $("queue").hidden = !trainings.length;
  const ended = ({ status }) => !["starting", "running", "waiting"].includes(status);
  $("queue").tBodies[0].replaceChildren(...[...trainings.filter((each) => !ended(each)), ...trainings.filter(ended).reverse()].map((training) => {
    const begun = ["running", "finished", "interrupted"].includes(training.status);
    const name = begun ? element("a", { href: `/runs/${encodeURIComponent(training.name)}` }, training.name) : training.name;
    const state = element("td", {}, element("span", { class: `state ${training.status}` }, training.status), training.reason ? ` ${training.reason}` : "");
    const cells = [element("th", { scope: "row" }, name), state, element("td", {}, training.command)];
    const place = waiting.indexOf(training), actions = [];
    if (place > 0) actions.push(["earlier", "▲", "Start earlier"]);
    if (place >= 0 && place < waiting.length - 1) actions.push(["later", "▼", "Start later"]);
    if (!ended(training)) actions.push(["cancel", training.status === "waiting" ? "Cancel" : "Stop", training.status === "waiting" ? "Cancel" : "Stop"]);
    const buttons = actions.map(([action, label, words]) => {
      const button = element("button", { type: "button", "aria-label": `${words}: ${training.name}`, "data-act": `${training.id}/${action}` }, label);
      button.addEventListener("click", async () => {
        try { drawQueue(await ask(`/api/trainings/${training.id}/${action}`, { method: "POST" })); }
        catch (error) { announce(error.message); }
      });
      return button;
    });
    if (!readsOnly) cells.push(element("td", {}, ...buttons));
    return element("tr", {}, ...cells);
  }));
  if (focused) document.querySelector(`[data-act="${focused}"]`)?.focus();
}

async function showQueue() { drawQueue(await ask("/api/trainings")); }

async function watch() {
  if (!document.hidden) await showQueue().catch((error) => { $("queue-about").textContent = error.message; });
  setTimeout(watch, 1000 * SECONDS_BETWEEN_LOOKS);
}

if (form) startPage().catch((error) => announce(error.message));
watch();
