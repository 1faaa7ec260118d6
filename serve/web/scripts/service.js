// Asking the service, and how it is told that it did not answer as wanted.

let key = sessionStorage.getItem("api-key");
const pictures = new Map(); // href → promise of a blob URL; only where a key is needed

/** Why there is no answer. `kind` is "key" where an API key is wanted, "dead" where nothing answers, else "refused". */
export class Problem extends Error {
  constructor(kind, detail, status = 0) {
    super(detail);
    this.kind = kind;
    this.status = status;
  }
}

export function setKey(value) {
  key = value;
  sessionStorage.setItem("api-key", value);
}

/** The JSON that a path answers. Raises Problem. */
export async function ask(path, options = {}) {
  const response = await send(path, options);
  let body = null;
  try {
    body = await response.json();
  } catch {
    if (response.ok) throw new Problem("dead", "The answer was cut off on its way.");
  }
  if (response.ok) return body;
  throw refusal(response, body);
}

/** POST JSON; the JSON that is answered. */
export function post(path, body) {
  return ask(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
}

/** A URL that an <img> can show: where a key is needed, the browser could not send it by itself. */
export function pictureUrl(href) {
  if (key === null) return Promise.resolve(href);
  if (!pictures.has(href)) {
    const got = send(href).then((response) => {
      if (!response.ok) throw new Problem("refused", response.statusText, response.status);
      return response.blob();
    });
    const url = got.then((blob) => URL.createObjectURL(blob));
    url.catch(() => pictures.delete(href));
    pictures.set(href, url);
  }
  return pictures.get(href);
}

async function send(path, options = {}) {
  const headers = new Headers(options.headers);
  if (key !== null) headers.set("X-API-Key", key);
  try {
    return await fetch(path, { ...options, headers });
  } catch {
    throw new Problem("dead", "The service does not answer. It may be restarting, or the network is down.");
  }
}

function refusal(response, body) {
  const status = response.status;
  if (status === 401) return new Problem("key", body?.detail ?? "An API key is needed.", status);
  let detail = body?.detail ?? `The service answered ${status} ${response.statusText}.`;
  const seconds = response.headers.get("Retry-After");
  if (seconds) detail += ` It asks to wait ${seconds} s.`;
  return new Problem("refused", detail, status);
}
