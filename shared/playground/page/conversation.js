// What was asked and answered in the open session.

import { $, make } from "./page.js";

const NEAR_THE_END = 80; // pixels from the end within which new text keeps the end in view

export class Conversation {
  constructor() {
    this.scroller = $("conversation");
    this.list = $("messages");
  }

  clear() {
    this.list.replaceChildren();
    this.#nothing(true);
  }

  show(messages) {
    this.clear();
    for (const { role, content } of messages) this.#add(role).words.textContent = content;
    this.scroller.scrollTop = this.scroller.scrollHeight;
  }

  /** A question, and the place of its answer, which is then filled piece by piece. */
  ask(question) {
    const asked = this.#add("user");
    asked.words.textContent = question;
    const answer = new Answer(this.#add("assistant"), asked.item, this.scroller);
    this.scroller.scrollTop = this.scroller.scrollHeight;
    return answer;
  }

  #add(role) {
    const item = make("li", "", { className: role });
    const words = make("div", "", { className: "words" });
    item.append(make("h3", role === "user" ? "You" : "Agent"), words);
    this.list.append(item);
    this.#nothing(false);
    return { item, words };
  }

  #nothing(shown) {
    $("nothing-yet").hidden = !shown;
  }
}

class Answer {
  constructor({ item, words }, question, scroller) {
    this.item = item;
    this.words = words;
    this.question = question;
    this.scroller = scroller;
    item.setAttribute("aria-busy", "true");
  }

  get text() {
    return this.words.textContent;
  }

  append(piece) {
    this.#stayAtTheEnd(() => this.words.append(piece));
  }

  /** It is over; a note says what is special about it. */
  finish(note = "") {
    this.item.removeAttribute("aria-busy");
    if (note) {
      this.#stayAtTheEnd(() => this.item.append(make("p", note, { className: "note quiet" })));
    }
  }

  fail(box) {
    this.finish(this.text ? "Not the whole answer." : "");
    this.#stayAtTheEnd(() => this.item.append(box));
  }

  /** Take question and answer away again, for another attempt. */
  remove() {
    this.question.remove();
    this.item.remove();
  }

  #stayAtTheEnd(change) {
    const { scrollHeight, scrollTop, clientHeight } = this.scroller;
    const atTheEnd = scrollHeight - scrollTop - clientHeight < NEAR_THE_END;
    change();
    if (atTheEnd) this.scroller.scrollTop = this.scroller.scrollHeight;
  }
}
