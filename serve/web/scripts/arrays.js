// NumPy's files: one array (.npy), or a ZIP of several (.npz).

const NPY = [0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59];
const TYPES = { f4: Float32Array, f8: Float64Array, u1: Uint8Array, u2: Uint16Array, i2: Int16Array, i4: Int32Array };

/** { shape, values } of the bytes of a .npy file; null where it is none that we read: little-endian, C order. */
export function readArray(bytes) {
  if (!NPY.every((byte, place) => bytes[place] === byte)) return null;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const long = bytes[6] > 1; // the version
  const start = (long ? 12 : 10) + (long ? view.getUint32(8, true) : view.getUint16(8, true));
  const header = new TextDecoder("latin1").decode(bytes.subarray(long ? 12 : 10, start));
  const type = /'descr':\s*'[<|]([a-z]\d)'/.exec(header);
  const shape = /'shape':\s*\(([^)]*)\)/.exec(header);
  const kind = type && TYPES[type[1]];
  if (!kind || !shape || /'fortran_order':\s*True/.test(header)) return null;
  const sides = shape[1].split(",").filter((side) => side.trim()).map(Number);
  const count = sides.reduce((product, side) => product * side, 1);
  if (bytes.byteLength - start < count * kind.BYTES_PER_ELEMENT) return null;
  return { shape: sides, values: new kind(bytes.slice(start).buffer, 0, count) };
}

/** Name → array, of the bytes of a .npz file; arrays that we cannot read are left out. */
export async function readArrays(bytes) {
  const arrays = {};
  for (const { name, method, data } of zipEntries(bytes)) {
    const content = method === 0 ? data : method === 8 ? await inflate(data) : null;
    const array = content && readArray(content);
    if (array) arrays[name.replace(/\.npy$/, "")] = array;
  }
  return arrays;
}

/** Entries by the directory at a ZIP's end: sizes are right there, whatever wrote it. */
function* zipEntries(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let end = bytes.byteLength - 22;
  while (end >= 0 && view.getUint32(end, true) !== 0x06054b50) end -= 1;
  if (end < 0) return;
  let place = view.getUint32(end + 16, true);
  for (let left = view.getUint16(end + 10, true); left > 0; left -= 1) {
    if (place + 46 > bytes.byteLength || view.getUint32(place, true) !== 0x02014b50) return;
    const [size, nameSize, extraSize, commentSize] = [
      view.getUint32(place + 20, true),
      view.getUint16(place + 28, true),
      view.getUint16(place + 30, true),
      view.getUint16(place + 32, true),
    ];
    const name = new TextDecoder().decode(bytes.subarray(place + 46, place + 46 + nameSize));
    const local = view.getUint32(place + 42, true);
    if (local + 30 > bytes.byteLength) return;
    const start = local + 30 + view.getUint16(local + 26, true) + view.getUint16(local + 28, true);
    yield { name, method: view.getUint16(place + 10, true), data: bytes.subarray(start, start + size) };
    place += 46 + nameSize + extraSize + commentSize;
  }
}

async function inflate(data) {
  const stream = new Blob([data]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
