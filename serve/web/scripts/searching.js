// From a search to requests, and from answers to pages of them.

import { ask, post } from "./service.js";
import { embedded } from "./uploads.js";

const items = new Map(); // id → what was told of it last

/**
 * The first page of a search's answers: { features, matched, about, more }, where `more` asks for the next page and is
 * null at the end. Without examples it is a list of items, in the order of the index. Raises Problem.
 */
export async function find(search) {
  return search.likes.length ? byExamples(search) : browsing(search);
}

/** An item by its id. */
export async function item(id) {
  if (!items.has(id)) items.set(id, await ask(`/v1/items/${encodeURIComponent(id)}`));
  return items.get(id);
}

/** An item of those that pass the filters, drawn at random; null where none passes. */
export async function randomItem(filters) {
  const found = await ask(`/v1/items?sample=1&${itemQuery(filters)}`);
  return remembered(found)[0] ?? null;
}

async function byExamples(search, again = true) {
  const positives = await Promise.all(search.likes.map(given));
  const negatives = await Promise.all(search.unlikes.map(given));
  const body = { positives, target: search.targets, limit: search.limit, ...conditions(search.filters) };
  if (negatives.length) body.negatives = negatives;
  if (search.filters.least !== null) body.min_score = search.filters.least;
  const found = await post("/v1/search", body);
  const model = found.sscm.model.fingerprint;
  const uploads = [...search.likes, ...search.unlikes].filter((example) => example.upload);
  // The service may have moved to another model since an image was embedded: embeddings of two do not compare.
  const kept = await Promise.all(uploads.map(async (example) => (await embedded(example)).fingerprint === model));
  if (again && kept.includes(false)) {
    await Promise.all(uploads.map((example) => embedded(example, true)));
    return byExamples(search, false);
  }
  return page(found, (link) => post(link.href, { ...body, ...link.body }));
}

async function given(example) {
  return example.upload ? { vector: (await embedded(example)).vector } : { id: example.id, modality: example.modality };
}

async function browsing(search) {
  const found = await ask(`/v1/items?limit=${search.limit}&${itemQuery(search.filters)}`);
  return page(found, (link) => ask(link.href));
}

function page(found, follow) {
  const next = found.links.find((link) => link.rel === "next");
  return {
    features: remembered(found),
    matched: found.numberMatched,
    about: found.sscm,
    more: next ? async () => page(await follow(next), follow) : null,
  };
}

function remembered(found) {
  for (const feature of found.features) items.set(feature.id, feature);
  return found.features;
}

/** Filters as the body of a search has them. */
function conditions({ bbox, from, to, labels, where }) {
  const told = {};
  if (bbox) told.bbox = bbox;
  if (from || to) told.datetime = `${from ? `${from}T00:00:00Z` : ".."}/${to ? `${to}T23:59:59.999999Z` : ".."}`;
  if (labels.length) told.labels = labels;
  if (where) told.filter = where.trimStart().startsWith("{") ? cql2Json(where) : where;
  return told;
}

function cql2Json(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text; // the service says what is wrong with it
  }
}

/** The same in a query string, where labels are separated by commas: those that hold one go into the filter. */
function itemQuery(filters) {
  const { labels = [], filter, ...rest } = conditions(filters);
  const query = new URLSearchParams(rest);
  const plain = !labels.some((label) => label.includes(","));
  if (labels.length && plain) query.set("labels", labels);
  const clauses = filter === undefined ? [] : [filter];
  if (labels.length && !plain) clauses.push({ op: "a_overlaps", args: [{ property: "labels" }, labels] });
  if (clauses.length === 2 && typeof filter === "string") {
    const quoted = labels.map((label) => `'${label.replaceAll("'", "''")}'`);
    query.set("filter", `(${filter}) AND a_overlaps(labels, (${quoted.join(", ")}))`);
  } else if (clauses.length) {
    const all = clauses.length === 2 ? { op: "and", args: clauses } : clauses[0];
    query.set("filter", typeof all === "string" ? all : JSON.stringify(all));
  }
  return query.toString();
}
