// The list of sessions: open one, delete one, start a new one.

import { $, announce, count, make } from "./page.js";
import { problemBox } from "./problem.js";

const PAGE = 20;

export class Sessions {
  /** `onOpen(id)` shows a session, `onNew()` leaves it, `onDeleted(id)` says that one is gone. */
  constructor(api, { onOpen, onNew, onDeleted }) {
    this.api = api;
    this.onOpen = onOpen;
    this.onDeleted = onDeleted;
    this.ids = [];
    this.total = 0;
    this.cursor = null;
    this.justUsed = new Set(); // since the list was last asked for
    this.questions = new Map(); // by id: a first question says more than a number does
    $("new-session").addEventListener("click", onNew);
    $("refresh-sessions").addEventListener("click", () => this.load());
    $("more-sessions").addEventListener("click", () => this.load(this.cursor));
  }

  async load(cursor = null) {
    const place = $("session-problem");
    if (!cursor) this.justUsed.clear();
    try {
      const query = new URLSearchParams({ limit: PAGE, ...(cursor && { cursor }) });
      const page = await this.api.json(`sessions?${query}`);
      const before = cursor ? this.ids : [...this.justUsed].reverse();
      const news = cursor ? [] : before.filter((id) => !page.sessions.includes(id));
      this.ids = [...before, ...page.sessions.filter((id) => !before.includes(id))];
      this.total = page.count + news.length;
      this.cursor = page.next_cursor;
      place.replaceChildren();
      this.#draw();
    } catch (refusal) {
      place.replaceChildren(problemBox(refusal));
    }
  }

  /** A session was just used: it is the newest. No request, since each one counts. */
  used(id, question) {
    if (!this.ids.includes(id)) this.total += 1;
    this.justUsed.delete(id);
    this.justUsed.add(id);
    this.ids = [id, ...this.ids.filter((other) => other !== id)];
    if (!this.questions.has(id)) this.questions.set(id, question);
    this.#draw();
  }

  /** `id` is the one that is open, or null. */
  mark(id) {
    this.current = id;
    for (const button of document.querySelectorAll("#session-list .open")) {
      button.setAttribute("aria-current", button.dataset.id === id ? "true" : "false");
    }
  }

  /** It is gone, whoever deleted it. */
  remove(id) {
    if (this.ids.includes(id)) this.total -= 1;
    this.ids = this.ids.filter((other) => other !== id);
    this.justUsed.delete(id);
    this.#draw();
  }

  #draw() {
    $("session-list").replaceChildren(...this.ids.map((id) => this.#row(id)));
    $("session-count").textContent = this.total || "";
    $("no-sessions").hidden = this.ids.length > 0;
    $("more-sessions").hidden = !this.cursor;
    this.mark(this.current ?? null);
  }

  #row(id) {
    const open = make("button", "", { type: "button", className: "open" });
    open.dataset.id = id;
    const question = this.questions.get(id);
    if (question) open.append(make("span", question, { className: "question" }));
    open.append(make("code", id));
    open.addEventListener("click", () => this.onOpen(id));
    const remove = make("button", "Delete", { type: "button", className: "small" });
    remove.setAttribute("aria-label", `Delete session ${id}`);
    remove.addEventListener("click", () => this.#delete(id));
    const row = make("li");
    row.append(open, remove);
    return row;
  }

  async #delete(id) {
    if (!(await confirmed(id))) return;
    const place = $("session-problem");
    place.replaceChildren();
    try {
      await this.api.json(`session/${encodeURIComponent(id)}`, { method: "DELETE" });
    } catch (refusal) {
      if (refusal.code !== "session_not_found") { // then it was gone already
        place.replaceChildren(problemBox(refusal));
        return;
      }
    }
    const next = this.ids[this.ids.indexOf(id) + 1] ?? this.ids.at(-2);
    this.remove(id);
    announce(`Session deleted. ${count(this.total, "session")} left.`);
    this.#focus(next);
    this.onDeleted(id);
  }

  #focus(id) {
    const rows = [...document.querySelectorAll("#session-list .open")];
    (rows.find((row) => row.dataset.id === id) ?? $("new-session")).focus();
  }
}

let settle = () => {}; // the question before, should it still be open

function confirmed(id) {
  const dialog = $("delete-dialog");
  settle(false);
  $("delete-id").textContent = id;
  dialog.returnValue = "cancel";
  dialog.showModal();
  return new Promise((resolve) => {
    settle = resolve;
    dialog.onclose = () => {
      if (!dialog.open) resolve(dialog.returnValue === "delete"); // it may tell late, and be open anew
    };
  });
}
