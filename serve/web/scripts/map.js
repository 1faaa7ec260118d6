// The map: footprints of answers and query, the box that filters, and what lies under them.

import { answerKey, shortly } from "./answers.js";
import { at, make } from "./elements.js";
import { addGraticule, landLayers } from "./ground.js";

const { L } = window;
const WORLD = [[-58, -170], [75, 180]];
const NEAREST = 6; // zoom beyond which answers are not approached by themselves: coastlines tell nothing there
const DOT = 5; // pixels: a footprint is seen at any zoom
const RING = 10; // pixels, round the place of a query

/** `on` is told: point with an answer's key or null, visit with an answer's key, box with four degrees. */
export class FootprintMap {
  constructor({ tiles, attribution }, on) {
    this.on = on;
    this.marks = new Map(); // answer's key → its layers
    this.map = L.map("map", {
      attributionControl: Boolean(tiles && attribution),
      boxZoom: false,
      zoomControl: false,
      maxBounds: [[-90, -200], [90, 200]],
      minZoom: 0,
      maxZoom: 16,
      zoomSnap: 0.25,
      zoomDelta: 1,
      wheelPxPerZoomLevel: 90,
    });
    L.control.zoom({ position: "topright" }).addTo(this.map);
    const stack = this.map.createPane("graticule");
    stack.style.zIndex = 350;
    stack.style.pointerEvents = "none";
    this.map.attributionControl?.setPrefix(false);
    this.answers = L.featureGroup().addTo(this.map);
    this.query = L.featureGroup().addTo(this.map);
    this.box = L.layerGroup().addTo(this.map);
    addGraticule(this.map);
    this.map.fitBounds(WORLD);
    this.ready = this.lay(tiles, attribution);
    this.drawing = null;
    new ResizeObserver(() => this.map.invalidateSize({ pan: false })).observe(at("map"));
  }

  async lay(tiles, attribution) {
    if (tiles) {
      const text = make("span", {}, attribution ?? "");
      const told = { attribution: text.innerHTML, referrerPolicy: "origin", maxZoom: 19 };
      L.tileLayer(tiles, told).addTo(this.map);
      return;
    }
    const land = await landLayers(groundColours);
    for (const layer of land.layers) layer.addTo(this.map);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", land.paint);
  }

  /** Show the footprints of answers, and of the query's items; approach the answers. */
  show(features, queries) {
    this.marks.clear();
    this.answers.clearLayers();
    this.query.clearLayers();
    for (const item of queries) {
      const ring = this.mark(item, { className: "footprint queried", interactive: false }, RING);
      for (const layer of ring) layer.addTo(this.query);
    }
    this.add(features);
    this.approach();
  }

  /** Show more answers. */
  add(features) {
    for (const feature of features) {
      const rank = this.marks.size + 1;
      const key = answerKey(feature);
      const layers = this.mark(feature, { className: "footprint" });
      this.marks.set(key, layers);
      for (const layer of layers) {
        layer.bindTooltip(shortly(feature, rank), { direction: "top", className: "told" });
        layer.on("mouseover", () => this.on.point(key));
        layer.on("mouseout", () => this.on.point(null));
        layer.on("click", () => this.on.visit(key));
        layer.addTo(this.answers);
      }
    }
  }

  /** Highlight the footprint of an answer, and only that. */
  highlight(key) {
    for (const [name, layers] of this.marks) {
      for (const layer of layers) {
        layer.getElement()?.classList.toggle("pointed", name === key);
        if (name === key) layer.bringToFront();
      }
    }
  }

  /** Move the map to an answer, if it is out of sight. */
  bring(key) {
    const [dot] = this.marks.get(key) ?? [];
    if (dot && !this.map.getBounds().contains(dot.getLatLng())) this.map.panTo(dot.getLatLng());
  }

  /** West, south, east, north of what is seen. */
  view() {
    const seen = this.map.getBounds();
    const corners = [seen.getWest(), seen.getSouth(), seen.getEast(), seen.getNorth()];
    const limits = [[-180, 180], [-90, 90], [-180, 180], [-90, 90]];
    return corners.map((corner, side) => rounded(Math.min(limits[side][1], Math.max(limits[side][0], corner))));
  }

  /** Show the box that filters; null for none. */
  showBox(bbox) {
    this.box.clearLayers();
    if (!bbox) return;
    const [west, south, east, north] = bbox;
    const parts = west <= east ? [[west, east]] : [[west, 180], [-180, east]];
    for (const [left, right] of parts) {
      L.rectangle([[south, left], [north, right]], { className: "box", interactive: false }).addTo(this.box);
    }
  }

  /** Let the next drag draw a box, or not. */
  draw(wanted) {
    this.drawing?.stop();
    this.drawing = null;
    at("map").classList.toggle("drawing", wanted);
    if (wanted) this.drawing = this.follow();
  }

  follow() {
    const { map } = this;
    const stop = new AbortController();
    const container = map.getContainer();
    let first = null;
    map.dragging.disable();
    const where = (event) => map.mouseEventToLatLng(event);
    const listen = (name, act) => container.addEventListener(name, act, { signal: stop.signal, capture: true });
    listen("pointerdown", (event) => {
      if (event.target.closest(".leaflet-control")) return;
      first = where(event);
      container.setPointerCapture(event.pointerId);
      event.preventDefault();
      event.stopPropagation();
    });
    listen("pointermove", (event) => {
      if (first) this.showBox(boxOf(first, where(event)));
    });
    listen("pointerup", (event) => {
      if (!first) return;
      const box = boxOf(first, where(event));
      first = null;
      if (box[0] < box[2] && box[1] < box[3]) this.on.box(box);
    });
    return {
      stop: () => {
        stop.abort();
        map.dragging.enable();
      },
    };
  }

  approach() {
    const places = this.answers.getLayers().length ? this.answers : this.query;
    const bounds = L.latLngBounds([]);
    for (const group of [places, this.query]) if (group.getLayers().length) bounds.extend(group.getBounds());
    if (bounds.isValid()) this.map.fitBounds(bounds, { padding: [22, 22], maxZoom: NEAREST, animate: false });
  }

  mark(item, style, radius = DOT) {
    if (!item.bbox || !item.geometry) return [];
    const [west, south, east, north] = item.bbox;
    const middle = [(south + north) / 2, west <= east ? (west + east) / 2 : (west + east + 360) / 2];
    return [L.circleMarker(middle, { radius, ...style }), L.geoJSON(item.geometry, { style }).getLayers()].flat();
  }
}

function boxOf(one, other) {
  const [west, east] = [one.lng, other.lng].sort((first, second) => first - second);
  const [south, north] = [one.lat, other.lat].sort((first, second) => first - second);
  return [Math.max(-180, west), Math.max(-90, south), Math.min(180, east), Math.min(90, north)].map(rounded);
}

function rounded(degrees) {
  return Math.round(degrees * 1000) / 1000;
}

function groundColours() {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  return { land: colour("--land"), coast: colour("--coast"), border: colour("--border") };
}
