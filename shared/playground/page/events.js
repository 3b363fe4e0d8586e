// Server-sent events as they arrive: fetch can POST, and EventSource cannot.

/** The connection ended in the middle. */
export class Broken extends Error {}

/** Each event of the body: `raw` as it came, and its data; null for a comment. */
export async function* eventsOf(body) {
  for await (const raw of blocksOf(body)) {
    const data = raw
      .split("\n")
      .filter((line) => line.startsWith("data:"))
      .map((line) => line.slice(5).replace(/^ /, ""));
    yield { raw, data: data.length ? data.join("\n") : null };
  }
}

/** The text between empty lines. What follows the last of them was cut, and is no event. */
async function* blocksOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let pending = "";
  try {
    for (let read; !(read = await next(reader)).done; ) { // Safari has no `for await` for this
      const blocks = (pending + read.value).replace(/\r\n?/g, "\n").split("\n\n");
      pending = blocks.pop();
      yield* blocks;
    }
  } finally {
    reader.cancel().catch(() => {}); // whoever stops listening lets the connection go
  }
}

function next(reader) {
  return reader.read().catch((error) => {
    throw error.name === "AbortError" ? error : new Broken();
  });
}
