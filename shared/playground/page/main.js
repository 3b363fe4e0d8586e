// The playground: asks the agent, shows what it does while it does it, and keeps hold of sessions.

import { Account } from "./account.js";
import { Api, Refusal } from "./api.js";
import { Conversation } from "./conversation.js";
import { Broken, eventsOf } from "./events.js";
import { Graph } from "./graph.js";
import { keep, kept } from "./kept.js";
import { Numbers } from "./numbers.js";
import { $, announce, count, seconds } from "./page.js";
import { problemBox } from "./problem.js";
import { ServicePanel } from "./service.js";
import { Sessions } from "./sessions.js";
import { Wire } from "./wire.js";

const told = (name) => document.querySelector(`meta[name="${name}"]`).content;
const api = new Api(new URL(".", document.baseURI), told("api"));
const conversation = new Conversation();
const graph = new Graph();
const numbers = new Numbers();
const service = new ServicePanel(api);
const wire = new Wire();
const sessions = new Sessions(api, { onOpen: open, onNew: startNew, onDeleted: deleted });
const account = new Account(api, { onChange: userChanged });

const CUT = new Refusal({
  error: "The stream ended before the answer was whole.",
  detail: "Its last event, the one with done: true, has not come.",
  code: "cut",
});
const NO_EVENT = new Refusal({
  error: "The service sent something that is no event.",
  detail: "See what came back, below On the wire.",
  code: "no_event",
});
const READ_ALOUD = 1500; // characters
const STOPPED = "Stopped. The service keeps nothing of a turn that did not end.";
const NOT_WHOLE = {
  max_iterations: "The allowance of model calls was used up.",
  max_length: "The answer was cut at its greatest length.",
  content_filter: "The model’s provider cut the answer.",
};

let sessionId = null;
let asking = null; // an AbortController while an answer is under way
let latest = 0; // the number of the last attempt to open a session

// --- asking

async function ask(question) {
  const mine = new AbortController();
  begin(mine);
  const answer = conversation.ask(question.query);
  const again = () => {
    if (asking) return;
    answer.remove();
    $("query").focus();
    ask(question);
  };
  try {
    const last = await streamed(question, answer, mine.signal);
    if (mine === asking) finished(question, answer, last);
  } catch (error) {
    if (mine === asking) failed(answer, error, again);
  } finally {
    if (mine === asking) end();
  }
}

function begin(controller) {
  asking = controller;
  $("ask").setAttribute("aria-disabled", "true");
  $("stop").disabled = false;
  $("status").textContent = "Asking.";
  graph.start();
  numbers.start();
}

/** Follow the stream to its last event. Raises a Refusal if there is none, or if it is one. */
async function streamed(question, answer, signal) {
  wire.start(api.url("query/stream"), question, api.token !== null);
  const response = await api.stream(question, signal);
  wire.head(response);
  for await (const { raw, data } of eventsOf(response.body)) {
    signal.throwIfAborted();
    wire.event(raw);
    if (data === null) continue;
    const event = read(data);
    const news = graph.follow(event);
    if (news) $("status").textContent = news;
    if (event.chunk) {
      numbers.piece();
      answer.append(event.chunk);
    }
    if (event.done) return settled(event.metadata ?? {});
  }
  throw CUT;
}

/** An event's data. Students build services that this page then talks to: it expects anything. */
function read(data) {
  try {
    const event = JSON.parse(data);
    if (typeof event?.chunk === "string") return event;
  } catch {
    // no JSON
  }
  throw NO_EVENT;
}

function settled(metadata) {
  numbers.end(metadata);
  if (metadata.error) throw new Refusal(metadata.error, metadata.retry_after);
  return metadata;
}

function finished(question, answer, last) {
  graph.end(true);
  const notes = [];
  if (last.cached) notes.push("From the cache: no model call was needed.");
  if (last.stopped) notes.push(NOT_WHOLE[last.stopped] ?? `Stopped: ${last.stopped}.`);
  answer.finish(notes.join(" "));
  const cost = [
    last.cached ? "from the cache" : last.iterations && count(last.iterations, "model call"),
    last.tokens_used && count(last.tokens_used, "token"),
    last.execution_time && seconds(last.execution_time),
  ];
  $("status").textContent = ["Done", cost.filter(Boolean).join(", ")].filter(Boolean).join(": ");
  announce(`The agent says: ${shortened(answer.text)}`);
  if (!last.session_id) return;
  sessions.used(last.session_id, question.query);
  if (last.session_id !== sessionId) enter(last.session_id);
  $("session-facts").textContent = "";
}

