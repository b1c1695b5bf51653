// The form: what is asked besides the prompt, as far as this server takes it.

import { byId, make } from "./dom.js";

const TYPES = {
  both: "both, and the hidden part",
  auto: "the one that the prompt asks for",
  modal: "modal: the visible part",
  amodal: "amodal: the complete shape",
};
const MOST_OBJECTS = 8;
const DRAFTS = 2;
const DEFAULTS = { mask_type: "auto", reasoning: "full", objects: "auto" };

/** Fill the selects; `offers` as `api.offers` tells them, `types` the mask types of the model. */
export function offerOptions(offers, types) {
  const known = Object.keys(TYPES).filter((type) => types.includes(type));
  fill("mask-type", known.map((type) => option(type, TYPES[type])));
  const numbers = Array.from({ length: MOST_OBJECTS }, (_, index) => option(index + 1, index + 1));
  fill("objects", [option("auto", "as many as the prompt means"), ...numbers]);
  const drafts = Array.from({ length: offers.drafts + 1 }, (_, number) => option(number, number || "none"));
  fill("drafts", drafts, Math.min(DRAFTS, offers.drafts));
  byId("drafts").hidden = byId("drafts-label").hidden = !offers.drafts;
}

/** The request as the form has it, without the image; what is the server's default is left out. */
export function chosenOptions(points) {
  const objects = byId("objects").value;
  const prompt = byId("prompt").value.trim();
  const drafts = Number(byId("drafts").value);
  const options = prompt
    ? {
        prompt,
        mask_type: byId("mask-type").value,
        reasoning: byId("reasoning").value,
        objects: objects === "auto" ? objects : Number(objects),
        include: ["reasoning", "heatmap"],
        ...(drafts && { drafts }),
      }
    : { mask_type: "modal" }; // points alone say nothing of what is hidden
  if (points.length) options.points = points;
  return Object.fromEntries(Object.entries(options).filter(([name, value]) => DEFAULTS[name] !== value));
}

/** Fill a select; what is chosen stays chosen where it is still offered, else the option at `first` is. */
function fill(id, options, first = 0) {
  const select = byId(id);
  const { value } = select;
  select.replaceChildren(...options);
  select.value = value;
  if (select.selectedIndex < 0) select.selectedIndex = first;
}

function option(value, text) {
  return make("option", { value, textContent: text });
}
