// Pictures of files to upload, drawn as the archive draws its own (sscm/archive/previews.py).

import { readArray, readArrays } from "./arrays.js";

const RADAR_DB = { vv: [-20, 0], vh: [-26, -5], ratio: [2, 14] }; // dark water to bright towns

/** A URL of an image's picture, or null where a browser cannot read its files. `modality` as /v1/model declares it. */
export async function pictureOf(files, modality) {
  if (files.length !== 1) return null;
  const [file] = files;
  try {
    if (/\.png$/i.test(file.name)) return URL.createObjectURL(file);
    const bytes = new Uint8Array(await file.arrayBuffer());
    const array = readArray(bytes);
    const arrays = array ? { [modality.groups[0].name]: array } : await readArrays(bytes);
    return paint(arrays, modality);
  } catch {
    return null; // the service says what is wrong with the file, if anything is
  }
}

function paint(arrays, modality) {
  const planes = {};
  for (const group of modality.groups) {
    const array = arrays[group.name];
    if (!array || array.shape.length !== 3 || array.shape[0] !== group.bands.length) continue;
    const [, height, width] = array.shape;
    group.bands.forEach((band, number) => {
      const values = array.values.subarray(number * height * width, (number + 1) * height * width);
      planes[band.common_name ?? band.name] = { values, height, width, nodata: group.nodata, unit: group.unit };
    });
  }
  const names = Object.keys(planes);
  if (!names.length) return null;
  if (planes.vv?.unit === "dB" && planes.vh) return radar(planes.vv, planes.vh);
  const first = modality.groups[0].bands.map((band) => band.common_name ?? band.name);
  const seen = ["red", "green", "blue"].every((name) => planes[name])
    ? ["red", "green", "blue"]
    : (first.length >= 3 ? first.slice(0, 3) : [first[0], first[0], first[0]]);
  return seen.every((name) => planes[name]) ? stretched(seen.map((name) => planes[name])) : null;
}

function radar(vv, vh) {
  const channels = [
    (pixel) => scaled(vv.values[pixel], RADAR_DB.vv),
    (pixel) => scaled(vh.values[pixel], RADAR_DB.vh),
    (pixel) => scaled(vv.values[pixel] - vh.values[pixel], RADAR_DB.ratio),
  ];
  return draw(vv, channels);
}

function stretched(planes) {
  let range = [0, 255];
  if (!(planes[0].values instanceof Uint8Array)) {
    const valid = planes.flatMap(({ values, nodata }) => [...values].filter((value) => isValid(value, nodata)));
    valid.sort((one, other) => one - other);
    const low = valid[Math.floor(0.01 * valid.length)] ?? 0;
    const high = valid[Math.floor(0.98 * valid.length)] ?? 1;
    range = [low, Math.max(high, low + 0.1 * Math.abs(low) + 1e-3)];
  }
  return draw(planes[0], planes.map(({ values }) => (pixel) => scaled(values[pixel], range)));
}

function draw({ values, height, width, nodata }, channels) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const picture = context.createImageData(width, height);
  for (let pixel = 0; pixel < width * height; pixel += 1) {
    const shown = isValid(values[pixel], nodata);
    channels.forEach((channel, place) => {
      picture.data[4 * pixel + place] = shown ? Math.round(255 * channel(pixel)) : 0;
    });
    picture.data[4 * pixel + 3] = 255;
  }
  context.putImageData(picture, 0, 0);
  return canvas.toDataURL("image/png");
}

function isValid(value, nodata) {
  return nodata === null || nodata === undefined ? Number.isFinite(value) : value !== nodata;
}

function scaled(value, [low, high]) {
  return Math.min(1, Math.max(0, ((Number.isFinite(value) ? value : 0) - low) / Math.max(high - low, 1e-6)));
}
