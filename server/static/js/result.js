// One answer as it grows, event by event.

import { decode } from "./rle.js";
import { readHeatmap } from "./heat.js";

export class Result {
  image = null; // {id, width, height} as the server reads it
  reasoning = "";
  decision = null; // {mask_type, confidence, source, objects}
  masks = []; // [{object, mask_type, rle, bbox, area, score, bitmap}]
  hidden = []; // [{object, rle, fraction, bitmap}]
  heatmaps = []; // [{object, mask_type, width, height, values}]
  drafts = []; // of the last round only; none once it is done
  done = null; // {timings_ms, usage}

  /** Take in one event. */
  async take(event) {
    const { type, id, seq, ms, ...content } = event;
    if (type === "accepted") this.image = event.image ?? null;
    else if (type === "reasoning.delta") this.reasoning += event.text;
    else if (type === "decision") this.decision = content;
    else if (type === "mask.draft") this.#draft(content);
    else if (type === "mask") this.masks.push({ ...content, bitmap: decode(event.rle) });
    else if (type === "hidden") this.hidden.push({ ...content, bitmap: decode(event.rle) });
    else if (type === "heatmap") this.heatmaps.push({ ...content, ...(await readHeatmap(event.png_base64)) });
    else if (type === "done") [this.done, this.drafts] = [content, []];
  }

  /** The number of the round whose drafts stand for the masks, from 1; 0 where none do. */
  get drafted() {
    return this.masks.length || !this.drafts.length ? 0 : this.drafts[0].number + 1;
  }

  /** The masks of one type; drafts until the first of them is there. */
  ofType(maskType) {
    return this.masks.filter((mask) => mask.mask_type === maskType);
  }

  /** The heatmaps of the type that was decided; all of them where it has none. */
  get shownHeatmaps() {
    const decided = this.heatmaps.filter((heatmap) => heatmap.mask_type === this.decision?.mask_type);
    return decided.length ? decided : this.heatmaps;
  }

  /** Which views there is something for. */
  get views() {
    const found = ["image"];
    for (const type of ["modal", "amodal"]) if (this.ofType(type).length) found.push(type);
    if (this.hidden.length) found.push("hidden");
    if (this.heatmaps.length) found.push("heatmap");
    return found;
  }

  /** The view that answers the prompt, once it can be shown. */
  get answer() {
    if (this.decision && this.ofType(this.decision.mask_type).length) return this.decision.mask_type;
    return this.masks[0]?.mask_type ?? "image";
  }

  /** What is downloaded as JSON. */
  get json() {
    const plain = (items) => items.map(({ bitmap, ...content }) => content);
    return { decision: this.decision, masks: plain(this.masks), hidden: plain(this.hidden) };
  }

  #draft(content) {
    this.drafts = this.drafts.filter((draft) => draft.number === content.number);
    this.drafts.push({ ...content, bitmap: decode(content.rle) });
  }
}
