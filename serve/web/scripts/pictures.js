// Pictures of items: one of a modality, and all of them side by side.

import { make } from "./elements.js";
import { pictureUrl } from "./service.js";
import { dayOf, titleOf } from "./telling.js";

/** An item's picture of a modality, with its name and day on it. */
export function picture(item, modality) {
  const image = make("img", { alt: `${titleOf(modality)} image of ${item.id}`, width: 120, height: 120 });
  const asset = item.assets[`preview_${modality}`];
  const figure = make("span", { className: "picture" }, image, tag(titleOf(modality), dayOf(item, modality)));
  if (asset) {
    pictureUrl(asset.href).then(
      (url) => (image.src = url),
      () => lacks(figure, image),
    );
    image.addEventListener("error", () => lacks(figure, image));
  } else {
    lacks(figure, image);
  }
  return figure;
}

/** What is said on a picture. */
export function tag(title, day) {
  return make("span", { className: "tag", "aria-hidden": "true" }, title, day ? make("small", {}, day) : null);
}

/** The modalities of which an item may have images, but one. */
export function otherModalities(modality, modalities) {
  return modalities.map((one) => one.name).filter((name) => name !== modality);
}

function lacks(figure, image) {
  image.remove();
  if (!figure.querySelector(".lacks")) figure.prepend(make("span", { className: "lacks" }, "no picture"));
}
