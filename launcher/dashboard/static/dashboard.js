// Renews the parts of a page as the dashboard tells of them, and plans a job as it is typed.
"use strict";

const FOCUSABLE = "a[href], summary, button, input, select, textarea, [tabindex='0']";

// Puts new content into an element: what was open stays open, what had the focus keeps it, and what
// was scrolled stays where it was; at its end, it stays there.
function renew(element, html) {
  const open = new Set();
  for (const one of element.querySelectorAll("details[open] > summary")) open.add(one.textContent);
  const focused = element.contains(document.activeElement) ? document.activeElement : null;
  const places = [...element.querySelectorAll(FOCUSABLE)];
  const place = focused ? places.indexOf(focused) : -1;
  const address = focused ? focused.getAttribute("href") : null;
  const scrolled = [...element.querySelectorAll(".wide, .log")].map(one => [
    one.scrollLeft, one.scrollTop, one.scrollTop + one.clientHeight >= one.scrollHeight - 2]);
  element.innerHTML = html;
  for (const one of element.querySelectorAll("summary"))
    if (open.has(one.textContent)) one.parentElement.open = true;
  [...element.querySelectorAll(".wide, .log")].forEach((one, index) => {
    const before = scrolled[index];
    if (!before) { if (one.classList.contains("log")) one.scrollTop = one.scrollHeight; return; }
    one.scrollLeft = before[0];
    one.scrollTop = one.classList.contains("log") && before[2] ? one.scrollHeight : before[1];
  });
  if (place >= 0) {
    const now = [...element.querySelectorAll(FOCUSABLE)];
    const same = address && now.find(one => one.getAttribute("href") === address);
    const next = same || now[Math.min(place, now.length - 1)];
    if (next) next.focus({ preventScroll: true });
  }
}

function follow(address) {
  const connection = document.getElementById("connection");
  const source = new EventSource(address);
  const say = text => { if (connection.textContent !== text) connection.textContent = text; };
  // What is over is looked at, too, and changes no more.
  const known = () => say(document.querySelector("[data-over]") ? "The run is over." : "Live.");
  source.addEventListener("open", known);
  source.addEventListener("error", () =>
    say("The dashboard does not answer; what is shown is what was known. Trying again."));
  source.addEventListener("parts", event => {
    for (const [id, html] of Object.entries(JSON.parse(event.data))) {
      const element = document.getElementById(id);
      if (element && element.innerHTML !== html) renew(element, html);
    }
    known();
  });
}

function planning(form) {
  const shown = document.getElementById("plan");
  let due = 0, asked = 0;
  async function ask() {
    const mine = ++asked;
    let html;
    try {
      const body = new URLSearchParams(new FormData(form));
      const answer = await fetch(`${form.action}?part=plan`, { method: "POST", body });
      html = await answer.text();
    } catch (error) {
      html = "<p class='alert'>The dashboard does not answer.</p>";
    }
    if (mine === asked) renew(shown, html);
  }
  form.addEventListener("input", () => { clearTimeout(due); due = setTimeout(ask, 250); });
}

for (const log of document.querySelectorAll(".log")) log.scrollTop = log.scrollHeight;
if (document.body.dataset.live) follow(document.body.dataset.live);
const form = document.querySelector("form.plan");
if (form) planning(form);
