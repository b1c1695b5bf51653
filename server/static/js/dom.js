// Small words for the document: find an element, make one.

export const byId = (id) => document.getElementById(id);

/** A new element; `properties` are set on it, children are elements or text. */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}
