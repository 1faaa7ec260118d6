// The form: what is asked for, and which images may answer.

import { at, make } from "./elements.js";
import { countFilters, noFilters, readBox } from "./link.js";
import { labelsOf } from "./telling.js";

/** `on.change` is told the form's part of a search: { modality, targets, limit, filters }. */
export class Settings {
  constructor(index, on) {
    this.on = on;
    this.labels = [];
    this.known = new Set();
    for (const { name, title } of index.modalities) {
      at("modality").append(choice("radio", "modality", name, title));
      at("targets").append(choice("checkbox", "target", name, title));
    }
    const some = index.properties ?? [];
    at("where").placeholder = `${some[0] ?? "split"} = '…'`;
    at("properties").textContent = ["id", "split", "labels", "datetime", "geometry", ...some].join(", ");
    this.least = false; // whether the least similarity restricts
    this.wire();
  }

  /** Show a search in the form. */
  fill(search) {
    const { filters } = search;
    check("modality", [search.modality]);
    check("target", search.targets);
    at("limit").value = search.limit;
    at("bbox").value = filters.bbox ? filters.bbox.join(", ") : "";
    for (const name of ["from", "to", "where"]) at(name).value = filters[name];
    this.labels = [...filters.labels];
    this.showLabels();
    this.least = filters.least !== null;
    at("least").value = filters.least ?? -1;
    this.showLeast();
    at("bbox").setCustomValidity("");
    const count = countFilters(filters);
    at("filtered").textContent = count ? `(${count})` : "";
    if (count) at("filters").open = true;
  }

  /** The form's part of a search; null where something in it cannot be. */
  read() {
    const box = at("bbox").value.trim();
    const bbox = readBox(box);
    at("bbox").setCustomValidity(box && !bbox ? "Four numbers: west, south, east, north, in degrees" : "");
    if (!at("settings").reportValidity()) return null;
    return {
      modality: checked("modality")[0],
      targets: checked("target"),
      limit: Number(at("limit").value),
      filters: {
        bbox,
        from: at("from").value,
        to: at("to").value,
        labels: [...this.labels],
        where: at("where").value.trim(),
        least: this.least ? Number(at("least").value) : null,
      },
    };
  }

  /** Offer the labels of items among those to choose from. */
  learn(items) {
    for (const label of items.flatMap(labelsOf)) {
      if (this.known.has(label)) continue;
      this.known.add(label);
      at("known-labels").append(make("option", { value: label }));
    }
  }

  addLabel(label) {
    if (!label || this.labels.includes(label)) return;
    this.labels.push(label);
    this.showLabels();
    this.changed();
  }

  wire() {
    const form = at("settings");
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (document.activeElement !== at("label")) this.changed();
    });
    const changed = (event) => {
      if (event.target === at("label")) return;
      if (event.target.name === "target" && !checked("target").length) event.target.checked = true; // one at least
      if (event.target === at("least")) this.least = Number(at("least").value) > -1;
      this.changed();
    };
    form.addEventListener("change", changed);
    at("filters").addEventListener("change", changed);
    at("least").addEventListener("input", () => {
      this.least = Number(at("least").value) > -1;
      this.showLeast();
    });
    at("label").addEventListener("keydown", (event) => {
      if (event.key !== "Enter") return;
      event.preventDefault();
      const label = at("label").value.trim();
      at("label").value = "";
      this.addLabel(label);
    });
    at("label").addEventListener("input", (event) => {
      const typed = /^(insertText|insertFrom|insertComposition|delete)/.test(event.inputType ?? "");
      if (typed || !this.known.has(at("label").value)) return; // else it was chosen from the list
      this.addLabel(at("label").value);
      at("label").value = "";
    });
    at("clear").addEventListener("click", () => this.on.change({ filters: noFilters() }));
  }

  changed() {
    const told = this.read();
    if (told) this.on.change(told);
  }

  showLabels() {
    const chips = this.labels.map((label) => {
      const remove = make("button", { type: "button", "aria-label": `Remove label ${label}` }, "×");
      remove.addEventListener("click", () => {
        this.labels = this.labels.filter((one) => one !== label);
        this.showLabels();
        this.changed();
        at("label").focus();
      });
      return make("li", { className: "chip" }, label, remove);
    });
    at("labels").replaceChildren(...chips);
    at("labels").hidden = !chips.length;
  }

  showLeast() {
    at("least-shown").textContent = this.least ? Number(at("least").value).toFixed(2) : "any";
  }
}

function choice(type, name, value, title) {
  return make("label", { className: "choice" }, make("input", { type, name, value }), make("span", {}, title));
}

function inputs(name) {
  return [...document.querySelectorAll(`#settings input[name="${name}"]`)];
}

function checked(name) {
  return inputs(name).filter((input) => input.checked).map((input) => input.value);
}

function check(name, values) {
  for (const input of inputs(name)) input.checked = values.includes(input.value);
}
