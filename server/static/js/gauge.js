// The decision: a line from modal to amodal, and where on it the model stands.

import { byId } from "./dom.js";

/** Show a decision, or none. `confidence` is the probability of the type that was decided on. */
export function showDecision(decision) {
  const gauge = byId("gauge");
  const [fill, mark] = [gauge.querySelector(".gauge-fill"), gauge.querySelector(".gauge-mark")];
  byId("decision-text").textContent = decision ? sentence(decision) : "";
  const warnings = decision?.warnings ?? [];
  byId("warnings").textContent = `Note: ${warnings.join("; ")}.`;
  byId("warnings").hidden = !warnings.length;
  gauge.toggleAttribute("data-chosen", Boolean(decision));
  const amodal = decision ? (decision.mask_type === "amodal" ? decision.confidence : 1 - decision.confidence) : 0.5;
  if (decision) gauge.dataset.chosen = decision.mask_type;
  mark.style.left = `${100 * amodal}%`;
  fill.style.left = `${100 * Math.min(amodal, 0.5)}%`;
  fill.style.width = `${100 * Math.abs(amodal - 0.5)}%`;
  gauge.setAttribute("aria-valuenow", Math.round(100 * amodal));
  gauge.setAttribute("aria-valuetext", decision ? sentence(decision) : "no decision yet");
}

/** A decision in words. */
export function sentence({ mask_type, confidence, source, objects }) {
  const which = mask_type === "modal" ? "Modal, the visible part" : "Amodal, the complete shape";
  const how = source === "request" ? "as the request says" : `probability ${percent(confidence)}`;
  return `${which}: ${how}. ${counted(objects)}.`;
}

export const counted = (objects) => (objects === 0 ? "No such object" : objects === 1 ? "One object" : `${objects} objects`);

/** A share in per cent, never rounded up to certainty. */
export function percent(share) {
  const shown = (100 * share).toFixed(share > 0.99 && share < 1 ? 1 : 0);
  return share < 1 && Number(shown) === 100 ? "> 99.9 %" : `${shown} %`;
}
