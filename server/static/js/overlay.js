// Masks as pixels to lay over the picture: tint, outline with a pale rim, hatching where a part is hidden.

export const COLOURS = [[14, 190, 214], [240, 140, 40], [160, 110, 240], [90, 190, 90], [235, 80, 120], [230, 200, 40]];
const RIM = [255, 255, 255, 235];

export const colourOf = (object) => COLOURS[object % COLOURS.length];

/** A mask at another size, nearest pixel. */
export function resized(bitmap, width, height) {
  const pixels = new Uint8Array(width * height);
  for (let y = 0; y < height; y++) {
    const row = Math.floor(((y + 0.5) * bitmap.height) / height) * bitmap.width;
    for (let x = 0; x < width; x++) {
      pixels[y * width + x] = bitmap.pixels[row + Math.floor(((x + 0.5) * bitmap.width) / width)];
    }
  }
  return { width, height, pixels };
}

/** An overlay that begins as a veil over everything; `alpha` 0 to 255. */
export function veil(width, height, alpha) {
  const image = new ImageData(width, height);
  for (let at = 3; at < image.data.length; at += 4) image.data[at] = alpha;
  return image;
}

/** Lift the veil where the mask is and tint it; what `hatched` covers gets stripes instead. Same sizes all. */
export function tint(image, mask, colour, alpha, hatched = null, stripe = 4) {
  const { width, data } = image;
  for (let at = 0; at < mask.pixels.length; at++) {
    if (!mask.pixels[at]) continue;
    const striped = hatched?.pixels[at] && ((at % width) + Math.floor(at / width)) % (3 * stripe) >= stripe;
    data.set([...colour, striped ? alpha / 5 : hatched?.pixels[at] ? alpha * 1.6 : alpha], 4 * at);
  }
}

/** Draw the mask's outline, `thick` pixels inside it, with a rim half as wide around. */
export function outline(image, mask, colour, thick, alpha = 255) {
  const { width, height, pixels } = mask;
  const rim = Math.max(1, Math.round(thick / 2));
  const at = (x, y) => x >= 0 && y >= 0 && x < width && y < height && pixels[y * width + x];
  const around = (x, y, far, value) =>
    at(x - far, y) === value || at(x + far, y) === value || at(x, y - far) === value || at(x, y + far) === value;
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const inside = pixels[y * width + x];
      if (inside && (around(x, y, thick, 0) || around(x, y, thick, false))) {
        image.data.set([...colour, alpha], 4 * (y * width + x));
      } else if (!inside && around(x, y, rim, 1)) {
        image.data.set([...RIM.slice(0, 3), Math.min(RIM[3], alpha)], 4 * (y * width + x));
      }
    }
  }
}
