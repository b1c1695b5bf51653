// The settings dialog: the API key, in this tab's session storage and nowhere else.

import { apiKey, faultOf, keepApiKey } from "./api.js";
import { byId } from "./dom.js";

/** Ask for the key. */
export function openSettings() {
  if (byId("settings").open) return;
  byId("api-key").value = apiKey();
  showFault(faultOf(apiKey()));
  byId("settings").showModal();
}

/** Call `changed()` when another key has been saved. */
export function watchSettings(changed) {
  const dialog = byId("settings");
  byId("open-settings").addEventListener("click", openSettings);
  byId("settings-form").addEventListener("submit", (event) => {
    if (event.submitter?.value !== "save") return;
    const fault = faultOf(entered());
    if (fault) event.preventDefault();
    showFault(fault);
  });
  dialog.addEventListener("close", () => {
    const key = entered();
    if (dialog.returnValue === "save" && key !== apiKey()) {
      keepApiKey(key);
      changed();
    }
    dialog.returnValue = byId("api-key").value = "";
  });
}

const entered = () => byId("api-key").value.trim();

function showFault(fault) {
  byId("api-key").setAttribute("aria-invalid", String(Boolean(fault)));
  byId("api-key-fault").textContent = fault;
}
