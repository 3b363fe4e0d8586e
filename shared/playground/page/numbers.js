// How quickly an answer came, measured here, and what it cost, as the service reports it.

import { $, seconds } from "./page.js";

const FIELDS = ["first-piece", "pieces", "rate", "time", "tokens", "calls"];

export class Numbers {
  start() {
    this.started = performance.now();
    this.first = this.last = null;
    this.pieces = 0;
    for (const id of FIELDS) $(id).textContent = "–";
  }

  piece() {
    this.last = performance.now();
    this.first ??= this.last;
    this.pieces += 1;
    $("first-piece").textContent = seconds((this.first - this.started) / 1000);
    $("pieces").textContent = this.pieces;
    const writing = (this.last - this.first) / 1000;
    if (writing > 0) $("rate").textContent = `${((this.pieces - 1) / writing).toFixed(0)} a second`;
  }

  end({ execution_time, tokens_used, iterations }) {
    if (typeof execution_time === "number") $("time").textContent = seconds(execution_time);
    $("tokens").textContent = tokens_used ?? "not reported";
    $("calls").textContent = iterations ?? "–";
  }
}
