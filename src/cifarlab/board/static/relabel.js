// The queue of suspicious images: decisions with the keyboard, written into a table beside the data.
import { $, announce, ask, element } from "/static/board.js";

const CLASSES_WITH_KEYS = 9, SECONDS_BETWEEN_LOOKS = 2;

function relabelPage(page) {
  const run = page.dataset.run, readsOnly = "readsOnly" in page.dataset, query = `run=${encodeURIComponent(run)}`;
  let queue = null, place = 0, last = null, deciding = false; // `last` is the place of the last decision
  const reporting = (work) => async (...values) => { try { await work(...values); } catch (error) { announce(error.message); } };

  function show() {
    const suspect = queue.suspects[place];
    $("suspect").hidden = !suspect;
    const decided = new Set(queue.suspects.filter((each) => each.decision != null).map((each) => each.image)).size;
    $("state").textContent = queue.is_searching ? "Searching: this trains several networks, and takes minutes …" : queue.failure ? `The search failed: ${queue.failure}` : queue.has_searched ? `${queue.suspects.length} suspicious images, ${decided} decided` : "Nothing was searched yet.";
    $("table").textContent = queue.table;
    $("command").textContent = queue.command;
    if (!suspect) return;
    $("place").textContent = `${place + 1} of ${queue.suspects.length}: ${suspect.image}`;
    $("image").src = `/api/relabel/image?${query}&image=${encodeURIComponent(suspect.image)}`;
    $("image").alt = suspect.image;
    $("reason").textContent = `Label: ${suspect.label}. Suspicion (${suspect.kind}): ${suspect.reason}`;
    $("decision").textContent = suspect.decision == null ? "Not decided" : suspect.decision === "" ? "Decided: leave it out" : `Decided: ${suspect.decision}`;
  }

  const decide = reporting(async (label) => {
    const suspect = queue?.suspects[place];
    if (!suspect || readsOnly || deciding) return;
    deciding = true;
    try {
      await ask("/api/relabel/decide", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ run, image: suspect.image, label }) });
      for (const each of queue.suspects) if (each.image === suspect.image) each.decision = label;
      last = label == null ? null : place;
      if (label != null && place < queue.suspects.length - 1) place++;
      show();
    } finally { deciding = false; }
  });
  const go = (by) => { if (!queue) return; place = Math.max(0, Math.min(queue.suspects.length - 1, place + by)); show(); };
  /** Undo the decision on the shown image, or else the last one. */
  function takeBack() {
    if (queue.suspects[place]?.decision == null && last != null) place = last;
    decide(null);
  }
  const actions = { k: () => decide(queue.suspects[place].label), x: () => decide(""), u: takeBack, ArrowLeft: () => go(-1), ArrowRight: () => go(1) };

  // The key of a class is its place from 1, but the digit itself where all classes are digits.
  const keyOf = (name, number) => (queue.classes.every((each) => /^\d$/.test(each)) ? name : number < CLASSES_WITH_KEYS ? String(number + 1) : "");

  const load = reporting(async () => {
    queue = await ask(`/api/relabel?${query}`).catch((error) => { $("state").textContent = error.message; throw error; });
    $("choices").replaceChildren(...queue.classes.map((name, number) => {
      const button = element("button", { type: "button" }, keyOf(name, number) ? `${name} (${keyOf(name, number)})` : name);
      button.addEventListener("click", () => decide(name));
      return button;
    }));
    show();
    if (queue.is_searching) setTimeout(load, 1000 * SECONDS_BETWEEN_LOOKS);
  });

  addEventListener("keydown", (event) => {
    if (!queue?.suspects.length || event.ctrlKey || event.metaKey || event.altKey) return;
    const name = queue.classes.find((each, number) => keyOf(each, number) === event.key);
    if (name === undefined && !actions[event.key]) return;
    event.preventDefault();
    if (name !== undefined) decide(name); else actions[event.key]();
  });
  for (const [id, key] of [["keep", "k"], ["leave-out", "x"], ["take-back", "u"], ["previous", "ArrowLeft"], ["next", "ArrowRight"]]) $(id).addEventListener("click", () => actions[key]());
  $("search").addEventListener("click", reporting(async () => { await ask(`/api/relabel/search?${query}`, { method: "POST" }); await load(); }));
  $("train").addEventListener("click", reporting(async () => {
    const training = await ask(`/api/relabel/train?${query}`, { method: "POST" });
    $("trained").replaceChildren(element("a", { href: "/train" }, `${training.name} is in the queue`));
  }));
  load();
}

if ($("relabel")) relabelPage($("relabel"));
