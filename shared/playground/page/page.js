// Small things that every part of the page needs.

export const $ = (id) => document.getElementById(id);

/** An element with text in it. What it says is never read as HTML. */
export function make(tag, text = "", properties = {}) {
  const element = Object.assign(document.createElement(tag), properties);
  if (text) element.textContent = text;
  return element;
}

/** For screen readers alone. The same words twice are said twice. */
export function announce(text) {
  $("announcement").replaceChildren(make("span", text));
}

/** "1 message", "2 messages" */
export function count(number, noun) {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}

export function seconds(value) {
  return value < 10 ? `${value.toFixed(2)} s` : `${value.toFixed(1)} s`;
}
