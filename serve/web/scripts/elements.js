// Making elements: names, properties and children in one call.

/** An element. `made` sets properties, or attributes where a name has a dash or is one of no property. */
export function make(tag, made = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(made)) {
    if (name in element) element[name] = value;
    else if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export function at(id) {
  return document.getElementById(id);
}
