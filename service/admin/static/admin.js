// Keeps what is marked data-live fresh, in place: focus, selection and scroll positions stay. The page is whole without it.
"use strict";

const EVERY_MS = 2000;
const REGIONS = "[data-live]";

const pause = document.getElementById("pause");
const freshness = document.getElementById("freshness");
let isPaused = false;

function keyOf(node) {
  return node.nodeType === Node.ELEMENT_NODE ? node.id : "";
}

function isAlike(a, b) {
  return a.nodeType === b.nodeType && a.nodeName === b.nodeName && keyOf(a) === keyOf(b);
}

function patch(now, next) {
  if (now.nodeType !== Node.ELEMENT_NODE) {
    if (now.nodeValue !== next.nodeValue) now.nodeValue = next.nodeValue;
    return;
  }
  if (now === document.activeElement && "value" in now && now.type !== "hidden" && now.nodeName !== "BUTTON") return;
  for (const { name } of [...now.attributes]) if (!next.hasAttribute(name)) now.removeAttribute(name);
  for (const { name, value } of next.attributes) if (now.getAttribute(name) !== value) now.setAttribute(name, value);
  patchChildren(now, next);
}

function patchChildren(now, next) {
  const keyed = new Map([...now.children].filter((child) => child.id).map((child) => [child.id, child]));
  let place = now.firstChild;
  for (const wanted of [...next.childNodes]) {
    const known = keyOf(wanted) ? keyed.get(keyOf(wanted)) : place;
    if (known && isAlike(known, wanted)) {
      if (known === place) place = place.nextSibling;
      else now.insertBefore(known, place);
      patch(known, wanted);
    } else {
      now.insertBefore(document.importNode(wanted, true), place);
    }
  }
  while (place) {
    const after = place.nextSibling;
    place.remove();
    place = after;
  }
}

function say(text) {
  if (freshness.textContent !== text) freshness.textContent = text;
}

async function refresh() {
  let response;
  try {
    response = await fetch(location.href, { signal: AbortSignal.timeout(10_000), headers: { "X-Refresh": "1" } });
  } catch {
    say("The service does not answer: what you see is old.");
    return;
  }
  if (response.redirected) {
    location.assign(response.url);
    return;
  }
  if (!response.ok) {
    say(`The service answers ${response.status}: what you see is old.`);
    return;
  }
  const next = new DOMParser().parseFromString(await response.text(), "text/html");
  for (const region of document.querySelectorAll(REGIONS)) {
    const fresh = next.getElementById(region.id);
    if (fresh) patch(region, fresh);
  }
  say("");
}

async function run() {
  if (!isPaused && !document.hidden) await refresh();
  setTimeout(run, EVERY_MS);
}

if (pause) {
  pause.hidden = false;
  pause.addEventListener("click", () => {
    isPaused = !isPaused;
    pause.textContent = isPaused ? "Go on with updates" : "Pause updates";
  });
  setTimeout(run, EVERY_MS);
}
