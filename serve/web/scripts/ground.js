// What lies under the footprints: land and borders by Natural Earth, and a graticule that tells its degrees.

import { make } from "./elements.js";

const { L, topojson } = window;
const STEPS = [45, 30, 20, 10, 5, 2, 1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01];
const LINES = 6; // at most so many each way

/** Land with borders, as layers of a map; `colours` tells { land, coast, border }. */
export async function landLayers(colours) {
  const response = await fetch("/page/vendor/world-atlas/countries-50m.json");
  const atlas = await response.json();
  const rings = topojson.feature(atlas, atlas.objects.land).features.flatMap(({ geometry }) => geometry.coordinates);
  const shapes = rings.flatMap((polygon) => copies(polygon));
  const borders = topojson.mesh(atlas, atlas.objects.countries, (one, other) => one !== other);
  const lines = borders.coordinates.map((line) => line.map(([longitude, latitude]) => [latitude, longitude]));
  const renderer = L.canvas({ padding: 0.3, pane: "tilePane" });
  const still = { renderer, interactive: false };
  const land = L.polygon(shapes, { ...still, weight: 0.8, fillOpacity: 1 });
  const inside = L.polyline(lines.filter(isWhole), { ...still, weight: 0.7, opacity: 0.9 });
  const paint = () => {
    const { land: fill, coast, border } = colours();
    land.setStyle({ fillColor: fill, color: coast });
    inside.setStyle({ color: border });
  };
  paint();
  return { layers: [land, inside], paint };
}

/** A polygon of longitudes that jump at the antimeridian, as polygons of longitudes that do not. */
function copies(polygon) {
  const outer = unwrapped(polygon[0]);
  const rings = [outer, ...polygon.slice(1).map(unwrapped)];
  const longitudes = outer.map(([, longitude]) => longitude);
  const made = [rings];
  if (Math.max(...longitudes) > 180) made.push(moved(rings, -360));
  if (Math.min(...longitudes) < -180) made.push(moved(rings, 360));
  return made;
}

function unwrapped(ring) {
  let turn = 0;
  const points = ring.map(([longitude, latitude], place) => {
    const step = place ? longitude - ring[place - 1][0] : 0;
    turn += step > 180 ? -360 : step < -180 ? 360 : 0;
    return [latitude, longitude + turn];
  });
  if (turn === 0) return points;
  return [...points, [-90, points.at(-1)[1]], [-90, points[0][1]]]; // round the pole: Antarctica
}

function moved(rings, degrees) {
  return rings.map((ring) => ring.map(([latitude, longitude]) => [latitude, longitude + degrees]));
}

function isWhole(line) {
  return line.every(([, longitude], place) => place === 0 || Math.abs(longitude - line[place - 1][1]) < 180);
}

/** Lines of latitude and longitude with their degrees, drawn anew as the map moves. */
export function addGraticule(map) {
  const group = L.layerGroup().addTo(map);
  const draw = () => {
    const seen = map.getBounds();
    const [west, east] = [Math.max(-180, seen.getWest()), Math.min(180, seen.getEast())];
    const [south, north] = [Math.max(-85, seen.getSouth()), Math.min(85, seen.getNorth())];
    const span = Math.max(east - west, north - south);
    const step = STEPS.findLast((one) => span / one <= LINES) ?? STEPS[0];
    group.clearLayers();
    for (const longitude of multiples(west, east, step)) {
      line(group, [[-85, longitude], [85, longitude]]);
      label(group, [seen.getSouth(), longitude], degrees(longitude, step, "E", "W"), "below");
    }
    for (const latitude of multiples(south, north, step)) {
      line(group, [[latitude, -180], [latitude, 180]]);
      label(group, [latitude, seen.getWest()], degrees(latitude, step, "N", "S"), "beside");
    }
  };
  map.on("moveend", draw);
}

function line(group, ends) {
  L.polyline(ends, { interactive: false, className: "graticule", weight: 1, pane: "graticule" }).addTo(group);
}

function label(group, place, text, side) {
  const html = make("span", {}, text);
  const icon = L.divIcon({ className: `degrees ${side}`, html, iconSize: [0, 0] });
  L.marker(place, { icon, interactive: false, keyboard: false, pane: "graticule" }).addTo(group);
}

function multiples(low, high, step) {
  const found = [];
  for (let number = Math.ceil(low / step + 1e-9); number * step < high; number += 1) found.push(number * step);
  return found;
}

function degrees(value, step, positive, negative) {
  const digits = step < 0.1 ? 2 : step < 1 ? 1 : 0;
  const text = Math.abs(value).toFixed(digits);
  return Number(text) === 0 ? "0°" : `${text}° ${value < 0 ? negative : positive}`;
}
