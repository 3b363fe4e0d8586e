// What went over the wire: the request as a curl command, the events as they came.

import { $ } from "./page.js";

export class Wire {
  constructor() {
    $("copy-curl").addEventListener("click", () => this.#copy());
  }

  start(url, question, loggedIn) {
    $("curl").textContent = curlFor(url, question, loggedIn);
    $("token-note").hidden = !loggedIn;
    $("events").textContent = "";
  }

  head(response) {
    const id = response.headers.get("X-Request-ID");
    this.#add(`HTTP ${response.status}${id ? `, X-Request-ID ${id}` : ""}\n\n`);
  }

  refused({ status, message, detail, code }) {
    if (status) this.#add(`HTTP ${status}\n\n${JSON.stringify({ error: message, detail, code })}`);
  }

  event(raw) {
    this.#add(`${raw}\n\n`);
  }

  #add(text) {
    const place = $("events");
    const atTheEnd = place.scrollHeight - place.scrollTop - place.clientHeight < 40;
    place.append(text);
    if (atTheEnd) place.scrollTop = place.scrollHeight;
  }

  async #copy() {
    const button = $("copy-curl");
    try {
      await navigator.clipboard.writeText($("curl").textContent);
      button.textContent = "Copied";
      setTimeout(() => (button.textContent = "Copy"), 2000);
    } catch { // only https and localhost may write there
      getSelection().selectAllChildren($("curl"));
    }
  }
}

/** For a shell. The token is never part of it: commands end up in histories and on screens. */
export function curlFor(url, question, loggedIn) {
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  return [
    `curl -N ${quoted(url.href)}`,
    ...(loggedIn ? ['-H "Authorization: Bearer $TOKEN"'] : []),
    "-H 'Content-Type: application/json'",
    `-d ${quoted(JSON.stringify(question))}`,
  ].join(" \\\n  ");
}
