// How the service is: its dependencies, and what is left of one's allowance.

import { $, make } from "./page.js";

export class ServicePanel {
  constructor(api) {
    this.api = api;
    api.onAllowance = (allowance) => this.#allowance(allowance);
    $("check-health").addEventListener("click", () => this.check());
  }

  /** Asked at the start, after each answer, and on demand: not by a clock, which would fill logs. */
  async check() {
    try {
      const { status, dependencies = {}, degraded = false } = await this.api.health();
      this.#show(degraded ? "degraded" : status, dependencies);
    } catch (refusal) {
      const words = { 503: "not ready", null: "not reached" };
      this.#show(words[refusal.status] ?? "failing", {}, refusal);
    }
  }

  #show(word, dependencies, refusal = null) {
    $("health").textContent = word;
    $("health").dataset.state = word === "healthy" ? "up" : "down";
    $("dependencies").replaceChildren(
      ...Object.entries(dependencies).flatMap(([name, state]) => {
        const shown = make("dd", state);
        shown.dataset.state = state;
        return [make("dt", name.replaceAll("_", " ")), shown];
      }),
    );
    const problem = $("health-problem");
    problem.hidden = refusal === null;
    problem.textContent = refusal ? [refusal.message, refusal.detail].filter(Boolean).join(" ") : "";
  }

  #allowance({ left, of, window, next }) {
    $("allowance").hidden = false;
    const meter = $("allowance-left");
    Object.assign(meter, { max: of, value: left, low: of / 4, high: of / 2, optimum: of });
    meter.textContent = `${left} of ${of}`;
    const more = left < of ? ` One more in ${next} s.` : "";
    $("allowance-text").textContent = `${left} of ${of} in ${window} s.${more}`;
  }
}
