// The heatmap: probabilities out of a grey PNG, and their colours.

const STOPS = [ // matplotlib's inferno, at eight places
  [0, 0, 4], [40, 11, 84], [101, 21, 110], [159, 42, 99], [212, 72, 66], [245, 125, 21], [250, 193, 39], [252, 255, 164],
];

/** A heatmap as `{width, height, values}`, `values` 0 to 255 in rows. */
export async function readHeatmap(base64) {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const bitmap = await createImageBitmap(new Blob([bytes], { type: "image/png" }), { colorSpaceConversion: "none" });
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d");
  context.drawImage(bitmap, 0, 0);
  const { data } = context.getImageData(0, 0, width, height);
  return { width, height, values: Uint8Array.from({ length: width * height }, (_, at) => data[4 * at]) };
}

/** The largest of several heatmaps, cell by cell. */
export function largest([first, ...others]) {
  const values = first.values.map((value, at) => others.reduce((most, other) => Math.max(most, other.values[at]), value));
  return { ...first, values };
}

/** A picture of a heatmap, to be drawn over the image: what is unlikely is dark, what is likely glows. */
export function drawn(heatmap) {
  const { width, height, values } = heatmap;
  const image = new ImageData(width, height);
  values.forEach((value, at) => image.data.set([...colour(value / 255), 150 + 80 * (value / 255)], 4 * at));
  const canvas = new OffscreenCanvas(width, height);
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

function colour(share) {
  const place = share * (STOPS.length - 1);
  const below = Math.min(Math.floor(place), STOPS.length - 2);
  return STOPS[below].map((start, channel) => start + (STOPS[below + 1][channel] - start) * (place - below));
}
