// The last 20 runs, for a gateway whose dashboard was not built.
import { $, el } from "./dom.js";

let key = "";

async function list() {
  const headers = key ? { authorization: `Bearer ${key}` } : {};
  try {
    const response = await fetch("v1/runs?limit=20", { headers });
    const answer = await response.json();
    $("key-form").hidden = response.status !== 401;
    $("runs").hidden = !response.ok || answer.data.length === 0;
    $("notice").textContent = !response.ok ? answer.detail : answer.data.length ? "" : "There are no runs yet.";
    if (!response.ok) return;
    $("rows").replaceChildren(...answer.data.map((run) => el("tr", {}, el("td", {}, el("code", {}, run.id)),
      el("td", {}, run.function), el("td", {}, run.status.replaceAll("_", " ")),
      el("td", {}, new Date(run.created_at).toLocaleString()))));
  } catch {
    $("notice").textContent = "The gateway does not answer. Trying again…";
  }
}

$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key = $("key").value.trim();
  list();
});
list();
setInterval(() => { if (!document.hidden && $("key-form").hidden) list(); }, 5000);
