// The drawing of the agent's graph, lit by what the events tell. A test holds it to the code's graph.

import { $, make } from "./page.js";

export class Graph {
  constructor() {
    this.drawing = $("graph");
    this.steps = $("steps");
  }

  clear() {
    for (const part of this.drawing.querySelectorAll("[data-state]")) delete part.dataset.state;
    this.steps.replaceChildren();
    $("no-steps").hidden = false;
  }

  /** A question is on its way to the supervisor. */
  start() {
    this.clear();
    this.#light(this.#edge("__start__", "supervisor"), this.#node("__start__"));
    this.#light(this.#node("supervisor"));
  }

  /** What an event says of the agents; a sentence when it is news, else null. */
  follow({ chunk, metadata }) {
    const agent = metadata?.agent;
    if (!agent) return null;
    if (metadata.tool) return this.#toolCall(agent, metadata.tool);
    return chunk ? this.#writes(agent) : null;
  }

  /** The answer is out, or the turn ended without one. */
  end(answered) {
    if (answered) this.#light(this.#edge("supervisor", "__end__"), this.#node("__end__"));
    this.#dim();
  }

  #toolCall(agent, { name, arguments: given }) {
    const handover = this.drawing.querySelector(`[data-call="${CSS.escape(name)}"]`);
    const tool = this.drawing.querySelector(`[data-tool="${CSS.escape(name)}"]`);
    this.#note(agent, name, given);
    if (agent === "supervisor" && handover) {
      const specialist = handover.dataset.edge.split(" ")[1];
      this.#dim(this.#node("__start__"), this.#node("supervisor"));
      this.#light(handover, this.#node(specialist));
      return `The supervisor asks the ${specialist}.`;
    }
    if (tool) {
      this.#light(tool, this.drawing.querySelector(`[data-uses="${CSS.escape(name)}"]`));
      this.#light(this.#node(agent));
    }
    return `The ${agent} uses ${name}.`;
  }

  #writes(agent) {
    const node = this.#node(agent);
    if (!node || (node.dataset.state === "active" && this.writing === node)) return null;
    for (const part of this.drawing.querySelectorAll('[data-node][data-state="active"]')) {
      if (part !== node) this.#light(this.#edge(part.dataset.node, agent));
    }
    this.#dim(...this.drawing.querySelectorAll("[data-node], [data-tool], [data-call], [data-uses]"));
    this.#light(node);
    this.writing = node;
    return `The ${agent} writes.`;
  }

  #note(agent, name, given) {
    const step = make("li");
    step.append(make("strong", agent), " ", make("code", name), " ");
    step.append(make("span", Object.values(given ?? {}).map(asText).join(", ")));
    this.steps.append(step);
    $("no-steps").hidden = true;
  }

  #light(...parts) {
    for (const part of parts) if (part) part.dataset.state = "active";
  }

  #dim(...parts) {
    const chosen = parts.length ? parts : this.drawing.querySelectorAll('[data-state="active"]');
    for (const part of chosen) if (part.dataset.state === "active") part.dataset.state = "done";
    this.writing = null;
  }

  #node(name) {
    return this.drawing.querySelector(`[data-node="${CSS.escape(name)}"]`);
  }

  #edge(from, to) {
    return this.drawing.querySelector(`[data-edge="${CSS.escape(from)} ${CSS.escape(to)}"]`);
  }
}

function asText(value) {
  return typeof value === "string" ? value : JSON.stringify(value);
}
