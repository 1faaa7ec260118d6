// What is searched by: the first example in full, all of them as chips where there are several.

import { at, make } from "./elements.js";
import { sameExample } from "./link.js";
import { otherModalities, picture, tag } from "./pictures.js";
import { item } from "./searching.js";
import { dayOf, labelsOf, placeOf, titleOf } from "./telling.js";
import { drawn, uploadedImage } from "./uploads.js";

/** `declarations` are modalities as /v1/model tells them, by name; `on.remove` is told an example. */
export class Query {
  constructor(declarations, on) {
    this.declarations = declarations;
    this.on = on;
    this.latest = 0;
  }

  /** Show a search's examples. Their items, for the map. */
  async show(search) {
    const mine = ++this.latest;
    const examples = [...search.likes, ...search.unlikes];
    const found = await Promise.all(examples.map((example) => this.load(example)));
    if (mine !== this.latest) return [];
    const loaded = new Map(examples.map((example, place) => [example, found[place]]));
    const [first] = search.likes;
    at("example").replaceChildren(...(first ? [this.whole(first, loaded.get(first))] : [nothing()]));
    const several = examples.length > 1;
    const chip = (like) => (example) => this.chip(example, loaded.get(example), like);
    const chips = several ? [...search.likes.map(chip(true)), ...search.unlikes.map(chip(false))] : [];
    at("examples").replaceChildren(...chips);
    at("examples").hidden = !several;
    at("unlinked").hidden = !examples.some((example) => example.upload);
    return search.likes.map((example) => loaded.get(example)).filter((one) => one?.assets);
  }

  async load(example) {
    if (example.upload) {
      await drawn(example.upload, this.declarations[example.modality]);
      return uploadedImage(example.upload, example.modality);
    }
    return item(example.id).catch(() => null); // the search itself says that there is none
  }

  whole(example, found) {
    if (example.upload) return uploaded(example, found);
    if (!found) return make("p", { className: "hint" }, example.id);
    const others = otherModalities(example.modality, Object.values(this.declarations));
    const shown = [picture(found, example.modality), ...others.map((name) => picture(found, name))];
    shown[0].classList.add("asked");
    const told = [placeOf(found), dayOf(found, example.modality)].filter(Boolean).join(" · ");
    const labels = labelsOf(found).join(", ");
    return make(
      "figure",
      {},
      make("div", { className: "side-by-side" }, ...shown),
      make(
        "figcaption",
        {},
        make("span", { className: "id" }, found.id),
        make("span", {}, told),
        labels ? make("span", { title: labels }, labels) : null,
        make("span", { className: "hint" }, `Searched by its ${titleOf(example.modality)} image, the framed one.`),
      ),
    );
  }

  chip(example, found, like) {
    const name = example.upload ? (found?.names.join(", ") ?? "uploaded image") : example.id;
    const said = `${like ? "Like" : "Not like"} ${name}, ${titleOf(example.modality)}`;
    const remove = make("button", { type: "button", "aria-label": `Remove example: ${said}`, title: "Remove" }, "×");
    remove.addEventListener("click", () => this.on.remove(example));
    const thumbnail = example.upload ? thumbnailOf(found) : found ? picture(found, example.modality) : placeholder();
    const sign = make("span", { className: "sign", "aria-hidden": "true" }, like ? "+" : "−");
    const chip = make("li", { className: like ? "chip like" : "chip unlike", title: said }, sign, thumbnail, remove);
    return chip;
  }
}

/** A search with an example among those wanted, and not among those unwanted; or the other way round. */
export function withExample(search, example, list) {
  const without = withoutExample(search, example);
  const had = search[list].some((one) => sameExample(one, example));
  if (had) return without; // a second press takes it back
  return { ...without, [list]: [...without[list], example] };
}

/** A search without an example. Where none is left that is wanted there is nothing to search by. */
export function withoutExample(search, example) {
  const rest = (examples) => examples.filter((one) => !sameExample(one, example));
  const likes = rest(search.likes);
  return { ...search, likes, unlikes: likes.length ? rest(search.unlikes) : [] };
}

/** A search whose query is of a modality: one from one sensor to the other stays one, the other way round. */
export function seenBy(search, modality) {
  const turned = search.modality !== modality && search.targets.length === 1 && search.targets[0] === modality;
  return { ...search, modality, targets: turned ? [search.modality] : search.targets };
}

function uploaded(example, found) {
  const names = found?.names ?? ["an uploaded image, which this tab does not hold any more"];
  const list = make("ul", { className: "files", "aria-label": "Uploaded files" }, ...names.map((name) => make("li", {}, name)));
  return make(
    "figure",
    {},
    make("div", { className: "side-by-side" }, thumbnailOf(found, titleOf(example.modality), "asked")),
    make("figcaption", {}, list, make("span", { className: "hint" }, `Searched by as a ${titleOf(example.modality)} image.`)),
  );
}

function thumbnailOf(found, title = "", className = "") {
  if (!found?.picture) return placeholder(title, className);
  const alt = `Uploaded image: ${found.names.join(", ")}`;
  const image = make("img", { alt, src: found.picture, width: 120, height: 120 });
  return make("span", { className: `picture ${className}` }, image, title ? tag(title, "uploaded") : null);
}

function placeholder(title = "", className = "") {
  const said = make("span", { className: "lacks" }, "no preview of these files");
  return make("span", { className: `picture ${className}` }, said, title ? tag(title, "uploaded") : null);
}

function nothing() {
  return make("p", { className: "hint" }, "No example: the archive is listed as it is. Search by any of its images.");
}
