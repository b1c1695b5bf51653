// The settings dialog: the API key, in this tab's session storage and nowhere else.

import { apiKey, keepApiKey } from "./api.js";
import { byId } from "./dom.js";

/** Ask for the key. */
export function openSettings() {
  byId("api-key").value = apiKey();
  byId("settings").showModal();
}

/** Call `changed()` when another key has been saved. */
export function watchSettings(changed) {
  const dialog = byId("settings");
  byId("open-settings").addEventListener("click", openSettings);
  dialog.addEventListener("close", () => {
    const key = byId("api-key").value.trim();
    if (dialog.returnValue === "save" && key !== apiKey()) {
      keepApiKey(key);
      changed();
    }
    dialog.returnValue = byId("api-key").value = "";
  });
}
