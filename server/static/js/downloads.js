// Files made in the browser: a mask as a grey PNG of the image's size, an answer as JSON.

import { make } from "./dom.js";

/** All these masks as one: 255 inside, 0 outside. */
export function united(bitmaps) {
  const [{ width, height, pixels }] = bitmaps;
  const values = pixels.map((_, at) => (bitmaps.some((bitmap) => bitmap.pixels[at]) ? 255 : 0));
  return { width, height, values };
}

/** Save `values`, 0 to 255 in rows, as a grey PNG. */
export async function savePng({ width, height, values }, name) {
  const image = new ImageData(width, height);
  values.forEach((value, at) => image.data.set([value, value, value, 255], 4 * at));
  const canvas = new OffscreenCanvas(width, height);
  canvas.getContext("2d").putImageData(image, 0, 0);
  save(await canvas.convertToBlob({ type: "image/png" }), name);
}

/** Save anything as JSON. */
export function saveJson(content, name) {
  save(new Blob([JSON.stringify(content, null, 2)], { type: "application/json" }), name);
}

function save(blob, name) {
  const url = URL.createObjectURL(blob);
  make("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
