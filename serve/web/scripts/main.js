// The page: what is asked, shown, and remembered in the address.

import { Answers } from "./answers.js";
import { at } from "./elements.js";
import { fromHash, noFilters, plainSearch, toHash } from "./link.js";
import { FootprintMap } from "./map.js";
import { askKey, calm, complain, headline, incomplete, nothingFound, say, tally } from "./notices.js";
import { Query, seenBy, withExample, withoutExample } from "./query.js";
import { find, randomItem } from "./searching.js";
import { ask, setKey } from "./service.js";
import { Settings } from "./settings.js";
import { counted, listed, titles } from "./telling.js";
import { takeIn } from "./uploads.js";

class Page {
  constructor(index, model, map) {
    this.index = index;
    this.declarations = Object.fromEntries(model.modalities.map((modality) => [modality.name, modality]));
    this.search = plainSearch(index.modalities);
    this.latest = 0; // what comes late, after something else was asked, is not shown
    this.next = null;
    this.shown = 0;
    const point = (key) => {
      this.answers.highlight(key);
      this.map.highlight(key);
    };
    this.answers = new Answers(index.modalities, {
      use: (example) => this.go({ ...seenBy(this.search, example.modality), likes: [example], unlikes: [] }),
      like: (example) => this.go(withExample(this.search, example, "likes")),
      unlike: (example) => this.unlike(example),
      label: (label) => this.settings.addLabel(label),
      visit: (key) => this.map.bring(key),
      point,
    });
    this.map = new FootprintMap(map, {
      point,
      visit: (key) => this.answers.cards.get(key)?.querySelector("button").focus(),
      box: (bbox) => this.restrict({ bbox }),
    });
    this.settings = new Settings(index, { change: (told) => this.change(told) });
    this.query = new Query(this.declarations, {
      remove: (example) => this.go(withoutExample(this.search, example)),
    });
    this.map.ready.catch(() => {}); // footprints are shown on an empty ground
    this.describe();
    this.wire();
  }

  /** Search, show what is found, and have the address tell the search. */
  async go(wanted, { remember = true } = {}) {
    const mine = ++this.latest;
    const held = document.activeElement;
    const search = { ...wanted, modality: wanted.likes[0]?.modality ?? wanted.modality };
    this.search = search;
    if (remember && toHash(search) !== location.hash) history.pushState(null, "", toHash(search));
    this.settings.fill(search);
    this.drawing(false);
    this.map.showBox(search.filters.bbox);
    await this.work(
      mine,
      async () => {
        const [items, found] = await Promise.all([this.query.show(search), find(search)]);
        return () => {
          this.show(search, found, items);
          if (!held.isConnected) at("found").focus({ preventScroll: true }); // what had the focus is gone
        };
      },
      () => this.go(search, { remember: false }),
    );
  }

  show(search, found, items) {
    this.answers.show(found.features, search);
    this.map.show(found.features, items);
    this.shown = 0;
    this.told(search, found);
    if (!found.features.length) this.offer(search, found);
  }

  /** What is said of a page of answers, the first or a later one. */
  told(search, found) {
    this.shown += found.features.length;
    this.next = found.more;
    at("more").hidden = found.more === null;
    at("found").textContent = headline(search);
    this.settings.learn(found.features);
    say(tally(search, found, this.shown));
    if (!found.about.complete) complain(incomplete(found.about), ["Search again", () => this.go(search)]);
  }

  offer(search, found) {
    const { text, least, filters } = nothingFound(search, found);
    const remedies = [];
    if (least) remedies.push(["Any similarity", () => this.restrict({ least: null })]);
    if (filters) remedies.push(["Clear the filters", () => this.change({ filters: noFilters() })]);
    complain(text, ...remedies);
  }

  async more() {
    const { search, next } = this;
    await this.work(
      ++this.latest,
      async () => {
        const found = await next();
        return () => {
          const first = this.answers.add(found.features, search);
          this.map.add(found.features);
          this.told(search, found);
          first?.querySelector("button").focus();
        };
      },
      () => this.more(),
      ["Search again", () => this.go(search)],
    );
  }

  async random() {
    await this.work(
      ++this.latest,
      async () => {
        const { modality, filters } = this.search;
        const drawn = await randomItem({ ...filters, least: null });
        const likes = drawn ? [{ id: drawn.id, modality }] : [];
        return () => (drawn ? this.go({ ...this.search, likes, unlikes: [] }) : this.offer(this.search, { matched: 0 }));
      },
      () => this.random(),
    );
  }

  async upload(files) {
    if (!files.length) return;
    const { modality } = this.search;
    const upload = await takeIn(files, this.declarations[modality]);
    await this.go({ ...this.search, likes: [{ upload, modality }], unlikes: [] });
  }

