// What is said of items, in words and numbers.

/** Modalities as the service tells them; set once. */
export const titles = {};

export function titleOf(name) {
  return titles[name] ?? name;
}

/** "44.01° N, 20.02° E", the middle of an item's box; "" where it has none. */
export function placeOf(item) {
  if (!item.bbox) return "";
  const [west, south, east, north] = item.bbox;
  const longitude = west <= east ? (west + east) / 2 : ((((west + east) / 2 + 360) % 360) - 180);
  const latitude = (south + north) / 2;
  return `${degrees(latitude, "N", "S")}, ${degrees(longitude, "E", "W")}`;
}

/** The day of an item's image of a modality, or of any where that is not known; "" where none is. */
export function dayOf(item, modality) {
  const time = item.assets[`preview_${modality}`]?.datetime ?? item.properties.datetime;
  return time ? time.slice(0, 10) : "";
}

export function labelsOf(item) {
  return item.properties.labels ?? [];
}

/** "12 images", "1 image". */
export function counted(number, one, several = `${one}s`) {
  return `${number.toLocaleString("en")} ${number === 1 ? one : several}`;
}

/** "Sentinel-1 and Sentinel-2". */
export function listed(names) {
  const told = names.map(titleOf);
  return told.length < 2 ? told.join("") : `${told.slice(0, -1).join(", ")} and ${told.at(-1)}`;
}

function degrees(value, positive, negative) {
  return `${Math.abs(value).toFixed(2)}° ${value < 0 ? negative : positive}`;
}
