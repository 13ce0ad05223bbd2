// The scoreboard of a class, and the page on which students hand in.
import { $, announce, ask, element, percent } from "/static/board.js";

const SECONDS_BETWEEN_LOOKS = 3;
let drawn = "";

function draw(scoreboard) {
  const text = JSON.stringify(scoreboard), removes = $("scoreboard").dataset.removes;
  if (text === drawn) return; // a button keeps its focus
  drawn = text;
  $("nobody").hidden = scoreboard.rows.length > 0;
  $("scoreboard").hidden = !scoreboard.rows.length;
  const cell = (content) => element("td", {}, content);
  $("scoreboard").tBodies[0].replaceChildren(...scoreboard.rows.map((row) => {
    const isTested = row.accuracy != null, isFirst = scoreboard.rows[0] === row;
    const verdict = !isTested || isFirst ? "-" : row.like_the_first ? "not distinguishable" : "lower";
    const copy = row.same_as ? element("div", { class: "soft" }, `same answers as ${row.same_as}`) : "";
    const cells = [
      cell(isTested ? String(row.place) : "-"), element("th", { scope: "row" }, row.name), cell(percent(row.accuracy)),
      cell(isTested ? `${percent(row.low)} to ${percent(row.high)}` : "-"), element("td", {}, verdict, copy),
      cell(`${row.tries} of ${scoreboard.most_tries}`), cell(row.tries > 1 ? `about ${percent(row.luck)}` : "-"),
    ];
    if (removes) {
      const button = element("button", { type: "button", "aria-label": `Remove ${row.name}` }, "Remove");
      button.addEventListener("click", async () => {
        if (!confirm(`Remove ${row.name} with ${row.tries} tries?`)) return;
        try { draw(await ask(`/api/class/remove?${new URLSearchParams({ name: row.name })}`, { method: "POST" })); } catch (error) { announce(error.message); }
      });
      cells.push(cell(button));
    }
    return element("tr", {}, ...cells);
  }));
}

async function watch() {
  try { if (!document.hidden) draw(await ask("/api/class")); } catch { announce("The board does not answer. Trying again."); }
  setTimeout(watch, 1000 * SECONDS_BETWEEN_LOOKS);
}

function handIn() {
  $("key").value = localStorage.getItem("student-key") ?? "";
  $("student").value = localStorage.getItem("student-name") ?? "";
  $("key").addEventListener("change", () => localStorage.setItem("student-key", $("key").value.trim()));
  $("join").addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      const { name, key } = await ask(`/api/class/join?${new URLSearchParams({ name: $("student").value })}`, { method: "POST" });
      localStorage.setItem("student-name", name);
      localStorage.setItem("student-key", key);
      $("key").value = key;
      $("result").textContent = `${name} has joined.`;
    } catch (error) { $("result").textContent = error.message; }
  });
  $("hand-in").addEventListener("submit", async (event) => {
    event.preventDefault();
    const file = $("file").files[0], format = file.name.toLowerCase().split(".").pop();
    if (!["safetensors", "onnx"].includes(format)) { $("result").textContent = "Choose a .safetensors or .onnx file."; return; }
    $("send").disabled = true;
    $("result").textContent = "Evaluating …";
    try {
      await ask(`/api/class/weights?format=${format}`, { method: "POST", body: file, headers: { "X-Student-Key": $("key").value.trim() } });
      $("result").textContent = "Your weights are on the scoreboard.";
    } catch (error) { $("result").textContent = error.message; }
    $("send").disabled = false;
  });
}

if ($("scoreboard")) watch(); else handIn();
