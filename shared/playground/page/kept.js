// What survives a reload of this tab, and not the tab: sessionStorage. Some browsers forbid it.

export function keep(name, value) {
  try {
    if (value === null) sessionStorage.removeItem(`playground.${name}`);
    else sessionStorage.setItem(`playground.${name}`, JSON.stringify(value));
  } catch {
    // then a reload starts afresh
  }
}

export function kept(name) {
  try {
    return JSON.parse(sessionStorage.getItem(`playground.${name}`));
  } catch {
    return null;
  }
}
