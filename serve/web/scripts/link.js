// A search as the page's address tells it, after the "#".
//
// A search is { modality, likes, unlikes, targets, limit, filters: { bbox, from, to, labels, where, least } }.
// An example, of likes and unlikes, is { id, modality } or, of an uploaded image, { upload, modality }.

const PER_PAGE = 15;

/** The search that nothing restricts, with no example. */
export function plainSearch(modalities) {
  const names = modalities.map((modality) => modality.name);
  return {
    modality: names[0],
    likes: [],
    unlikes: [],
    targets: [names[1] ?? names[0]],
    limit: PER_PAGE,
    filters: noFilters(),
  };
}

export function noFilters() {
  return { bbox: null, from: "", to: "", labels: [], where: "", least: null };
}

/** How many filters there are. */
export function countFilters({ bbox, from, to, labels, where, least }) {
  return [bbox, from || to, labels.length, where, least !== null].filter(Boolean).length;
}

export function toHash(search) {
  const { filters } = search;
  const words = new URLSearchParams();
  for (const example of search.likes) words.append("like", exampleText(example));
  for (const example of search.unlikes) words.append("unlike", exampleText(example));
  words.set("by", search.modality);
  for (const target of search.targets) words.append("find", target);
  words.set("n", search.limit);
  if (filters.bbox) words.set("bbox", filters.bbox.join(","));
  for (const name of ["from", "to", "where"]) if (filters[name]) words.set(name, filters[name]);
  for (const label of filters.labels) words.append("label", label);
  if (filters.least !== null) words.set("least", filters.least);
  return `#${words}`;
}

/** The search of an address; null where it tells none. What it says of modalities that are not served is left out. */
export function fromHash(hash, modalities) {
  const words = new URLSearchParams(hash.replace(/^#/, ""));
  if (!["like", "by", "find"].some((name) => words.has(name))) return null;
  const plain = plainSearch(modalities);
  const served = (name) => modalities.some((modality) => modality.name === name);
  const examples = (name) => words.getAll(name).map(readExample).filter((example) => served(example.modality));
  const targets = [...new Set(words.getAll("find").filter(served))];
  const limit = Math.trunc(Number(words.get("n")));
  const bbox = readBox(words.get("bbox") ?? "");
  const least = Number(words.get("least") ?? NaN);
  const likes = examples("like");
  return {
    modality: served(words.get("by")) ? words.get("by") : plain.modality,
    likes,
    unlikes: likes.length ? examples("unlike") : [],
    targets: targets.length ? targets : plain.targets,
    limit: limit >= 1 && limit <= 1000 ? limit : plain.limit,
    filters: {
      bbox,
      from: words.get("from") ?? "",
      to: words.get("to") ?? "",
      labels: [...new Set(words.getAll("label"))],
      where: words.get("where") ?? "",
      least: least >= -1 && least <= 1 ? least : null,
    },
  };
}

/** Four numbers of a text; null where it holds none, or others. */
export function readBox(text) {
  const numbers = text.split(/[,\s]+/).filter(Boolean).map(Number);
  return numbers.length === 4 && numbers.every(Number.isFinite) ? numbers : null;
}

/** Whether two examples are the same image. */
export function sameExample(one, other) {
  return one.id === other.id && one.upload === other.upload && one.modality === other.modality;
}

function exampleText({ id, upload, modality }) {
  return upload ? `${modality}/upload/${upload}` : `${modality}/id/${id}`; // an id may hold slashes, too
}

function readExample(text) {
  const [modality, kind, ...rest] = text.split("/");
  return kind === "upload" ? { upload: rest.join("/"), modality } : { id: rest.join("/"), modality };
}
