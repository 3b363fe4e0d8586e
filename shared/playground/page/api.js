// The service, as this page talks to it: a token, the error bodies, the headers that tell of limits.

/** What the service refused, or failed at: error, detail and code as in its ErrorResponse. */
export class Refusal extends Error {
  constructor({ error, detail = null, code = null }, retryAfter = null, status = null) {
    super(error);
    this.detail = detail;
    this.code = code;
    this.retryAfter = retryAfter;
    this.status = status;
  }
}

const UNREACHABLE = {
  error: "The service cannot be reached.",
  detail: "Is it still running? Look at the terminal that it was started in.",
  code: "unreachable",
};

export class Api {
  token = null;
  onAllowance = () => {};
  onTokenRefused = () => {};

  /** `root` is the URL that all endpoints are below, `root.api` included. */
  constructor(base, prefix) {
    this.base = base;
    this.prefix = prefix.replace(/^\//, "");
  }

  url(path) {
    return new URL([this.prefix, path].filter(Boolean).join("/"), this.base);
  }

  json(path, options) {
    return this.send(this.url(path), options).then((response) => response.json());
  }

  health() {
    return this.send(new URL("health", this.base)).then((response) => response.json());
  }

  /** Ask for a stream. The response is there once the agent has something to say. */
  stream(question, signal) {
    return this.send(this.url("query/stream"), {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(question),
      signal,
    });
  }

  login(form) {
    const body = new URLSearchParams(new FormData(form)); // as a form, not as JSON
    return this.json("auth/login", { method: "POST", body });
  }

  logout() {
    return this.json("auth/logout", { method: "POST" });
  }

  /** Raises a Refusal for everything but a success, and AbortError when it was stopped. */
  async send(url, { headers = {}, ...options } = {}) {
    const token = this.token;
    if (token) headers = { ...headers, Authorization: `Bearer ${token}` };
    let response;
    try {
      response = await fetch(url, { ...options, headers });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Refusal(UNREACHABLE);
    }
    const allowance = allowanceIn(response.headers);
    if (allowance) this.onAllowance(allowance);
    if (response.ok) return response;
    const refusal = await refusalIn(response);
    if (["not_authenticated", "invalid_token"].includes(refusal.code) && token === this.token) {
      this.onTokenRefused(refusal);
    }
    throw refusal;
  }
}

async function refusalIn(response) {
  const seconds = Number.parseInt(response.headers.get("Retry-After"), 10);
  const retryAfter = Number.isNaN(seconds) ? null : seconds;
  let body = null;
  try {
    body = await response.json();
  } catch {
    // not ours: a proxy's page, say
  }
  const other = {
    error: `The service answered with status ${response.status}.`,
    code: `http_${response.status}`,
  };
  return new Refusal(body?.error ? body : other, retryAfter, response.status);
}

/** What `RateLimit: "default";r=97;t=60` and `RateLimit-Policy: "default";q=100;w=60` say. */
function allowanceIn(headers) {
  const number = (name, key) =>
    Number(headers.get(name)?.match(new RegExp(`;\\s*${key}=(\\d+)`))?.[1] ?? Number.NaN);
  const left = number("RateLimit", "r");
  const of = number("RateLimit-Policy", "q");
  if (Number.isNaN(left) || Number.isNaN(of)) return null;
  return { left, of, window: number("RateLimit-Policy", "w"), next: number("RateLimit", "t") };
}
