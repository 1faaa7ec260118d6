// What is said to people: how it went, what went wrong, and what they can do about it.

import { at, make } from "./elements.js";
import { countFilters } from "./link.js";
import { counted, listed } from "./telling.js";

export function say(text) {
  at("status").textContent = text;
}

/** Say what went wrong, with buttons that may help: pairs of text and what to do. */
export function complain(text, ...remedies) {
  const buttons = remedies.map(([label, act]) => {
    const button = make("button", { type: "button" }, label);
    button.addEventListener("click", act);
    return button;
  });
  at("problem").replaceChildren(make("span", {}, text), ...buttons);
  at("problem").hidden = false;
}

export function calm() {
  at("problem").hidden = true;
  at("problem").replaceChildren();
}

/** The heading over the answers to a search. */
export function headline(search, found, shown) {
  if (!search.likes.length) return `${counted(shown, "place")} of ${found.matched.toLocaleString("en")}`;
  return `${listed(search.targets)}: best ${shown} of ${counted(found.matched, "image")}`;
}

/** What to say where nothing answers: { text, least, filters }, the last two whether to offer to drop them. */
export function nothingFound(search, found) {
  const filters = countFilters(search.filters) - (search.filters.least === null ? 0 : 1);
  if (found.matched > 0 && search.filters.least !== null) {
    const passing = `${counted(found.matched, "image")} ${found.matched === 1 ? "passes" : "pass"} the filters`;
    return { text: `${passing}, none with a similarity of ${search.filters.least} or more. Ask for less.`, least: true };
  }
  if (filters) return { text: "No image passes the filters; widen or clear them.", filters: true };
  return { text: "The index has no other image to answer with." };
}

/** What to say of answers that lack those of some index shards. */
export function incomplete(about) {
  const lost = about.shards_lost ?? [];
  const which = lost.length ? ` (${lost.map((number) => `shard ${number}`).join(", ")})` : "";
  return `These answers are incomplete: a part of the index${which} did not answer.`;
}

/** Ask for an API key; `use` is told it. */
export function askKey(detail, use) {
  const form = at("key-form");
  form.hidden = false;
  say(detail);
  at("key").focus();
  form.onsubmit = (event) => {
    event.preventDefault();
    form.hidden = true;
    use(at("key").value.trim());
  };
}