/** Nobody can skim what is read aloud. */
function shortened(text) {
  return text.length <= READ_ALOUD
    ? text
    : `${text.slice(0, READ_ALOUD)} … and more, in the conversation.`;
}

function failed(answer, error, again) {
  graph.end(false);
  if (error.status) graph.clear(); // a refusal, and no agent was at work
  if (error.name === "AbortError") {
    answer.finish(STOPPED);
    $("status").textContent = "Stopped.";
    return;
  }
  const refusal = asRefusal(error);
  wire.refused(refusal);
  answer.fail(problemBox(refusal, again));
  $("status").textContent = "";
  if (refusal.code === "session_not_found" && sessionId) {
    sessions.remove(sessionId);
    enter(null);
  }
}

function asRefusal(error) {
  if (error instanceof Refusal) return error;
  if (error instanceof Broken) return CUT;
  console.error(error);
  return new Refusal({ error: `This page failed: ${error.message}`, code: "page" });
}

function end() {
  asking = null;
  $("ask").removeAttribute("aria-disabled");
  const focused = document.activeElement === $("stop");
  $("stop").disabled = true;
  if (focused) $("query").focus();
  service.check();
}

function stop() {
  asking?.abort();
}

// --- sessions

/** From now on questions go to this session; null starts one. */
function enter(id) {
  sessionId = id;
  keep("session", id);
  sessions.mark(id);
  $("talk-heading").textContent = id ? `Session ${id}` : "New session";
  $("session-facts").textContent = "";
}

async function open(id, { quietly = false } = {}) {
  leave();
  const mine = ++latest;
  try {
    const path = `session/${encodeURIComponent(id)}?include=messages`;
    const session = await api.json(path);
    if (mine !== latest || asking) return;
    enter(id);
    conversation.show(session.messages);
    const used = new Date(session.last_activity).toLocaleString();
    $("session-facts").textContent = `${count(session.message_count, "message")}, last used ${used}`;
    if (session.messages.length) sessions.questions.set(id, session.messages[0].content);
    if (quietly) return;
    $("query").focus();
    announce(`Session opened, with ${count(session.message_count, "message")}.`);
  } catch (refusal) {
    if (mine !== latest) return;
    if (refusal.code === "session_not_found") sessions.remove(id);
    if (quietly) enter(null);
    else $("session-problem").replaceChildren(problemBox(refusal));
  }
}

function startNew() {
  leave();
  enter(null);
  conversation.clear();
  $("query").focus();
}

function deleted(id) {
  if (id !== sessionId) return;
  leave();
  enter(null);
  conversation.clear();
}

/** Stop what is under way for the session that is open, and forget what it said. */
function leave() {
  latest += 1;
  asking?.abort();
  if (asking) end();
  $("status").textContent = "";
  $("session-problem").replaceChildren();
}

// --- users

let lastUser = null;

/** Somebody is in, or nobody any more. What one user saw is not for the next. */
function userChanged(user) {
  if (user === null || (lastUser !== null && user !== lastUser)) {
    keep("session", null);
    location.reload(); // the surest way to forget it all
    return;
  }
  lastUser = user;
  sessions.load();
}

// --- the page

$("ask-form").addEventListener("submit", (submit) => {
  submit.preventDefault();
  const query = $("query").value.trim();
  if (asking || !query) return;
  const question = { query, max_iterations: Number($("iterations").value) };
  if (sessionId) question.session_id = sessionId;
  $("query").value = "";
  ask(question);
});

$("query").addEventListener("keydown", (key) => {
  if (key.key !== "Enter" || key.shiftKey || key.isComposing) return;
  key.preventDefault();
  $("ask-form").requestSubmit();
});

document.addEventListener("keydown", (key) => {
  if (key.key === "Escape" && !$("delete-dialog").open) stop();
});

$("stop").addEventListener("click", stop);

const wide = matchMedia("(min-width: 75rem)");
for (const panel of document.querySelectorAll("#left details")) panel.open = wide.matches;

service.check();
if (told("login") === "yes" && !account.resume()) {
  account.ask(kept("farewell") ?? "");
  keep("farewell", null);
} else {
  lastUser = account.user;
  await sessions.load();
  if (kept("session")) open(kept("session"), { quietly: true });
}
