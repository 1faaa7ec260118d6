// Uploaded images: kept in this tab, embedded by the service, shown as far as a browser can read them.

import { pictureOf } from "./preview.js";
import { ask, Problem } from "./service.js";

const images = new Map(); // upload → { files, names, picture, embeddings: Map of modality → promise }

/** Take files in as one image; its name in this tab. `modality` is the declaration by /v1/model, to draw it by. */
export async function takeIn(files, modality) {
  const bytes = crypto.getRandomValues(new Uint8Array(6));
  const upload = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  const image = { files, names: files.map((file) => file.name), pictures: new Map(), embeddings: new Map() };
  images.set(upload, image);
  if (modality) await drawn(upload, modality);
  return upload;
}

/** { names, picture }: file names, and a URL of its picture or null; null where this tab has no such image. */
export function uploadedImage(upload, modality) {
  const image = images.get(upload);
  return image ? { names: image.names, picture: image.pictures.get(modality) ?? null } : null;
}

/** Have a picture of an image, as one of a modality, for `uploadedImage`. */
export async function drawn(upload, modality) {
  const image = images.get(upload);
  if (!image || image.pictures.has(modality.name)) return;
  image.pictures.set(modality.name, await pictureOf(image.files, modality));
}

/** { vector, fingerprint } of an example that was uploaded. Raises Problem. */
export function embedded({ upload, modality }, anew = false) {
  const image = images.get(upload);
  if (!image) {
    const gone = "The link was made with an uploaded image, which links do not hold. Choose its files again.";
    return Promise.reject(new Problem("gone", gone));
  }
  if (anew || !image.embeddings.has(modality)) {
    const form = new FormData();
    for (const file of image.files) form.append("files", file);
    form.append("modality", modality);
    const answer = ask("/v1/embed", { method: "POST", body: form });
    const told = answer.then(({ vector, model }) => ({ vector, fingerprint: model.fingerprint }));
    told.catch(() => image.embeddings.delete(modality));
    image.embeddings.set(modality, told);
  }
  return image.embeddings.get(modality);
}
