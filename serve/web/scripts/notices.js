// What is said to people: how it went, what went wrong, and what they can do about it.

import { at, make } from "./elements.js";
import { countFilters } from "./link.js";
import { counted, listed, titleOf } from "./telling.js";

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
export function headline(search) {
  const { likes, unlikes } = search;
  if (!likes.length) return "Places of the archive";
  const [{ modality }] = likes;
  const one = likes[0].upload ? `the uploaded ${titleOf(modality)} image` : `this ${titleOf(modality)} image`;
  const wanted = likes.length > 1 ? `${likes.length} examples` : one;
  return `${listed(search.targets)} images most like ${wanted}${unlikes.length ? `, and unlike ${unlikes.length}` : ""}`;
}

/** How many there are. */
export function tally(search, found, shown) {
  const all = counted(found.matched, search.likes.length ? "image" : "place");
  if (!shown) return "";
  if (!search.likes.length) return `${shown.toLocaleString("en")} of ${all}.`;
  return `${shown.toLocaleString("en")} of ${all}, the most alike first.`;
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
