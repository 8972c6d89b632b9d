// Short names for what the browser offers.

export const byId = id => document.getElementById(id);

// An element with properties and children; texts are never read as HTML.
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

export function say(text) {
  byId("status").textContent = text;
}

export function number(value, digits = 3) {
  return value.toLocaleString("en", {maximumSignificantDigits: digits});
}
