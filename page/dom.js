// SPDX-FileCopyrightText: store-deploy contributors
// SPDX-License-Identifier: Apache-2.0
// Elements. What comes from the master becomes text, never markup.

/** Return an element with properties or attributes, and children: elements or texts. */
export function el(name, told = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(told)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value === true) made.setAttribute(key, "");
    else made.setAttribute(key, value);
  }
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return made;
}

/** The same of a picture. */
export function svg(name, told = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(told)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** Return the element with an ID. */
export function by(id) {
  return document.getElementById(id);
}

/** Put children in the place of those that an element has. */
export function fill(element, ...children) {
  element.replaceChildren(...children.flat(Infinity).filter((child) => child !== null));
}
