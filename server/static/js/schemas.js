// JSON schemas in words: the type of a value in one line, an object's fields as a table.

import { make } from "./dom.js";

/** What a schema allows, in one line; other schemas are linked. */
export function typeOf(schema) {
  const line = make("span");
  line.append(...pieces(schema));
  return line;
}

function pieces(schema) {
  if (schema.$ref) return [link(schema.$ref)];
  const forms = schema.anyOf ?? schema.oneOf;
  if (forms && !schema.properties) return joined(forms.map(pieces), " or ");
  if ("const" in schema) return [code(schema.const)];
  if (schema.enum) return joined(schema.enum.map((value) => [code(value)]), " or ");
  if (schema.type === "array") return ["list of ", ...(schema.items ? pieces(schema.items) : ["anything"])];
  if (schema.type === "object" && schema.additionalProperties?.type) return ["object of ", ...pieces(schema.additionalProperties)];
  return [`${schema.format ?? schema.type ?? "anything"}${bounds(schema)}`];
}

/** The fields of an object; of anything else, its type. */
export function schemaTable(schema) {
  if (!schema.properties) return make("p", {}, typeOf(schema));
  const required = new Set(schema.required ?? []);
  const rows = Object.entries(schema.properties).map(([name, field]) => row(name, field, required.has(name)));
  const head = make("tr", {}, ...["field", "value", "default", "meaning"].map((textContent) => make("th", { textContent, scope: "col" })));
  return make("div", { className: "table", tabIndex: 0 }, make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows)));
}

function row(name, field, required) {
  const usual = required ? make("span", { className: "required", textContent: "required" }) : "default" in field ? code(field.default) : "";
  return make(
    "tr",
    {},
    make("td", { textContent: name }),
    make("td", {}, typeOf(field)),
    make("td", {}, usual),
    make("td", { textContent: (field.description ?? "").replaceAll("`", "") }),
  );
}

function bounds({ minimum, maximum, minLength, maxLength, minItems, maxItems }) {
  const range = (low, high, what) => (low === undefined && high === undefined ? "" : `, ${low ?? 0} to ${high ?? "any"}${what}`);
  return range(minimum, maximum, "") || range(minLength, maxLength, " characters") || range(minItems, maxItems, " items");
}

function link(reference) {
  const name = reference.split("/").at(-1);
  return make("a", { href: `#${name.toLowerCase()}`, textContent: name });
}

function joined(lists, word) {
  return lists.flatMap((list, index) => (index ? [word, ...list] : list));
}

function code(value) {
  return make("code", { textContent: JSON.stringify(value) });
}
