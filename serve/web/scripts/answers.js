// Answers as cards. A card shows the image that matched; pointed at, focused or tapped, the place's other images beside it.

import { at, make } from "./elements.js";
import { otherModalities, picture } from "./pictures.js";
import { dayOf, labelsOf, placeOf, titleOf } from "./telling.js";

/** What tells an answer from the others: a place may answer with several of its images. */
export function answerKey(feature) {
  return `${feature.properties.target ?? ""}/${feature.id}`;
}

/**
 * The list of answers.
 *
 * `on` is told what is wanted: { use, like, unlike } with an example, label with a label, point with an answer's key or
 * null, visit with an answer's key.
 */
export class Answers {
  constructor(modalities, on) {
    this.modalities = modalities;
    this.on = on;
    this.list = at("answers");
    this.cards = new Map();
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.close();
    });
    document.addEventListener("pointerdown", (event) => {
      if (!event.target.closest(".card.open")) this.close();
    });
  }

  /** Show answers in place of those that are there. */
  show(features, search) {
    this.cards.clear();
    this.list.replaceChildren();
    this.list.classList.toggle("mixed", search.likes.length > 0 && search.targets.length > 1);
    this.add(features, search);
  }

  /** Show more answers. The first that is new. */
  add(features, search) {
    const rank = this.cards.size;
    const made = features.map((feature, place) => this.card(feature, rank + place + 1, search));
    this.list.append(...made);
    return made[0];
  }

  /** Highlight the answer of a key, and only that. */
  highlight(key) {
    for (const [name, card] of this.cards) card.classList.toggle("pointed", name === key);
  }

  close() {
    for (const card of this.list.querySelectorAll(".open, .quelled")) card.classList.remove("open");
    for (const card of this.list.querySelectorAll(".card:hover, .card:focus-within")) card.classList.add("quelled");
  }

  card(feature, rank, search) {
    const modality = feature.properties.target ?? search.modality;
    const example = { id: feature.id, modality };
    const key = answerKey(feature);
    const scored = feature.properties.score !== undefined;
    const card = make("li", { className: "card" });
    const name = `${scored ? `Answer ${rank}` : `Item ${rank}`}, ${feature.id}`;
    const shown = make(
      "button",
      { type: "button", className: "pictures", "aria-label": `${name}: show the place’s other images` },
      picture(feature, modality),
      make("span", { className: "others" }),
    );
    const alike = (examples) => examples.some((one) => one.id === feature.id && one.modality === modality);
    const same = search.likes.some((one) => one.id === feature.id);
    card.append(
      shown,
      scored ? score(rank, feature.properties.score, same) : make("p", { className: "score" }, `${rank}`),
      make("p", { className: "id", title: feature.id }, feature.id),
      make("p", { className: "where" }, make("span", {}, placeOf(feature)), make("span", {}, dayOf(feature, modality))),
      this.labels(feature),
      make(
        "div",
        { className: "actions" },
        action("+ More", `More like ${name}`, alike(search.likes), () => this.on.like(example)),
        action("− Less", `Less like ${name}`, alike(search.unlikes), () => this.on.unlike(example)),
        action("Search", `Search by ${name}`, null, () => this.on.use(example)),
      ),
    );
    this.wire(card, shown, feature, modality, key);
    this.cards.set(key, card);
    return card;
  }

  labels(feature) {
    const labels = labelsOf(feature).map((label) => {
      const told = { type: "button", className: "label", title: `Only images with label ${label}` };
      const button = make("button", told, label);
      button.addEventListener("click", () => this.on.label(label));
      return make("li", {}, button);
    });
    return labels.length ? make("ul", { className: "labels", "aria-label": "Labels" }, ...labels) : null;
  }

  wire(card, shown, feature, modality, key) {
    const reveal = () => {
      this.unfold(card, feature, modality);
      this.on.point(key);
    };
    card.addEventListener("pointerenter", reveal);
    card.addEventListener("focusin", reveal);
    for (const left of ["pointerleave", "focusout"]) {
      card.addEventListener(left, () => {
        card.classList.remove("quelled");
        this.on.point(null);
      });
    }
    shown.addEventListener("click", () => {
      const open = card.classList.contains("open");
      this.close();
      card.classList.toggle("open", !open);
      card.classList.remove("quelled");
      this.on.visit(key);
    });
  }

  /** Have the other images beside the one that matched, on the side where there is room. */
  unfold(card, feature, modality) {
    const others = card.querySelector(".others");
    const names = otherModalities(modality, this.modalities);
    if (!others.childElementCount) others.append(...names.map((name) => picture(feature, name)));
    const room = this.list.getBoundingClientRect().right - card.getBoundingClientRect().right;
    card.classList.toggle("leftward", room < card.offsetWidth * 0.9);
  }
}

function score(rank, value, same) {
  const bar = make("span", { className: "bar", "aria-hidden": "true" });
  bar.style.setProperty("--score", `${Math.max(0, value) * 100}%`);
  const told = make("span", { title: "Cosine similarity, at most 1" }, make("span", { className: "unseen" }, "similarity "));
  told.append(value.toFixed(3));
  const badge = same ? make("span", { className: "same", title: "The place of the query itself" }, "same place") : null;
  return make("p", { className: "score" }, make("b", {}, `${rank}`), told, badge, bar);
}

function action(text, label, pressed, act) {
  const button = make("button", { type: "button", "aria-label": label, title: label }, text);
  if (pressed !== null) button.setAttribute("aria-pressed", String(pressed));
  button.addEventListener("click", act);
  return button;
}

/** Said of an answer on the map. */
export function shortly(feature, rank) {
  const { score: value, target } = feature.properties;
  const parts = [`${rank}`, target ? titleOf(target) : feature.id];
  return value === undefined ? parts.join(" · ") : `${parts.join(" · ")} · ${value.toFixed(3)}`;
}
