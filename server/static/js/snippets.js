// The request as a command or a program, to be run elsewhere. The key is named, never shown.

import { byId } from "./dom.js";

const KEY_VARIABLE = "R2SM_API_KEY";

/** For a shell. `options` is the request without its image. */
export function asCurl(url, options, file, withKey) {
  const lines = [
    `curl -s ${quoted(`${url}/v1/segment`)}`,
    ...(withKey ? [`-H "Authorization: Bearer $${KEY_VARIABLE}"`] : []),
    `-F ${quoted(`image=@${JSON.stringify(file)}`)}`, // curl takes names with commas and semicolons in double quotes
    `--form-string ${quoted(`request=${JSON.stringify(options)}`)}`,
  ];
  return lines.join(" \\\n  ");
}

/** For Python with httpx. */
export function asPython(url, options, file, withKey) {
  const key = withKey ? `    headers={"Authorization": f"Bearer {os.environ['${KEY_VARIABLE}']}"},\n` : "";
  return `import json
${withKey ? "import os\n" : ""}from pathlib import Path

import httpx

response = httpx.post(
    ${JSON.stringify(`${url}/v1/segment`)},
    files={"image": Path(${JSON.stringify(file)}).read_bytes()},
    data={"request": json.dumps(${literal(options)})},
${key}    timeout=120,
)
response.raise_for_status()
answer = response.json()
print(answer["decision"], [mask["area"] for mask in answer["masks"]])
`;
}

/** Show a text to be copied by hand, where the browser lets no page write to the clipboard. */
export function showSnippet(text, what) {
  byId("snippet-title").textContent = `The request as ${what}`;
  byId("snippet-text").value = text;
  byId("snippet").showModal();
  byId("snippet-text").select();
}

function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** JSON as Python writes it. */
function literal(value) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (typeof value === "object") {
    return `{${Object.entries(value).map(([key, inner]) => `${JSON.stringify(key)}: ${literal(inner)}`).join(", ")}}`;
  }
  return JSON.stringify(value);
}