  unlike(example) {
    const search = withExample(this.search, example, "unlikes");
    if (search.likes.length) this.go(search);
    else complain("Something to search by is needed beside what is unwanted: press More on another answer first.");
  }

  restrict(filters) {
    this.change({ filters: { ...this.search.filters, ...filters } });
  }

  /** The form says something else: the first example is seen through its modality. */
  change(told) {
    const { modality = this.search.modality, ...others } = told;
    const turned = seenBy({ ...this.search, ...others }, modality);
    const likes = turned.likes.map((example, place) => (place ? example : { ...example, modality }));
    this.go({ ...turned, likes });
  }

  /** Do something that asks the service; what it gives is done at the end, unless something else was asked since. */
  async work(mine, ask, again, ...remedies) {
    calm();
    say("Searching…");
    at("result").setAttribute("aria-busy", "true");
    try {
      const done = await ask();
      if (mine === this.latest) await done();
    } catch (error) {
      if (mine === this.latest) report(error, again, ...remedies);
    } finally {
      if (mine === this.latest) at("result").removeAttribute("aria-busy");
    }
  }

  describe() {
    const { items, modalities, generation, model, simulated } = this.index;
    const names = modalities.map((modality) => modality.name);
    at("facts").textContent = `${counted(items, "place")} by ${listed(names)} · model ${model.name} · generation ${generation}`;
    at("simulated").hidden = !simulated;
  }

  drawing(wanted) {
    at("draw").setAttribute("aria-pressed", String(wanted));
    if (wanted) at("places").scrollIntoView({ block: "nearest" });
    this.map.draw(wanted);
  }

  wire() {
    const pressed = (id, act) => at(id).addEventListener("click", act);
    pressed("random", () => this.random());
    pressed("browse", () => this.go({ ...this.search, likes: [], unlikes: [] }));
    pressed("more", () => this.more());
    pressed("draw", () => this.drawing(at("draw").getAttribute("aria-pressed") !== "true"));
    pressed("view", () => this.restrict({ bbox: this.map.view() }));
    pressed("copy", async () => {
      await navigator.clipboard.writeText(location.href);
      say("The link is copied.");
    });
    at("copy").hidden = !navigator.clipboard; // browsers have it on secure pages only
    at("by-id").addEventListener("submit", (event) => {
      event.preventDefault();
      const { modality } = this.search;
      this.go({ ...this.search, likes: [{ id: at("id").value.trim(), modality }], unlikes: [] });
    });
    at("files").addEventListener("change", () => {
      this.upload([...at("files").files]);
      at("files").value = ""; // the same files may be chosen again
    });
    for (const name of ["dragover", "dragleave", "drop"]) {
      document.addEventListener(name, (event) => {
        if (![...event.dataTransfer.types].includes("Files")) return;
        event.preventDefault();
        at("drop").classList.toggle("over", name === "dragover");
        if (name === "drop") this.upload([...event.dataTransfer.files]);
      });
    }
    document.querySelector(".skip").addEventListener("click", (event) => {
      event.preventDefault(); // the address holds the search: a place on the page would take its place
      at("found").focus();
    });
    window.addEventListener("popstate", () => this.restore());
  }

  /** The search that the address tells; a random image where it tells none. */
  restore() {
    const search = fromHash(location.hash, this.index.modalities);
    return search ? this.go(search, { remember: false }) : this.first();
  }

  /** So that the page is not empty: an image drawn at random, in place of the address that told nothing. */
  async first() {
    const search = plainSearch(this.index.modalities);
    const draw = async () => {
      const drawn = await randomItem(noFilters());
      if (drawn) search.likes = [{ id: drawn.id, modality: search.modality }];
      history.replaceState(null, "", toHash(search));
      return () => this.go(search);
    };
    await this.work(++this.latest, draw, () => this.first());
  }
}

function report(error, again, ...remedies) {
  say("");
  if (error.kind === "key") {
    askKey(error.message, (key) => {
      setKey(key);
      again();
    });
    return;
  }
  complain(error.message, ...(error.kind === "dead" || error.status >= 429 ? [["Try again", again]] : []), ...remedies);
  if (error.kind === undefined) throw error; // a fault of this page: the console tells where
}

async function start() {
  calm();
  let told;
  try {
    told = await Promise.all([ask("/v1/index"), ask("/v1/model"), ask("/page/settings.json")]);
  } catch (error) {
    report(error, start);
    return;
  }
  const [index, model, map] = told;
  for (const { name, title } of index.modalities) titles[name] = title;
  await new Page(index, model, map).restore();
}

start();
