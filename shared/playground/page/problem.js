// An error as a person wants it: what happened, what to change, its code, and when to try again.

import { announce, count, make } from "./page.js";

/** A box for the refusal. With `again`, a button that waits for Retry-After to pass. */
export function problemBox(refusal, again = null) {
  const box = make("div", "", { className: "problem" });
  const words = make("div", "", { role: "alert" });
  words.append(make("p", refusal.message, { className: "what" }));
  if (refusal.detail) words.append(make("p", refusal.detail));
  if (refusal.code) {
    const code = make("p", "Code: ", { className: "quiet" });
    code.append(make("code", refusal.code));
    words.append(code);
  }
  box.append(words);
  const wait = refusal.retryAfter ?? 0;
  const row = make("div", "", { className: "row" });
  const button = again && make("button", "Ask again", { type: "button" });
  button?.addEventListener("click", () => {
    if (button.getAttribute("aria-disabled") !== "true") again();
  });
  if (button) row.append(button);
  if (wait > 0) {
    words.append(make("p", `Try again in ${count(wait, "second")}.`, { className: "unseen" }));
    row.append(countdown(wait, button));
  }
  if (row.hasChildNodes()) box.append(row);
  return box;
}

/** Seconds that run down, seen and not read aloud; only the end is announced. */
function countdown(wait, button) {
  const until = performance.now() + wait * 1000;
  const shown = make("span", "", { className: "countdown" });
  shown.setAttribute("aria-hidden", "true");
  button?.setAttribute("aria-disabled", "true");
  const tick = () => {
    const left = Math.ceil((until - performance.now()) / 1000);
    if (left > 0) {
      shown.textContent = `Try again in ${left} s`;
      setTimeout(tick, 200);
      return;
    }
    shown.textContent = "You can try again now.";
    button?.removeAttribute("aria-disabled");
    if (shown.isConnected) announce("You can try again now.");
  };
  tick();
  return shown;
}
