// COCO's compressed run-length code, as pycocotools writes it.

/** The lengths of the runs, zeros first, column by column. Each is told as its difference to the one before last. */
export function runs(counts) {
  const lengths = [];
  for (let at = 0; at < counts.length; ) {
    let value = 0;
    let shift = 0;
    let bits;
    do {
      bits = counts.charCodeAt(at++) - 48; // five bits of value, one that says whether more follow
      value |= (bits & 31) << shift;
      shift += 5;
    } while (bits & 32);
    if (bits & 16) value |= -1 << shift; // the sign
    lengths.push(lengths.length > 2 ? value + lengths.at(-2) : value);
  }
  return lengths;
}

/** A mask as `{width, height, area, pixels}`, `pixels` 0 or 1 in rows. */
export function decode({ size: [height, width], counts }) {
  const pixels = new Uint8Array(width * height);
  let place = 0;
  let area = 0;
  runs(counts).forEach((length, number) => {
    if (number % 2) {
      area += length;
      for (let at = place; at < place + length; at++) pixels[(at % height) * width + Math.floor(at / height)] = 1;
    }
    place += length;
  });
  return { width, height, area, pixels };
}
